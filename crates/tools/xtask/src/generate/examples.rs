//! A whole message of each type, as it travels. Ids and times are fixed, so that a file changes only with its type.
use anyhow::{Context, Result};
use bot_core::{Destination, Envelope};
use bot_messages::{
    BotName, Kind, OutsidePublisher,
    catalogue::{self, Entry},
    contract::{control_types, operator_name},
};
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{Files, OWN_FOLDER, Source, text};

const ID: &str = "019a3f5b-2c00-7000-8000-000000000001";
const CORRELATION_ID: &str = "019a3f5b-2c00-7000-8000-000000000000";
/// 2026-11-01T12:00:00Z.
const AT_SECONDS: i64 = 1_793_534_400;

/// Adds them.
pub(super) fn add(source: &Source, files: &mut Files) -> Result<()> {
    for entry in catalogue::all() {
        let path = format!("{OWN_FOLDER}/examples/{}.json", entry.event_type);
        files.insert(path, text::json(message(source, &entry)?)?);
    }
    Ok(())
}

/// The example of one type, written by the code that writes all messages.
pub(super) fn message(source: &Source, entry: &Entry) -> Result<Value> {
    let envelope = Envelope {
        id: ID.to_owned(),
        timestamp: at()?,
        source: said_by(source, entry.event_type)?,
        destination: match entry.kind {
            Kind::Event => Destination::Everyone,
            Kind::Command => Destination::Bot(asked(source, entry.event_type)?),
        },
        event_type: entry.event_type.to_owned(),
        data: (entry.example)(),
        priority: entry.priority,
        correlation_id: Some(CORRELATION_ID.to_owned()),
    };
    serde_json::from_slice(&envelope.encode()).context("an example is not JSON")
}

fn at() -> Result<DateTime<Utc>> {
    DateTime::from_timestamp(AT_SECONDS, 0).context("a constant that is a time")
}

/// Another CI, where it may; else the first bot that declares it, else any bot or the operator, where they may.
fn said_by(source: &Source, event_type: &str) -> Result<BotName> {
    let is = |said: &String| said == event_type;
    let declares = source.contracts.iter().find(|c| c.says.iter().any(is));
    let may = source.contracts.iter().find(|c| c.all_says().contains(&event_type));
    let operator = OutsidePublisher::operator().says;
    match declares.or(may) {
        _ if source.outside.says.iter().any(is) => Ok("ci".parse()?),
        Some(contract) => Ok(contract.name.clone()),
        None if operator.iter().any(is) || control_types().contains(&event_type) => Ok(operator_name()),
        None => Ok("ci".parse()?),
    }
}

/// The first bot that hears it. Every bot hears control commands.
fn asked(source: &Source, event_type: &str) -> Result<BotName> {
    let hears = |c: &&bot_messages::Contract| {
        c.hears.iter().any(|heard| heard == event_type) || control_types().contains(&event_type)
    };
    let bot = source.contracts.iter().find(hears);
    let bot =
        bot.with_context(|| format!("nobody hears the command {event_type}: let a bot hear it, or take it out"))?;
    Ok(bot.name.clone())
}
