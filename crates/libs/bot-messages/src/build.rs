//! Building.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Code, Event, FailureReason, ObjectRef, Revision, SafeError, failure::example_error, pipeline::DeployStage,
};

/// One step that ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepResult {
    /// Its name in the pipeline file; of a matrix with the combination: `compile (stable, gnu)`.
    pub name: String,
    /// Wall time, milliseconds.
    pub duration_ms: u64,
    /// 0 where it succeeded; absent where it was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// A build began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildStarted {
    /// What is built.
    pub revision: Revision,
    /// The job; `lota logs` takes it.
    pub job_id: String,
    /// Where the steps come from: `.lotabots.yaml`, or what was detected (such as `cargo`, `npm`, `static`).
    pub pipeline: String,
    /// The steps' names in order.
    pub steps: Vec<String>,
}
impl Event for BuildStarted {
    const TYPE: &'static str = "build.started";
    const SUMMARY: &'static str = "A build began.";
    fn example() -> Self {
        Self {
            revision: Revision::example(),
            job_id: "0198c5d2-7b3a-7c41-9a53-0f6f2f1f6a01".into(),
            pipeline: ".lotabots.yaml".into(),
            steps: vec!["compile".into()],
        }
    }
}

/// A build succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildCompleted {
    /// What was built.
    pub revision: Revision,
    /// The job.
    pub job_id: String,
    /// The artifacts, a reproducible `tar.zst`. Of a matrix the first combination's lie at their own paths, the others'
    /// below `matrix/<value>/…`.
    pub artifact: ObjectRef,
    /// The source tree at the commit, a `tar.zst`.
    pub source: ObjectRef,
    /// What the pipeline keeps for the tests besides artifacts and source, a `tar.zst`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<ObjectRef>,
    /// The full log, `text/plain`.
    pub log: ObjectRef,
    /// The steps that ran; of a `cached` build as they ran then.
    pub steps: Vec<StepResult>,
    /// An earlier job built the same source in the same way, and this is what came of it; the log names the job.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// The deploy section of the pipeline file, by environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deploy: BTreeMap<String, DeployStage>,
    /// Whole job, milliseconds.
    pub duration_ms: u64,
}
impl Event for BuildCompleted {
    const TYPE: &'static str = "build.completed";
    const SUMMARY: &'static str = "A build succeeded and its artifact is stored.";
    fn example() -> Self {
        Self {
            revision: Revision::example(),
            job_id: "0198c5d2-7b3a-7c41-9a53-0f6f2f1f6a01".into(),
            artifact: ObjectRef::example("application/zstd"),
            source: ObjectRef::example("application/zstd"),
            keep: None,
            log: ObjectRef::example("text/plain"),
            steps: vec![StepResult { name: "compile".into(), duration_ms: 8_120, exit_code: Some(0) }],
            cached: false,
            deploy: BTreeMap::from([("staging".into(), DeployStage::default())]),
            duration_ms: 8_466,
        }
    }
}

/// A build ended without an artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildFailed {
    /// What was to be built.
    pub revision: Revision,
    /// The job, where one was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Why.
    pub reason: FailureReason,
    /// The step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What went wrong.
    pub error: SafeError,
    /// The last lines of output, at most 40.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// The full log, `text/plain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<ObjectRef>,
    /// Whole job, milliseconds.
    pub duration_ms: u64,
}
impl Event for BuildFailed {
    const TYPE: &'static str = "build.failed";
    const SUMMARY: &'static str = "A build ended without an artifact.";
    fn example() -> Self {
        Self {
            revision: Revision::example(),
            job_id: Some("0198c5d2-7b3a-7c41-9a53-0f6f2f1f6a01".into()),
            reason: FailureReason::Failed,
            step: Some("compile".into()),
            error: example_error(Code::CommandFailed, "step `compile` ended with exit code 101; see the log"),
            log_tail: vec!["error[E0425]: cannot find value `prot` in this scope".into()],
            log: Some(ObjectRef::example("text/plain")),
            duration_ms: 2_310,
        }
    }
}
