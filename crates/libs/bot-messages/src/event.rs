//! What makes a payload an event: its type, its priority, whether it is broadcast or addressed, and an example.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How urgent a message is. Where a message does not say, [`Priority::Medium`] is assumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Handled after everything else.
    Low,
    /// The ordinary case.
    #[default]
    Medium,
    /// Handled first among what is waiting.
    High,
}

impl Priority {
    /// The AMQP priority (0 to 255) that carries this one on the wire.
    pub fn amqp(self) -> u8 {
        match self {
            Self::Low => 1,
            Self::Medium => 4,
            Self::High => 8,
        }
    }
}

/// Whether a message tells everyone what happened, or asks one bot to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Broadcast: `destination` is `*` and the routing key is the type.
    Event,
    /// Addressed: `destination` is a bot's name and the routing key is `to.<bot>.<type>`.
    Command,
}

/// One message type. The implementing struct is the message's `payload.data`.
pub trait Event: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The `type` of the envelope, such as `build.completed`.
    const TYPE: &'static str;
    /// Broadcast or addressed.
    const KIND: Kind = Kind::Event;
    /// Used where the sender does not choose.
    const PRIORITY: Priority = Priority::Medium;
    /// One line for the generated documentation.
    const SUMMARY: &'static str;
    /// The schema version written into `x-lota-schema`; a breaking change raises it.
    const SCHEMA_VERSION: u32 = 1;

    /// A complete, realistic example; it is published in `proto-schemas/` and validated against the schema.
    fn example() -> Self;
}
