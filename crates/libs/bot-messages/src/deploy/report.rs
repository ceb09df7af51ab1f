//! What an environment remembers of everything that was to go there.
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Gate;
use crate::{Digest, Event, ObjectRef, Priority, Revision, failure::example_time};

/// Which way an attempt goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptKind {
    /// On to an artifact.
    #[default]
    Deploy,
    /// Back to an earlier one.
    Rollback,
}

/// Where an attempt is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// At a gate.
    #[default]
    Waiting,
    /// Its job was started.
    Running,
    /// It is there, and healthy.
    Succeeded,
    /// It was not healthy; what was there before is back.
    RolledBack,
    /// It was not healthy, and going back failed too: someone has to look.
    Stranded,
    /// It could not be done; nothing was changed.
    Failed,
    /// Someone stopped it.
    Cancelled,
    /// A later push took its place before it began.
    Superseded,
    /// A person said no.
    Denied,
    /// Nobody answered in time.
    Expired,
    /// It may not go there.
    Refused,
}

/// An approval, and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptApproval {
    /// What an answer repeats.
    pub approval_id: String,
    /// No answer after this counts, and no yes is used after it.
    pub expires_at: DateTime<Utc>,
    /// Whether it was granted; absent while nobody answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<bool>,
    /// Who answered, and as which publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<DateTime<Utc>>,
}

/// Something that was done for an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptStep {
    /// When.
    pub at: DateTime<Utc>,
    /// What, at most 160 characters.
    pub what: String,
}

/// One attempt to change what is in an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// 1 for the environment's first.
    pub number: u64,
    /// Which way.
    pub kind: AttemptKind,
    /// When it was asked for.
    pub asked_at: DateTime<Utc>,
    /// Who or what asked.
    pub by: String,
    /// The artifact, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Where the artifact came from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Where it is.
    pub state: AttemptState,
    /// Where it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// Why it waits, or how it ended, at most 600 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<AttemptApproval>,
    /// Its job, once it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// What was done, oldest first; the newest 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<AttemptStep>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
}

/// Someone asks what happened in an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployReportRequested {
    /// The environment.
    pub environment: String,
    /// How many attempts at most, 1 to 50; absent: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
}
impl Event for DeployReportRequested {
    const TYPE: &'static str = "deploy.report_requested";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Someone asks what happened in an environment.";
    fn example() -> Self {
        Self { environment: "production".into(), attempts_max: Some(10) }
    }
}

/// What happened in an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployReported {
    /// The environment.
    pub environment: String,
    /// Why nothing goes there now, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
    /// The attempts, newest first.
    pub attempts: Vec<Attempt>,
}
impl Event for DeployReported {
    const TYPE: &'static str = "deploy.reported";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "What happened in an environment.";
    fn example() -> Self {
        Self {
            environment: "production".into(),
            frozen: None,
            attempts: vec![Attempt {
                number: 7,
                kind: AttemptKind::Deploy,
                asked_at: example_time(),
                by: "a push of refs/heads/main".into(),
                digest: Some(ObjectRef::example("application/zstd").digest),
                revision: Some(Revision::example()),
                state: AttemptState::Waiting,
                gate: Some(Gate::Approval),
                why: "waits for a yes".into(),
                approval: Some(AttemptApproval {
                    approval_id: "production:7:3f8a3f8a3f8a".into(),
                    expires_at: example_time(),
                    granted: None,
                    by: None,
                    answered_at: None,
                }),
                job_id: None,
                steps: Vec::new(),
                ended_at: None,
            }],
        }
    }
}
