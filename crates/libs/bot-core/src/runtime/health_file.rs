//! How the bot is, in a file that each heartbeat rewrites: what `--health` of the same program answers from. A container's
//! engine asks in that way, without a port, a token or another program in the image.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bot_messages::telemetry::{BotState, Heartbeat};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// Names the file; without it none is written.
pub(crate) const VARIABLE: &str = "LOTA_HEALTH_FILE";
/// Six heartbeats.
const FRESH: TimeDelta = TimeDelta::seconds(30);

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    at: DateTime<Utc>,
    state: BotState,
    reasons: Vec<String>,
}

/// Replaces the file in one step.
pub(crate) fn write(file: &Path, heartbeat: &Heartbeat) -> io::Result<()> {
    note(file, &Note { at: heartbeat.timestamp, state: heartbeat.state, reasons: heartbeat.reasons.clone() })
}

fn note(file: &Path, note: &Note) -> io::Result<()> {
    let next = file.with_extension("next");
    fs::write(&next, serde_json::to_vec(note)?)?;
    fs::rename(&next, file)
}

/// What the file says at that time: how the bot is, or why it does not do its work.
pub(crate) fn answer(file: Option<PathBuf>, now: DateTime<Utc>) -> Result<String, String> {
    let file =
        file.ok_or_else(|| format!("{VARIABLE} is not set: name the file for the bot and for --health alike"))?;
    let bytes = fs::read(&file)
        .map_err(|e| format!("{}: {e}: expected what a bot that runs writes there every 5 s", file.display()))?;
    let note: Note = serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", file.display()))?;
    let state = serde_json::to_value(note.state).unwrap_or_default();
    let said = std::iter::once(state.as_str().unwrap_or_default())
        .chain(note.reasons.iter().map(String::as_str))
        .collect::<Vec<_>>();
    let said = said.join("; ");
    let age = now - note.at;
    if age > FRESH {
        return Err(format!("silent for {} s; it was {said}", age.num_seconds()));
    }
    // A bot that is paused or degraded does what it was told or can: starting it again would not help.
    match note.state {
        BotState::Starting | BotState::Stopping => Err(said),
        BotState::Running | BotState::Degraded | BotState::Paused | BotState::Disabled => Ok(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(state: BotState, after_s: i64) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("health");
        let at = DateTime::UNIX_EPOCH;
        note(&file, &Note { at, state, reasons: vec!["a reason".into()] }).unwrap();
        answer(Some(file), at + TimeDelta::seconds(after_s))
    }

    #[test]
    fn a_bot_that_works_or_waits_as_told_is_well() {
        assert_eq!(said(BotState::Running, 29).unwrap(), "running; a reason");
        for state in [BotState::Degraded, BotState::Paused, BotState::Disabled] {
            assert!(said(state, 0).is_ok(), "{state:?}");
        }
    }

    #[test]
    fn one_that_is_silent_or_not_there_is_not() {
        assert!(said(BotState::Running, 31).unwrap_err().contains("silent for 31 s"));
        for state in [BotState::Starting, BotState::Stopping] {
            assert!(said(state, 0).is_err(), "{state:?}");
        }
        assert!(answer(Some("/nowhere/health".into()), DateTime::UNIX_EPOCH).unwrap_err().contains("/nowhere/health"));
        assert!(answer(None, DateTime::UNIX_EPOCH).unwrap_err().contains(VARIABLE));
    }
}
