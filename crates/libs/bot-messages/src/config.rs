//! What happens to configuration.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Event;

/// A bot came up with another configuration than before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigChanged {
    /// The bot.
    pub bot: String,
    /// Hash of what it ran with before, 16 hex digits.
    pub from: String,
    /// Hash of what it runs with now.
    pub to: String,
}
impl Event for ConfigChanged {
    const TYPE: &'static str = "config.changed";
    const SUMMARY: &'static str = "A bot came up with another configuration than before.";
    fn example() -> Self {
        Self { bot: "BuildBot".into(), from: "9f86d081884c7d65".into(), to: "a3bf4f1b2b0b822c".into() }
    }
}

/// What one bot is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppliedConfig {
    /// The bot, as in `source`.
    pub bot: String,
    /// Hash of its configuration, as in its heartbeats.
    pub config_hash: String,
    /// Of its binary, as in its heartbeats.
    pub version: String,
}

/// An operator says what the bots are to run. What runs and differs is an alert of the monitor's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigApplied {
    /// One entry a bot; of bots that are not named, what was said before holds.
    pub bots: Vec<AppliedConfig>,
    /// Who says so, for people.
    pub by: String,
}
impl Event for ConfigApplied {
    const TYPE: &'static str = "config.applied";
    const SUMMARY: &'static str = "An operator says which configuration and version the bots are to run.";
    fn example() -> Self {
        let bot =
            AppliedConfig { bot: "BuildBot".into(), config_hash: "a3bf4f1b2b0b822c".into(), version: "0.1.0".into() };
        Self { bots: vec![bot], by: "ada".into() }
    }
}
