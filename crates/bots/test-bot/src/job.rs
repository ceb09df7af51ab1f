//! The job that tests one build: unpack, read the pipeline, run its suites, say what they came to.
use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use bot_clients::Kind;
use bot_core::{Effects, Fail, GaveUp, Job, JobCx, Outcome};
use bot_messages::{
    Code, FailureReason, ObjectRef, Revision, SafeError,
    pipeline::{DeployStage, Pipeline, Suite},
    test::{SlowTest, TestCompleted, TestFailed, TestFailure, TestStarted},
};
use bot_pipeline::{Folder, Images, Log, Runner, Secrets};
use bot_sandbox::Sandbox;
use serde::{Deserialize, Serialize};

use crate::{
    TestBot, bytes,
    coverage::{Covered, Lines},
    history::{self, Record},
    redaction::Redaction,
    report::{FAILURES_MAX, SLOWEST_MAX, Test, Verdict},
    source::{self, lay},
    suite::Suites,
    verdict::{Problem, Ran},
};

/// Lines of output in `test.failed`.
const TAIL_LINES: usize = 40;
const TAIL_LINE_CHARS: usize = 400;
/// As JSON, so that with all else they fit into a message.
const FAILURES_BYTES_MAX: usize = 90 << 10;
const FLAKY_BYTES_MAX: usize = 30 << 10;
/// A timer by which a run is remembered begins so.
pub(crate) const REMEMBER: &str = "remember:";

/// Tests one build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestJob {
    /// What is tested.
    pub revision: Revision,
    /// What `test.completed` vouches for.
    pub artifact: ObjectRef,
    /// The source tree.
    pub source: ObjectRef,
    /// What the build kept for the tests.
    pub keep: Option<ObjectRef>,
    /// Handed on.
    pub deploy: BTreeMap<String, DeployStage>,
    /// What the tests of this ref covered last.
    #[serde(default)]
    pub covered_before: Option<Covered>,
}

impl Job for TestJob {
    type Bot = TestBot;
    const KIND: &'static str = "test";

    async fn run(&self, bot: &TestBot, cx: &JobCx<TestBot>) -> Outcome<TestBot> {
        let sandbox = bot.sandbox().await?;
        let Revision { repository, url, .. } = &self.revision;
        let may_run = bot.repositories.may_run_in(sandbox.kind(), bot.config.allow_weak_sandbox, repository, url);
        may_run.map_err(|why| Fail::reject(Code::PermissionDenied, anyhow::anyhow!(why)))?;
        let name = bot_pipeline::name_of(&cx.id);
        // The separator keeps one job's processes apart from those of a job whose name begins alike.
        let label = format!("{name}:");
        if !cx.is_first_claim() {
            sandbox.reap_stale(&label).await.map_err(Fail::retry)?;
        }
        tokio::fs::create_dir_all(&bot.work).await.map_err(Fail::retry)?;
        let folder = Folder::make(&bot.work, &name, cx.token).await.map_err(Fail::retry)?;
        let outcome = self.test(bot, sandbox, &folder, &label, cx).await;
        if let Err(error) = folder.remove().await {
            tracing::warn!(job_id = cx.id, %error, "the job's folder stays until the bot starts again");
        }
        outcome
    }

    fn gave_up(&self, _: &TestBot, end: &GaveUp) -> Effects<TestBot> {
        Effects::none().say(TestFailed {
            revision: self.revision.clone(),
            job_id: Some(end.job_id.clone()),
            reason: end.reason,
            error: end.error.clone(),
            suites: Vec::new(),
            failures: Vec::new(),
            flaky: Vec::new(),
            slowest: Vec::new(),
            log_tail: Vec::new(),
            log: None,
            duration_ms: end.duration_ms,
        })
    }
}

impl TestJob {
    async fn test(
        &self,
        bot: &TestBot,
        sandbox: &Sandbox,
        folder: &Folder,
        label: &str,
        cx: &JobCx<TestBot>,
    ) -> Outcome<TestBot> {
        let (pipeline, may_be_untested) = self.prepare(bot, folder, cx).await?;
        let suites = pipeline.test.suites;
        let secrets = self.secrets(bot, &suites)?;
        let started = TestStarted {
            revision: self.revision.clone(),
            job_id: cx.id.clone(),
            suites: suites.keys().cloned().collect(),
        };
        cx.emit("started", Effects::none().say(started)).await?;
        if suites.is_empty() {
            let problems = if may_be_untested { Vec::new() } else { vec![no_suites()] };
            return Ok(self.ended(cx, Vec::new(), problems, None, None));
        }
        let live = |line: &str| cx.line(line);
        let log_file = folder.file("log.txt");
        let log = Log::create(&log_file, bytes(bot.config.output_mib), &live).map_err(Fail::retry)?;
        let runner = Runner {
            sandbox,
            toolchains: &bot.toolchains,
            network: &bot.network,
            folder,
            label,
            env: Runner::env_of(&self.revision),
            secrets: &secrets,
            images: &Images::default(),
            limits: bot.config.limits(),
            disk_bytes_max: bytes(bot.config.workspace_mib),
            stop: &cx.cancelled,
        };
        let on_start = |ended: usize, name: &str| cx.progress((ended * 100 / suites.len()) as u8, name);
        let redaction = Redaction::new(secrets.redactor());
        let all = Suites { runner, config: &bot.config, log: &log, redaction: &redaction };
        let ran = all.run_all(&suites, on_start).await?;
        let coverage = covered(&ran, &log);
        log.flush().map_err(Fail::retry)?;
        let stored = bot.logs.attempt(bot.objects.put_file(&log_file, Kind::Log, "text/plain")).await;
        let stored = stored.inspect_err(|why| cx.line(why)).ok();
        let problems = ran.iter().filter_map(|r| r.problem.clone()).collect();
        Ok(self.ended(cx, ran, problems, stored, coverage))
    }

    /// Those that suites name. A repository need be listed only for them: it was for its build.
    fn secrets(&self, bot: &TestBot, suites: &BTreeMap<String, Suite>) -> Result<Secrets, Fail> {
        let mut names = suites.values().flat_map(|suite| &suite.secrets).peekable();
        if names.peek().is_none() {
            return Ok(Secrets::default());
        }
        let listed = bot.repositories.judge(&self.revision.repository, &self.revision.url);
        let listed = listed.map_err(|why| Fail::reject(Code::PermissionDenied, anyhow::anyhow!(why)))?;
        bot.secrets.read(names, &listed.secrets).map_err(|e| Fail::reject(e.code(), e))
    }

    /// Unpacks all there is. The pipeline is read before anything else could replace it.
    async fn prepare(&self, bot: &TestBot, folder: &Folder, cx: &JobCx<TestBot>) -> Result<(Pipeline, bool), Fail> {
        cx.progress(0, "unpacking");
        let lay = async |what, object: &ObjectRef| lay(folder, &bot.objects, what, &object.digest, &bot.config).await;
        lay("source", &self.source).await?;
        let pipeline = source::pipeline(folder).await?;
        lay("artifact", &self.artifact).await?;
        if let Some(keep) = &self.keep {
            lay("kept files", keep).await?;
        }
        Ok(pipeline)
    }

    fn ended(
        &self,
        cx: &JobCx<TestBot>,
        ran: Vec<Ran>,
        problems: Vec<Problem>,
        log: Option<ObjectRef>,
        coverage: Option<Covered>,
    ) -> Effects<TestBot> {
        let record = self.record(&ran, coverage.filter(|_| problems.is_empty()));
        let ended = if problems.is_empty() {
            self.completed(cx, ran, log, coverage)
        } else {
            self.failed(cx, ran, problems, log)
        };
        let Ok(record) = serde_json::to_value(record) else { return ended };
        // Jobs have no state; the timer's handler does, and the timer is committed with the end of the job.
        ended.set_timer(&format!("{REMEMBER}{}", cx.id), &self.revision.repository, Duration::ZERO, record)
    }

    /// What is to be remembered of this run.
    fn record(&self, ran: &[Ran], coverage: Option<Covered>) -> Record {
        let mut record = Record { git_ref: self.revision.git_ref.clone(), coverage, suites: BTreeMap::new() };
        for ran in ran {
            let suite = &ran.result.name;
            let is_flaky = |test: &Test| ran.flaky.iter().any(|flaky| flaky.name == test.name);
            for test in &ran.tests {
                let went = match test.verdict {
                    Verdict::Failed => history::FAILED,
                    Verdict::Passed if is_flaky(test) => history::FLAKY,
                    Verdict::Passed => history::PASSED,
                    Verdict::Skipped => history::SKIPPED,
                };
                record.add(suite, &test.name, went, test.duration_ms);
            }
        }
        record
    }

    fn completed(
        &self,
        cx: &JobCx<TestBot>,
        ran: Vec<Ran>,
        log: Option<ObjectRef>,
        coverage: Option<Covered>,
    ) -> Effects<TestBot> {
        Effects::none().say(TestCompleted {
            revision: self.revision.clone(),
            job_id: cx.id.clone(),
            artifact: self.artifact.clone(),
            flaky: fitting(ran.iter().flat_map(|r| &r.flaky), FLAKY_BYTES_MAX),
            slowest: slowest_of(&ran),
            suites: ran.into_iter().map(|r| r.result).collect(),
            coverage: coverage.map(|lines| lines.told(self.covered_before)),
            log,
            deploy: self.deploy.clone(),
            duration_ms: cx.duration_ms(),
        })
    }

    fn failed(
        &self,
        cx: &JobCx<TestBot>,
        ran: Vec<Ran>,
        problems: Vec<Problem>,
        log: Option<ObjectRef>,
    ) -> Effects<TestBot> {
        let tail = ran.iter().find(|r| r.problem.is_some()).map(|r| r.tail.clone()).unwrap_or_default();
        let failures = fitting(ran.iter().flat_map(|r| &r.failures), FAILURES_BYTES_MAX);
        let whole = sum_up(problems);
        Effects::none().say(TestFailed {
            revision: self.revision.clone(),
            job_id: Some(cx.id.clone()),
            reason: whole.reason,
            error: SafeError::new(whole.code, whole.message, cx.now()),
            flaky: fitting(ran.iter().flat_map(|r| &r.flaky), FLAKY_BYTES_MAX),
            slowest: slowest_of(&ran),
            suites: ran.into_iter().map(|r| r.result).collect(),
            failures,
            log_tail: tail.iter().skip(tail.len().saturating_sub(TAIL_LINES)).map(|line| cut(line)).collect(),
            log,
            duration_ms: cx.duration_ms(),
        })
    }
}

/// Of all suites that name coverage files. A part that is missing would look like a fall, so then there is none, and the
/// log says why.
fn covered(ran: &[Ran], log: &Log<'_>) -> Option<Covered> {
    let mut all: Option<Lines> = None;
    for ran in ran {
        let Some(coverage) = &ran.coverage else { continue };
        let added = coverage.as_ref().map_err(String::clone).and_then(|lines| {
            let all = all.get_or_insert_default();
            all.add(lines)
        });
        if let Err(why) = added {
            log.line(&ran.result.name, &format!("the coverage of this run is not told: {why}"));
            return None;
        }
    }
    all.map(|lines| lines.count())
}

/// The first, as many as are promised and fit.
fn fitting<'a>(all: impl Iterator<Item = &'a TestFailure>, bytes_max: usize) -> Vec<TestFailure> {
    let mut bytes = 0;
    let fits = |failure: &&TestFailure| {
        bytes += serde_json::to_vec(failure).map_or(0, |json| json.len());
        bytes <= bytes_max
    };
    all.take(FAILURES_MAX).take_while(fits).cloned().collect()
}

/// Of all suites, the slowest first.
fn slowest_of(ran: &[Ran]) -> Vec<SlowTest> {
    let mut all: Vec<SlowTest> = ran.iter().flat_map(|r| r.slowest.clone()).collect();
    all.sort_by_key(|test| Reverse(test.duration_ms));
    all.truncate(SLOWEST_MAX);
    all
}

/// The whole log is stored; what travels in a message is small.
fn cut(line: &str) -> String {
    line.chars().take(TAIL_LINE_CHARS).collect()
}

fn no_suites() -> Problem {
    let message = "the pipeline names no test suite: add one to .lotabots.yaml such as `test: {suites: {unit: {run: make test}}}`, \
                   or say `test: {suites: {}}` if there is nothing to test";
    Problem { reason: FailureReason::Failed, code: Code::NoTests, message: message.to_owned() }
}

/// The first problem speaks for all; further ones are told after it.
fn sum_up(problems: Vec<Problem>) -> Problem {
    let messages: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
    let message = messages.join("; ");
    match problems.into_iter().next() {
        Some(first) => Problem { message, ..first },
        None => no_suites(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::bot;
    use bot_messages::{Event, build::BuildCompleted};

    #[test]
    fn one_event_ends_a_job_that_was_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let e = BuildCompleted::example();
        let job = TestJob {
            revision: e.revision,
            artifact: e.artifact,
            source: e.source,
            keep: None,
            deploy: e.deploy,
            covered_before: None,
        };
        let error = SafeError::new(Code::Cancelled, "cancelled by operator: wrong branch", chrono::DateTime::default());
        let end = GaveUp {
            job_id: "job-1".into(),
            reason: FailureReason::Cancelled,
            error: error.clone(),
            attempts: 1,
            duration_ms: 7,
        };
        let said = TestFailed {
            revision: job.revision.clone(),
            job_id: Some("job-1".into()),
            reason: FailureReason::Cancelled,
            error,
            suites: Vec::new(),
            failures: Vec::new(),
            flaky: Vec::new(),
            slowest: Vec::new(),
            log_tail: Vec::new(),
            log: None,
            duration_ms: 7,
        };
        assert_eq!(job.gave_up(&bot(dir.path()), &end), Effects::none().say(said));
    }

    #[test]
    fn what_failing_tests_said_fits_into_a_message() {
        let failure = TestFailure { message: "\u{1}".repeat(2048), ..TestFailed::example().failures[0].clone() };
        let all = vec![failure; 80];
        let told = fitting(all.iter(), FAILURES_BYTES_MAX);
        assert!(!told.is_empty() && serde_json::to_vec(&told).unwrap().len() <= FAILURES_BYTES_MAX + 100);
        let short = vec![TestFailed::example().failures[0].clone(); 80];
        assert_eq!(fitting(short.iter(), FAILURES_BYTES_MAX).len(), FAILURES_MAX);
    }

    #[test]
    fn the_first_problem_speaks_for_all() {
        let problem = |code, message: &str| Problem { reason: FailureReason::Failed, code, message: message.into() };
        let both = sum_up(vec![problem(Code::TestsFailed, "1 of 2 tests failed"), problem(Code::NoTests, "no test")]);
        assert_eq!(both, problem(Code::TestsFailed, "1 of 2 tests failed; no test"));
    }
}
