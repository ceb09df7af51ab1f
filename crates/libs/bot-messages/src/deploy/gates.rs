//! What holds a deployment back before it begins, and how people hold an environment.
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Code, Digest, Event, ObjectRef, Priority, Revision, SafeError,
    failure::{example_error, example_time},
};

/// Where a deployment waits, in the order in which the gates are passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Until the artifact is healthy in the environment from which this one takes its artifacts.
    Promotion,
    /// Until a freeze is over.
    Freeze,
    /// Until a person says yes.
    Approval,
    /// Until the deployment before it has ended.
    Busy,
}

/// A deployment waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployHeld {
    /// The environment.
    pub environment: String,
    /// Its number in the history of the environment.
    pub number: u64,
    /// What is to go there; absent for a rollback to whatever was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Where the artifact came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Where it waits.
    pub gate: Gate,
    /// For what it waits.
    pub why: String,
    /// Until when at most, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}
impl Event for DeployHeld {
    const TYPE: &'static str = "deploy.held";
    const SUMMARY: &'static str = "A deployment waits at a gate.";
    fn example() -> Self {
        Self {
            environment: "production".into(),
            number: 7,
            digest: Some(ObjectRef::example("application/zstd").digest),
            revision: Some(Revision::example()),
            gate: Gate::Freeze,
            why: "production is frozen until 2026-11-01 12:00 UTC: year-end closing".into(),
            until: Some(example_time()),
        }
    }
}

/// Someone asks that nothing goes to an environment for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployFreezeRequested {
    /// The environment.
    pub environment: String,
    /// Why, for everyone who waits.
    pub reason: String,
    /// Until when; absent: until someone ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
}
impl Event for DeployFreezeRequested {
    const TYPE: &'static str = "deploy.freeze_requested";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Someone asks that nothing goes to an environment for a while.";
    fn example() -> Self {
        Self {
            environment: "production".into(),
            reason: "year-end closing".into(),
            until: Some(example_time()),
            requested_by: Some("ada".into()),
        }
    }
}

/// Someone asks that a freeze ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployUnfreezeRequested {
    /// The environment.
    pub environment: String,
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
}
impl Event for DeployUnfreezeRequested {
    const TYPE: &'static str = "deploy.unfreeze_requested";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Someone asks that a freeze ends.";
    fn example() -> Self {
        Self { environment: "production".into(), requested_by: Some("ada".into()) }
    }
}

/// Nothing goes to an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployFrozen {
    /// The environment.
    pub environment: String,
    /// Why.
    pub reason: String,
    /// Until when; absent: until someone ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Who asked, and as which publisher.
    pub by: String,
}
impl Event for DeployFrozen {
    const TYPE: &'static str = "deploy.frozen";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Nothing goes to an environment.";
    fn example() -> Self {
        Self {
            environment: "production".into(),
            reason: "year-end closing".into(),
            until: Some(example_time()),
            by: "ada (operator)".into(),
        }
    }
}

/// A freeze is over before its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployUnfrozen {
    /// The environment.
    pub environment: String,
    /// Who asked, and as which publisher.
    pub by: String,
    /// A freeze of the configuration that still holds, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still: Option<String>,
}
impl Event for DeployUnfrozen {
    const TYPE: &'static str = "deploy.unfrozen";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "A freeze is over before its time.";
    fn example() -> Self {
        Self { environment: "production".into(), by: "ada (operator)".into(), still: None }
    }
}

/// What someone asked of an environment is not done, and nothing was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployRefused {
    /// The environment, as it was asked for.
    pub environment: String,
    /// The type of the message that asked.
    pub request: String,
    /// Why not.
    pub error: SafeError,
}
impl Event for DeployRefused {
    const TYPE: &'static str = "deploy.refused";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "What someone asked of an environment is not done, and nothing was begun.";
    fn example() -> Self {
        Self {
            environment: "production".into(),
            request: "approval.granted".into(),
            error: example_error(
                Code::Rejected,
                "production:7:3f8a3f8a3f8a was used already: granted by ada (operator)",
            ),
        }
    }
}
