//! Configuration files: what loads, and how mistakes are told.
use super::*;
use crate::contract::tests_support::contract;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Own {
    depth: u32,
}

const SAMPLE: &str = r#"
bot:
  name: "BotName"
  version: "1.0.0"
  enabled: true

triggers:
  - type: "event"
    pattern: "build.completed"

actions:
  - type: "execute"
    command: "run-tests"

constraints:
  max_concurrent_jobs: 5
  timeout: 3600
  retry_policy:
    max_attempts: 3
    backoff: "exponential"

dependencies:
  - "BuildBot"

outputs:
  - type: "message"
    destination: "NotificationBot"
"#;

fn load_text(text: &str, overrides: &[(&str, &str)]) -> Result<Loaded<Own>, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let mut c = contract("BotName", &["build.completed"]);
    c.actions = vec!["run-tests".into()];
    c.dependencies = vec!["BuildBot".parse().unwrap()];
    let overrides = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    load(file.path(), &overrides, &c)
}

#[test]
fn the_documented_sample_loads() {
    let loaded = load_text(SAMPLE, &[]).unwrap();
    assert_eq!(loaded.config.constraints, Constraints::default());
    assert_eq!(loaded.hash.len(), 16);
}

#[test]
fn the_environment_overrides_and_changes_the_hash() {
    let loaded =
        load_text(SAMPLE, &[("LOTA_CONFIG__CONSTRAINTS__TIMEOUT", "60"), ("LOTA_CONFIG__SETTINGS__DEPTH", "7")])
            .unwrap();
    assert_eq!((loaded.config.constraints.timeout, loaded.config.settings.depth), (60, 7));
    assert_ne!(loaded.hash, load_text(SAMPLE, &[]).unwrap().hash);
}

#[test]
fn how_many_jobs_may_wait_is_checked() {
    let with = |value| load_text(SAMPLE, &[("LOTA_CONFIG__CONSTRAINTS__MAX_WAITING_JOBS", value)]);
    assert_eq!(with("1000").unwrap().config.constraints.max_waiting_jobs, Some(1000));
    assert!(with("0").unwrap_err().to_string().contains("max_waiting_jobs"));
}

#[test]
fn all_mistakes_are_told_at_once_with_their_lines() {
    let text = SAMPLE
        .replace("max_concurrent_jobs: 5", "max_concurrent_jobs: 0")
        .replace("timeout: 3600", "timeout: soon")
        .replace("version: \"1.0.0\"", "verzion: 1");
    let e = load_text(&text, &[]).unwrap_err();
    let lines: Vec<_> = e.mistakes.iter().filter_map(|m| m.line).collect();
    assert!(e.mistakes.len() >= 3 && lines.contains(&16) && lines.contains(&17), "{e}");
    assert!(e.to_string().contains("verzion"), "{e}");
}

#[test]
fn what_the_contract_does_not_have_is_refused() {
    let text = SAMPLE
        .replace("build.completed", "deploy.*")
        .replace("run-tests", "rm -rf /")
        .replace("\"BuildBot\"", "LintBot")
        .replace("BotName", "OtherBot");
    let e = load_text(&text, &[]).unwrap_err();
    assert_eq!(e.mistakes.len(), 4, "{e}");
    assert_eq!(e.mistakes[1].line, Some(9), "{e}");
}

#[test]
fn schedules_are_checked_before_anything_starts() {
    let with = |schedules: &str| SAMPLE.replace("triggers:\n", &format!("triggers:\n{schedules}"));
    let nightly = "  - {type: schedule, name: nightly, cron: '0 3 * * *', timezone: Europe/Zurich, data: {a: 1}}\n";
    let loaded = load_text(&with(nightly), &[]).unwrap();
    assert!(matches!(&loaded.config.triggers[0], Trigger::Schedule { name, .. } if name == "nightly"));
    for (schedules, field, words) in [
        (nightly.replace("0 3 * * *", "61 3 * * *"), "triggers.0.cron", "minute, hour"),
        (nightly.replace("Europe/Zurich", "Europe/Zurch"), "triggers.0.timezone", "Europe/Zurich"),
        (nightly.replace("nightly", "''"), "triggers.0.name", "expected"),
        (nightly.replace("0 3 * * *", "0 3 31 2 *"), "triggers.0.cron", "never"),
        (nightly.repeat(2), "triggers.1.name", "already"),
        (nightly.replace("cron:", "crno:"), "triggers.0", "cron"),
        (nightly.replace("schedule", "scedule"), "triggers.0", "schedule"),
    ] {
        let e = load_text(&with(&schedules), &[]).unwrap_err();
        let told = e.to_string();
        assert!(told.contains(field) && told.contains(words) && e.mistakes[0].line.is_some(), "{told}");
    }
}

#[test]
fn broken_yaml_is_told_with_its_line() {
    let e = load_text("bot:\n  name: [\n", &[]).unwrap_err();
    assert!(e.mistakes[0].line.is_some(), "{e}");
}

#[test]
fn patterns_are_those_of_topics() {
    for (p, t, fits) in [
        ("build.*", "build.completed", true),
        ("#", "a.b.c", true),
        ("a.#", "a", true),
        ("*", "a.b", false),
        ("a.*.c", "a.b.c", true),
    ] {
        assert_eq!(pattern_fits(p, t), fits, "{p} {t}");
    }
}
