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
