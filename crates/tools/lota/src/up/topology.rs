//! The topology: what the broker has to hold for the installed bots and the granted publishers.
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use bot_messages::{
    Contract, OutsidePublisher, catalogue,
    contract::control_types,
    keys,
    pipeline::{FILE_BYTES_MAX, YamlMistake, read_yaml},
    topology::Topology,
};
use bot_provision::{ApplyOptions, Change, Management, apply, verify};
use clap::Subcommand;
use serde::Deserialize;

use super::{credentials, say::say};
use crate::{
    exit::{Exit, OrExit},
    home::Home,
};

/// What `make gen` wrote of all bots.
const CONTRACTS: &str = include_str!("../../../../../deploy/rabbitmq/contracts.json");

#[derive(Debug, clap::Args)]
pub(crate) struct TopologyArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make the broker hold exactly what the contracts say
    Apply {
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Say where the broker differs; exit 1 if it does
    Verify,
    /// Who may say what to whom
    Show {
        /// The whole topology as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publishers {
    #[serde(default)]
    publishers: Vec<OutsidePublisher>,
}

/// The contracts of the bots of this release.
pub(crate) fn contracts() -> anyhow::Result<Vec<Contract>> {
    serde_json::from_str(CONTRACTS).context("deploy/rabbitmq/contracts.json cannot be read: run `make gen`")
}

fn publishers(home: &Home) -> anyhow::Result<Vec<OutsidePublisher>> {
    let file = home.join("config/publishers.yaml");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("{} cannot be read", file.display())),
    };
    granted(&text).map_err(|YamlMistake { at, message }| {
        let at = at.map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
        anyhow!("{}{at}: {message}", file.display())
    })
}

fn granted(text: &str) -> Result<Vec<OutsidePublisher>, YamlMistake> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("it has {} bytes: at most {FILE_BYTES_MAX} are read", text.len());
        return Err(YamlMistake { at: None, message });
    }
    let read: Option<Publishers> = read_yaml(text)?;
    Ok(read.map(|read| read.publishers).unwrap_or_default())
}

/// What the broker has to hold: without users who are shut out.
pub(crate) fn of(home: &Home) -> anyhow::Result<Topology> {
    let mut topology = all_of(home)?;
    let shut_out = credentials::revoked(home)?;
    topology.users.retain(|user| !shut_out.contains(&user.name));
    Ok(topology)
}

pub(crate) fn all_of(home: &Home) -> anyhow::Result<Topology> {
    let granted = publishers(home).or_exit(Exit::Config)?;
    Topology::new(&contracts()?, &granted).context("config/publishers.yaml grants what cannot be").or_exit(Exit::Config)
}

/// Applies the topology; every user's password is in the fleet's folder.
pub(crate) async fn apply_to(
    home: &Home,
    management: &Management,
    options: ApplyOptions,
) -> anyhow::Result<Vec<Change>> {
    let topology = of(home)?;
    let mut passwords = std::collections::BTreeMap::new();
    for user in &topology.users {
        passwords.insert(user.name.clone(), home.password(&user.name)?);
    }
    let password = |user: &str| passwords.get(user).cloned().unwrap_or_else(|| bot_provision::Secret::random(40));
    apply(management, &topology, &password, options).await.or_exit(Exit::Unavailable)
}

pub(crate) async fn topology(home: &Home, args: &TopologyArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Apply { dry_run } => {
            let options = ApplyOptions { dry_run: *dry_run, ..ApplyOptions::default() };
            let changes = apply_to(home, &home.management()?, options).await?;
            for change in &changes {
                say(change);
            }
            say(format_args!("{} {}", changes.len(), if *dry_run { "changes would be made" } else { "changes" }));
        }
        What::Verify => {
            let drift = verify(&home.management()?, &of(home)?).await?;
            for d in &drift {
                say(d);
            }
            if !drift.is_empty() {
                say(format_args!("{} differences: `lota topology apply` mends them", drift.len()));
                return Ok(ExitCode::FAILURE);
            }
            say("the broker holds exactly what the contracts say");
        }
        What::Show { json: true } => say(serde_json::to_string_pretty(&of(home)?)?),
        What::Show { json: false } => show(&of(home)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Publisher × key × who hears it.
fn show(topology: &Topology) {
    say(format_args!("{:<16} {:<34} heard by", "publisher", "key"));
    let mut rows: std::collections::BTreeMap<(&str, &str), Vec<&str>> = std::collections::BTreeMap::new();
    for b in &topology.bindings {
        if let Some(publisher) = b.source.strip_prefix(keys::EGRESS_PREFIX) {
            let hearers = rows.entry((publisher, &b.routing_key)).or_default();
            if let Some(bot) = b.destination.strip_suffix(".work").or_else(|| b.destination.strip_suffix(".control")) {
                hearers.push(bot);
            }
        }
    }
    for ((publisher, key), hearers) in rows {
        say(format_args!(
            "{publisher:<16} {key:<34} {}",
            if hearers.is_empty() { "(taps only)".to_owned() } else { hearers.join(", ") }
        ));
    }
    let known = catalogue::all().len();
    say(format_args!(
        "{known} message types, {} of them commands every bot hears from the operator",
        control_types().len()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use bot_test::corpus;
    use proptest::prelude::*;

    const HERE: &str = env!("CARGO_MANIFEST_DIR");

    /// It is read and makes a topology, or the mistake is told in so many words.
    fn publishers(bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        match granted(text) {
            Ok(granted) => {
                let _ = Topology::new(&contracts().unwrap(), &granted);
            }
            Err(e) => assert!(!e.message.is_empty() && e.message.len() <= 4096, "{} bytes", e.message.len()),
        }
    }

    #[test]
    fn the_corpus_of_publishers_holds() {
        corpus::each(HERE, "publishers", publishers);
    }

    #[test]
    fn the_shipped_publishers_are_read() {
        let shipped = include_str!("../../../../../deploy/config/publishers.yaml");
        assert_eq!(granted(shipped).unwrap()[0].name.as_str(), "outside");
        assert_eq!(granted("# none\n"), Ok(Vec::new()));
        assert_eq!(granted("publishers:\n  - {nam: x}\n").unwrap_err().at, Some((2, 6)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn publishers_that_were_changed(bytes in corpus::changed(HERE, "publishers")) {
            publishers(&bytes);
        }
    }
}
