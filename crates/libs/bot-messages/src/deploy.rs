//! Deploying.
mod gates;
mod report;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Code, Digest, Event, FailureReason, ObjectRef, Priority, Revision, SafeError, failure::example_error};

pub use gates::{
    DeployFreezeRequested, DeployFrozen, DeployHeld, DeployRefused, DeployUnfreezeRequested, DeployUnfrozen, Gate,
};
pub use report::{
    Attempt, AttemptApproval, AttemptKind, AttemptState, AttemptStep, DeployReportRequested, DeployReported,
};

const JOB: &str = "0198c5d2-b0e4-7a66-b3f0-2f1f6a010f6f";

/// Someone asks that a tested artifact goes to an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployRequested {
    /// The environment, as `deploy/config/environments.yaml` names it.
    pub environment: String,
    /// The artifact; it must have passed its tests.
    pub digest: Digest,
    /// Who asks, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
}
impl Event for DeployRequested {
    const TYPE: &'static str = "deploy.requested";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Someone asks that a tested artifact goes to an environment.";
    fn example() -> Self {
        Self {
            environment: "staging".into(),
            digest: ObjectRef::example("application/zstd").digest,
            requested_by: Some("ada".into()),
        }
    }
}

/// A deployment began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployStarted {
    /// The environment.
    pub environment: String,
    /// Where the artifact came from.
    pub revision: Revision,
    /// The job.
    pub job_id: String,
    /// What goes there.
    pub artifact: ObjectRef,
    /// What was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
}
impl Event for DeployStarted {
    const TYPE: &'static str = "deploy.started";
    const SUMMARY: &'static str = "A deployment began.";
    fn example() -> Self {
        Self {
            environment: "staging".into(),
            revision: Revision::example(),
            job_id: JOB.into(),
            artifact: ObjectRef::example("application/zstd"),
            previous: None,
        }
    }
}

/// An artifact is in place and healthy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployCompleted {
    /// The environment.
    pub environment: String,
    /// Where the artifact came from.
    pub revision: Revision,
    /// The job.
    pub job_id: String,
    /// What is there now.
    pub digest: Digest,
    /// What was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// Where it answers, where it is a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What was asked to see that it is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_url: Option<String>,
    /// Whole job, milliseconds.
    pub duration_ms: u64,
}
impl Event for DeployCompleted {
    const TYPE: &'static str = "deploy.completed";
    const SUMMARY: &'static str = "An artifact is in place and healthy.";
    fn example() -> Self {
        Self {
            environment: "staging".into(),
            revision: Revision::example(),
            job_id: JOB.into(),
            digest: ObjectRef::example("application/zstd").digest,
            previous: None,
            url: Some("http://127.0.0.1:8600/".into()),
            health_url: Some("http://127.0.0.1:8600/health".into()),
            duration_ms: 214,
        }
    }
}

/// A deployment did not happen, or was taken back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployFailed {
    /// The environment.
    pub environment: String,
    /// Where the artifact came from, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The job, where one was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// What was to go there.
    pub digest: Digest,
    /// Why.
    pub reason: FailureReason,
    /// What went wrong.
    pub error: SafeError,
    /// What is there now; absent where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Digest>,
    /// The last lines the application printed, at most 40.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// Whole job, milliseconds.
    pub duration_ms: u64,
}
impl Event for DeployFailed {
    const TYPE: &'static str = "deploy.failed";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "A deployment did not happen, or was taken back.";
    fn example() -> Self {
        Self {
            environment: "staging".into(),
            revision: Some(Revision::example()),
            job_id: Some(JOB.into()),
            digest: ObjectRef::example("application/zstd").digest,
            reason: FailureReason::Failed,
            error: example_error(
                Code::HealthCheckFailed,
                "http://127.0.0.1:8600/health answered 500 until the deadline of 10 s; the release before it is back",
            ),
            current: None,
            log_tail: vec!["panicked at src/main.rs:14".into()],
            duration_ms: 10_420,
        }
    }
}

/// An environment is back at an earlier artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployRolledBack {
    /// The environment.
    pub environment: String,
    /// The job that did it.
    pub job_id: String,
    /// What was taken away.
    pub from: Digest,
    /// What is there now; absent where nothing was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Digest>,
    /// Why.
    pub reason: String,
}
impl Event for DeployRolledBack {
    const TYPE: &'static str = "deploy.rolled_back";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "An environment is back at an earlier artifact.";
    fn example() -> Self {
        let digest = ObjectRef::example("application/zstd").digest;
        Self {
            environment: "staging".into(),
            job_id: JOB.into(),
            from: digest.clone(),
            to: Some(digest),
            reason: "health check failed".into(),
        }
    }
}

/// Someone asks that an environment goes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployRollbackRequested {
    /// The environment.
    pub environment: String,
    /// To which artifact; absent: to the one before the current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Digest>,
    /// Why, for the history.
    pub reason: String,
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
}
impl Event for DeployRollbackRequested {
    const TYPE: &'static str = "deploy.rollback_requested";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Someone asks that an environment goes back.";
    fn example() -> Self {
        Self {
            environment: "staging".into(),
            to: None,
            reason: "wrong prices".into(),
            requested_by: Some("ada".into()),
        }
    }
}
