//! What happens to messages.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Code, Event, Priority};

/// A bot put a message among its dead letters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessageDeadLettered {
    /// The bot.
    pub bot: String,
    /// The `id` of the message, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The `type` of the message, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_type: Option<String>,
    /// Whose exchange it came from.
    pub publisher: String,
    /// Why.
    pub code: Code,
    /// Why, in words.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
}
impl Event for MessageDeadLettered {
    const TYPE: &'static str = "message.dead_lettered";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "A bot put a message among its dead letters.";
    fn example() -> Self {
        Self {
            bot: "BuildBot".into(),
            message_id: Some("push-1".into()),
            message_type: Some("repository.pushed".into()),
            publisher: "ci".into(),
            code: Code::MissingField,
            error: "`payload.data.commit` is missing: expected the full commit id".into(),
            attempts: 1,
        }
    }
}
