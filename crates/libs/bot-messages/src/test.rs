//! Testing.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Code, Event, FailureReason, Kind, ObjectRef, Revision, SafeError, failure::example_error, pipeline::DeployStage,
};

/// How one suite went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SuiteResult {
    /// Its name in the pipeline file.
    pub name: String,
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that were skipped.
    pub skipped: u32,
    /// Tests that failed and then passed without a change; they are counted among those that passed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flaky: u32,
    /// Wall time, milliseconds.
    pub duration_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A test that took long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlowTest {
    /// The suite.
    pub suite: String,
    /// The test's full name.
    pub name: String,
    /// Milliseconds.
    pub duration_ms: u64,
}

/// Lines that the tests ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// That were run.
    pub lines_covered: u64,
    /// That can be run.
    pub lines_total: u64,
    /// 0 to 100.
    pub percent: f64,
    /// In percentage points, against the last run on the same ref; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<f64>,
}

/// A test that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestFailure {
    /// The suite.
    pub suite: String,
    /// The test's full name.
    pub name: String,
    /// What it said, at most 2 KiB.
    pub message: String,
    /// `file:line`, where the report says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// Testing began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestStarted {
    /// What is tested.
    pub revision: Revision,
    /// The job.
    pub job_id: String,
    /// The suites' names.
    pub suites: Vec<String>,
}
impl Event for TestStarted {
    const TYPE: &'static str = "test.started";
    const SUMMARY: &'static str = "Testing began.";
    fn example() -> Self {
        Self {
            revision: Revision::example(),
            job_id: "0198c5d2-9d11-7f02-8c1a-5d9f6a3e2b77".into(),
            suites: vec!["unit".into()],
        }
    }
}

/// Every suite passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestCompleted {
    /// What was tested.
    pub revision: Revision,
    /// The job.
    pub job_id: String,
    /// The artifact this result vouches for.
    pub artifact: ObjectRef,
    /// How each suite went.
    pub suites: Vec<SuiteResult>,
    /// The first tests that failed and then passed without a change: at most 50, and 30 KiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flaky: Vec<TestFailure>,
    /// The 10 slowest tests, the slowest first, where the reports say how long they took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slowest: Vec<SlowTest>,
    /// Of all suites together, where they name coverage files and all of these could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// The full log, `text/plain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<ObjectRef>,
    /// The deploy section of the pipeline file, by environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deploy: BTreeMap<String, DeployStage>,
    /// Whole job, milliseconds.
    pub duration_ms: u64,
}
impl Event for TestCompleted {
    const TYPE: &'static str = "test.completed";
    const SUMMARY: &'static str = "Every suite passed.";
    fn example() -> Self {
        Self {
            revision: Revision::example(),
            job_id: "0198c5d2-9d11-7f02-8c1a-5d9f6a3e2b77".into(),
            artifact: ObjectRef::example("application/zstd"),
            suites: vec![SuiteResult {
                name: "unit".into(),
                passed: 12,
                failed: 0,
                skipped: 1,
                flaky: 1,
                duration_ms: 940,
            }],
            flaky: vec![example_failure("tests::once", "connection refused", "src/client.rs:14")],
            slowest: vec![SlowTest { suite: "unit".into(), name: "tests::adds".into(), duration_ms: 310 }],
            coverage: Some(Coverage { lines_covered: 412, lines_total: 500, percent: 82.4, change: Some(-0.6) }),
            log: Some(ObjectRef::example("text/plain")),
            deploy: BTreeMap::from([("staging".into(), DeployStage::default())]),
            duration_ms: 1_204,
        }
    }
}

/// Testing ended without every suite passing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestFailed {
    /// What was tested.
    pub revision: Revision,
    /// The job, where one was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Why.
    pub reason: FailureReason,
    /// What went wrong, in one sentence.
    pub error: SafeError,
    /// How each suite that ran went.
    #[serde(default)]
    pub suites: Vec<SuiteResult>,
    /// The first failing tests: at most 50, and 90 KiB.
    #[serde(default)]
    pub failures: Vec<TestFailure>,
    /// The first tests that failed and then passed without a change: at most 50, and 30 KiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flaky: Vec<TestFailure>,
    /// The 10 slowest tests, the slowest first, where the reports say how long they took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slowest: Vec<SlowTest>,
    /// The last lines of output, at most 40.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// The full log, `text/plain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<ObjectRef>,
    /// Whole job, milliseconds.
    pub duration_ms: u64,
}
impl Event for TestFailed {
    const TYPE: &'static str = "test.failed";
    const SUMMARY: &'static str = "A test failed, or the tests could not be run.";
    fn example() -> Self {
        Self {
            revision: Revision::example(),
            job_id: Some("0198c5d2-9d11-7f02-8c1a-5d9f6a3e2b77".into()),
            reason: FailureReason::Failed,
            error: example_error(Code::TestsFailed, "1 of 13 tests failed: unit::tests::adds"),
            suites: vec![SuiteResult {
                name: "unit".into(),
                passed: 12,
                failed: 1,
                skipped: 0,
                flaky: 0,
                duration_ms: 940,
            }],
            failures: vec![example_failure("tests::adds", "left: 4, right: 5", "src/lib.rs:21")],
            flaky: Vec::new(),
            slowest: vec![SlowTest { suite: "unit".into(), name: "tests::adds".into(), duration_ms: 310 }],
            log_tail: Vec::new(),
            log: Some(ObjectRef::example("text/plain")),
            duration_ms: 1_204,
        }
    }
}

/// Which tests are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TestReportKind {
    /// All, those with the most trouble first.
    #[default]
    All,
    /// Those that were flaky, the most often flaky first.
    Flaky,
    /// Those whose duration is known, the slowest first.
    Slow,
}

/// Someone asks how a repository's tests went so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestReportRequested {
    /// As in its revisions.
    pub repository: String,
    /// Which tests.
    #[serde(default)]
    pub kind: TestReportKind,
    /// How many at most; absent: 20. More than 100 are never told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
impl Event for TestReportRequested {
    const TYPE: &'static str = "test.report_requested";
    const KIND: Kind = Kind::Command;
    const SUMMARY: &'static str = "Someone asks how a repository's tests went so far.";
    fn example() -> Self {
        Self { repository: "shop/api".into(), kind: TestReportKind::Flaky, limit: Some(10) }
    }
}

/// One test over the last 50 runs in which it was there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestHistory {
    /// The suite.
    pub suite: String,
    /// The test's full name, cut after 200 bytes.
    pub name: String,
    /// Runs in which it was not skipped.
    pub runs: u32,
    /// Runs in which it failed.
    pub failed: u32,
    /// Runs in which it failed and then passed without a change.
    pub flaky: u32,
    /// Of its runs, 0 to 100.
    pub flaky_percent: f64,
    /// Mean of the newer half of its last 10 durations, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recent_ms: Option<u64>,
    /// Mean of the older half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_ms: Option<u64>,
}

/// How a repository's tests went so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestReported {
    /// As it was asked for.
    pub repository: String,
    /// As it was asked for.
    pub kind: TestReportKind,
    /// How many tests are remembered.
    pub known: u32,
    /// The first of those that were asked for.
    pub tests: Vec<TestHistory>,
}
impl Event for TestReported {
    const TYPE: &'static str = "test.reported";
    const SUMMARY: &'static str = "How a repository's tests went so far.";
    fn example() -> Self {
        let test = TestHistory {
            suite: "unit".into(),
            name: "tests::once".into(),
            runs: 40,
            failed: 1,
            flaky: 3,
            flaky_percent: 7.5,
            recent_ms: Some(310),
            earlier_ms: Some(120),
        };
        Self { repository: "shop/api".into(), kind: TestReportKind::Flaky, known: 214, tests: vec![test] }
    }
}

fn example_failure(name: &str, message: &str, location: &str) -> TestFailure {
    TestFailure { suite: "unit".into(), name: name.into(), message: message.into(), location: Some(location.into()) }
}
