//! What happens to messages.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Code, Digest, Event, ObjectRef, Priority};

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

/// A letter that an operator did something with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterRef {
    /// Slug of the bot among whose dead letters it was.
    pub bot: String,
    /// Common to letters of that bot with the same code and, but for numbers, ids and paths, the same error.
    pub fingerprint: String,
    /// Why it was dead; `BROKER` where the broker itself gave it up.
    pub code: String,
    /// The `id` of the message, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The `type` of the message, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_type: Option<String>,
    /// Who said the message. Not proven where `vouched_for` says that somebody took that upon them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
    /// Of its body.
    pub digest: Digest,
    /// Of its body.
    pub bytes: u64,
}

fn example_letter() -> DeadLetterRef {
    DeadLetterRef {
        bot: "build-bot".into(),
        fingerprint: "fp-5c8e1f02".into(),
        code: "INVALID_FIELD".into(),
        message_id: Some("push-1".into()),
        message_type: Some("repository.pushed".into()),
        publisher: Some("ci".into()),
        digest: ObjectRef::example("application/json").digest,
        bytes: 311,
    }
}

/// An operator sent a dead letter to its bot once more, as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessageReplayed {
    /// Which.
    pub letter: DeadLetterRef,
    /// The how many-th replay of the message it is.
    pub replay: u32,
    /// Whether the operator named the publisher, because nothing proves who it was.
    pub vouched_for: bool,
    /// Who asked for it.
    pub by: String,
    /// Why, where they said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
impl Event for MessageReplayed {
    const TYPE: &'static str = "message.replayed";
    const SUMMARY: &'static str = "An operator sent a dead letter to its bot once more, as it was.";
    fn example() -> Self {
        Self { letter: example_letter(), replay: 1, vouched_for: false, by: "ada".into(), reason: None }
    }
}

/// An operator said something else to the bot in the place of a dead letter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessageEdited {
    /// Which.
    pub letter: DeadLetterRef,
    /// The `id` of what was said instead, in the operator's name and to that bot alone.
    pub new_id: String,
    /// Which members of `payload.data` differ, as JSON pointers; at most 20.
    pub changed: Vec<String>,
    /// Who did it.
    pub by: String,
    /// Why, where they said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
impl Event for MessageEdited {
    const TYPE: &'static str = "message.edited";
    const SUMMARY: &'static str = "An operator said something else to the bot in the place of a dead letter.";
    fn example() -> Self {
        Self {
            letter: example_letter(),
            new_id: "edited-9f2c5a1e7b3d40a6".into(),
            changed: vec!["/commit".into()],
            by: "ada".into(),
            reason: Some("the hook cut the commit".into()),
        }
    }
}

/// An operator threw a dead letter away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessageDiscarded {
    /// Which.
    pub letter: DeadLetterRef,
    /// Whether its bytes were written to a file first.
    pub exported: bool,
    /// Who did it.
    pub by: String,
    /// Why.
    pub reason: String,
}
impl Event for MessageDiscarded {
    const TYPE: &'static str = "message.discarded";
    const SUMMARY: &'static str = "An operator threw a dead letter away.";
    fn example() -> Self {
        Self { letter: example_letter(), exported: false, by: "ada".into(), reason: "of a test".into() }
    }
}
