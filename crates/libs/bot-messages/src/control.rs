//! Commands by which people steer a bot, and its answer.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Event, Kind, Priority, Reply};

/// Stop taking work; what is running goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ControlPause {
    /// Why, for everyone who looks.
    pub reason: String,
    /// Resume by itself after so many seconds; absent: only when told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
}
impl Event for ControlPause {
    const TYPE: &'static str = "control.pause";
    const KIND: Kind = Kind::Command;
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Stop taking work; what is running goes on.";
    fn example() -> Self {
        Self { reason: "disk is being replaced".into(), for_seconds: Some(600) }
    }
}

/// Take work again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ControlResume {}
impl Event for ControlResume {
    const TYPE: &'static str = "control.resume";
    const KIND: Kind = Kind::Command;
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Take work again.";
    fn example() -> Self {
        Self {}
    }
}

/// Stop one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ControlCancel {
    /// The job.
    pub job_id: String,
    /// Why, for everyone who looks.
    pub reason: String,
}
impl Event for ControlCancel {
    const TYPE: &'static str = "control.cancel";
    const KIND: Kind = Kind::Command;
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Stop one job.";
    fn example() -> Self {
        Self { job_id: "0198c5d2-7b3a-7c41-9a53-0f6f2f1f6a01".into(), reason: "wrong branch".into() }
    }
}

/// Do once more what a job that has ended was for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ControlRerun {
    /// The job, or at least six characters of the beginning of its id, where only one of the bot's begins so.
    pub job_id: String,
    /// Who asks, as they say themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
}
impl Event for ControlRerun {
    const TYPE: &'static str = "control.rerun";
    const KIND: Kind = Kind::Command;
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Do once more what a job that has ended was for.";
    fn example() -> Self {
        Self { job_id: "0198c5d2-7b3a-7c41-9a53-0f6f2f1f6a01".into(), requested_by: Some("ada".into()) }
    }
}

/// Say how you are, without doing anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ControlProbe {}
impl Event for ControlProbe {
    const TYPE: &'static str = "control.probe";
    const KIND: Kind = Kind::Command;
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Say how you are, without doing anything.";
    fn example() -> Self {
        Self {}
    }
}

/// The answer to a command; `correlation_id` is the command's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ControlReplied {
    /// The bot that answers.
    pub bot: String,
    /// The command's type.
    pub command: String,
    /// What came of it.
    pub reply: Reply,
}
impl Event for ControlReplied {
    const TYPE: &'static str = "control.replied";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "The answer to a command.";
    fn example() -> Self {
        Self {
            bot: "BuildBot".into(),
            command: ControlProbe::TYPE.into(),
            reply: Reply {
                success: true,
                execution_id: "0198c5d2-0001-7c41-9a53-0f6f2f1f6a01".into(),
                data: Some(serde_json::json!({"state": "running"})),
                error: None,
                duration_ms: 2,
            },
        }
    }
}
