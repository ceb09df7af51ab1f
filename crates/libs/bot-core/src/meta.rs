//! What a handler knows of the delivery besides the event.
use bot_messages::Priority;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// About the delivery that is handled.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// The message's id.
    pub id: String,
    /// Slug of the publisher that the exchange proves.
    pub publisher: String,
    /// Common to all that follows from one cause.
    pub correlation_id: String,
    /// How urgent.
    pub priority: Priority,
    /// 1 for the first.
    pub attempt: u32,
    /// The time at which it is handled; the only clock a handler has.
    pub now: DateTime<Utc>,
}

/// Where something comes from: what every message, job and timer carries on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// Common to all that follows from one cause.
    pub correlation_id: String,
    /// The message that led to this.
    pub causation_id: String,
    /// How many messages led here; the loop guard counts it.
    pub hop: u32,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// W3C trace state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}
