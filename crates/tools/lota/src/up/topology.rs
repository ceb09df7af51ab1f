//! The topology: what the broker has to hold for the installed bots and the granted publishers.
use std::process::ExitCode;

use anyhow::Context;
use bot_messages::{Contract, OutsidePublisher, catalogue, contract::control_types, keys, topology::Topology};
use bot_pipeline::Publishers;
use bot_provision::{ApplyOptions, Change, Management, apply, verify};
use clap::Subcommand;

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
        /// Move what lies in queues that no contract grants any more to the queue `unrouted` (heartbeats and log lines are
        /// dropped), and delete them; dead letters stay where they are
        #[arg(long)]
        drain: bool,
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

/// The contracts of the bots of this release.
pub(crate) fn contracts() -> anyhow::Result<Vec<Contract>> {
    serde_json::from_str(CONTRACTS).context("deploy/rabbitmq/contracts.json cannot be read: run `make gen`")
}

/// Who may publish besides the bots and the operator.
pub(crate) fn publishers(home: &Home) -> anyhow::Result<Vec<OutsidePublisher>> {
    let granted = Publishers::read(&home.join("config")).map_err(anyhow::Error::msg).or_exit(Exit::Config)?;
    Ok(granted.outside())
}

/// What the broker has to hold: without users who are shut out.
pub(crate) fn of(home: &Home) -> anyhow::Result<Topology> {
    let mut topology = all_of(home)?;
    let shut_out = credentials::revoked(home)?;
    topology.users.retain(|user| !shut_out.contains(&user.name));
    Ok(topology)
}

pub(crate) fn all_of(home: &Home) -> anyhow::Result<Topology> {
    Topology::new(&contracts()?, &publishers(home)?)
        .context("the contracts and config/publishers.yaml make no topology")
        .or_exit(Exit::Config)
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
        What::Apply { dry_run, drain } => {
            let options = ApplyOptions { dry_run: *dry_run, drain: *drain, ..ApplyOptions::default() };
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
