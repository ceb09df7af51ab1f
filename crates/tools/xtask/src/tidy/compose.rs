//! Rules about docker-compose.yml: every bot is a service, confined, with what is its own and nothing of another's.
use serde_json::{Value, json};

use super::Report;
use super::tree::Tree;

const FILE: &str = "docker-compose.yml";
/// Services that hold the fleet's folder with every user's password.
const KEEPERS: [&str; 2] = ["init", "lota"];
/// What the monitor reads the broker's figures with.
const METRICS: &str = "metrics-secrets:/fleet/secrets/lota-metrics:ro";

/// Bots are known by their files in deploy/config.
pub(super) fn services(tree: &Tree, report: &mut Report) {
    let bots: Vec<&str> = tree
        .files()
        .filter_map(|(path, _)| path.strip_prefix("deploy/config/")?.strip_suffix(".yaml"))
        .filter(|slug| slug.ends_with("-bot"))
        .collect();
    if bots.is_empty() {
        return;
    }
    for wrong in mistakes(tree.text(FILE).unwrap_or_default(), &bots) {
        report.add(
            "compose",
            FILE,
            1,
            wrong,
            "do as build-bot's service does, and name the bot's volumes in `x-fleet`",
        );
    }
}

fn mistakes(text: &str, bots: &[&str]) -> Vec<String> {
    let file: Value = match serde_saphyr::from_str(text) {
        Ok(file) => file,
        Err(error) => return vec![format!("it cannot be read: {error}")],
    };
    let mut wrong = Vec::new();
    for slug in bots {
        // As its program and its image are called.
        let name = if *slug == "monitor-bot" { "monitor" } else { slug };
        let service = &file["services"][name];
        if service.is_null() {
            wrong.push(format!("{slug} is no service"));
            continue;
        }
        wrong.extend(of_service(service, slug, name).into_iter().map(|what| format!("{name} {what}")));
        let secrets = format!("{slug}-secrets:/fleet/secrets/{slug}");
        for keeper in KEEPERS.iter().filter(|keeper| !volumes(&file["services"][**keeper]).contains(&secrets.as_str()))
        {
            wrong.push(format!("{keeper} lacks {secrets}, so {slug} gets no password"));
        }
        for volume in [(*slug).to_owned(), format!("{slug}-secrets")] {
            if file["volumes"].get(&volume).is_none() {
                wrong.push(format!("the volume {volume} is missing"));
            }
        }
    }
    wrong
}

fn of_service(service: &Value, slug: &str, name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (field, wanted) in [
        ("read_only", json!(true)),
        ("cap_drop", json!(["ALL"])),
        ("security_opt", json!(["no-new-privileges:true"])),
        ("user", json!("10001:10001")),
        ("restart", json!("unless-stopped")),
    ] {
        if service[field] != wanted {
            wrong.push(format!("needs `{field}: {wanted}`"));
        }
    }
    for field in ["mem_limit", "pids_limit", "depends_on", "profiles", "logging"] {
        if service[field].is_null() {
            wrong.push(format!("needs `{field}`"));
        }
    }
    if !service["image"].as_str().is_some_and(|image| image.contains(&format!("/{name}:"))) {
        wrong.push(format!("needs an image of its own, …/{name}:…"));
    }
    let own = format!("{slug}-secrets:/fleet/secrets/{slug}:ro");
    let has = volumes(service);
    for volume in [format!("{slug}:/var/lib/lota"), own.clone()] {
        if !has.contains(&volume.as_str()) {
            wrong.push(format!("needs the volume {volume}"));
        }
    }
    let others = has.into_iter().filter(|volume| {
        let is_secret = volume.contains("secrets") || volume.starts_with("fleet:") || volume.starts_with("broker");
        is_secret && *volume != own && !(name == "monitor" && *volume == METRICS)
    });
    wrong.extend(others.map(|volume| format!("has {volume}, which is not its own")));
    let password = format!("/fleet/secrets/{slug}/password");
    if service["environment"]["LOTA_AMQP_PASSWORD_FILE"] != json!(password) {
        wrong.push(format!("needs LOTA_AMQP_PASSWORD_FILE: {password}"));
    }
    wrong
}

fn volumes(service: &Value) -> Vec<&str> {
    service["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = include_str!("../../../../../docker-compose.yml");

    #[test]
    fn a_bot_that_is_missing_is_told() {
        assert_eq!(mistakes(OURS, &["build-bot", "monitor-bot"]), Vec::<String>::new());
        assert_eq!(mistakes(OURS, &["note-bot"]), ["note-bot is no service"]);
    }

    #[test]
    fn what_is_anothers_or_not_confined_is_told() {
        for (from, to, what) in [
            ("- test-bot:/var/lib/lota", "- build-bot:/var/lib/lota", "needs the volume test-bot:/var/lib/lota"),
            ("- test-bot:/var/lib/lota", "- fleet:/fleet", "has fleet:/fleet, which is not its own"),
            ("test-bot-secrets:/fleet/secrets/test-bot:ro", "build-bot-secrets:/x:ro", "has build-bot-secrets:/x:ro"),
            ("  - test-bot-secrets:/fleet/secrets/test-bot\n", "", "init lacks test-bot-secrets"),
            ("cap_drop: [ALL]", "cap_drop: []", "needs `cap_drop"),
            ("  test-bot-secrets:\n", "", "the volume test-bot-secrets is missing"),
        ] {
            assert!(OURS.contains(from), "{from}");
            let told = mistakes(&OURS.replace(from, to), &["test-bot"]);
            assert!(told.iter().any(|told| told.contains(what)), "{what}: {told:?}");
        }
    }
}
