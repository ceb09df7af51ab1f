//! The job that tests one build: unpack, read the pipeline, run its suites, say what they came to.
use std::collections::BTreeMap;

use bot_clients::Kind;
use bot_core::{Effects, Fail, GaveUp, Job, JobCx, Outcome};
use bot_messages::{
    Code, FailureReason, ObjectRef, Revision, SafeError,
    pipeline::{DeployStage, Pipeline},
    test::{TestCompleted, TestFailed, TestStarted},
};
use bot_pipeline::{Folder, Log, Runner, Secrets};
use bot_sandbox::Sandbox;
use serde::{Deserialize, Serialize};

use crate::{
    TestBot, bytes,
    report::FAILURES_MAX,
    source::{self, lay},
    suite::{Problem, Ran, Suites},
};

/// Lines of output in `test.failed`.
const TAIL_LINES: usize = 40;
const TAIL_LINE_CHARS: usize = 400;

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
}

impl Job for TestJob {
    type Bot = TestBot;
    const KIND: &'static str = "test";

    async fn run(&self, bot: &TestBot, cx: &JobCx<TestBot>) -> Outcome<TestBot> {
        let sandbox = bot.sandbox().await?;
        let name = bot_pipeline::name_of(&cx.id);
        // The separator keeps one job's processes apart from those of a job whose name begins alike.
        let label = format!("{name}:");
        sandbox.reap_stale(&label).await.map_err(Fail::retry)?;
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
        let started = TestStarted {
            revision: self.revision.clone(),
            job_id: cx.id.clone(),
            suites: suites.keys().cloned().collect(),
        };
        cx.emit("started", Effects::none().say(started)).await?;
        if suites.is_empty() {
            let problems = if may_be_untested { Vec::new() } else { vec![no_suites()] };
            return Ok(self.ended(cx, Vec::new(), problems, None));
        }
        let live = |line: &str| cx.line(line);
        let log_file = folder.file("log.txt");
        let log = Log::create(&log_file, bytes(bot.config.output_mib), &live).map_err(Fail::retry)?;
        let secrets = Secrets::default();
        let runner = Runner {
            sandbox,
            toolchains: &bot.toolchains,
            network: &bot.network,
            folder,
            label,
            env: Runner::env_of(&self.revision),
            secrets: &secrets,
            limits: bot.config.limits(),
            disk_bytes_max: bytes(bot.config.workspace_mib),
            stop: &cx.cancelled,
        };
        let all = Suites { runner, config: &bot.config, folder, log: &log };
        let mut ran = Vec::new();
        for (i, (name, suite)) in suites.iter().enumerate() {
            cx.progress((i * 100 / suites.len()) as u8, name);
            ran.push(all.run(name, suite).await?);
        }
        log.flush().map_err(Fail::retry)?;
        let stored = bot.objects.put_file(&log_file, Kind::Log, "text/plain").await.map_err(Fail::retry)?;
        let problems = ran.iter().filter_map(|r| r.problem.clone()).collect();
        Ok(self.ended(cx, ran, problems, Some(stored)))
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
    ) -> Effects<TestBot> {
        if problems.is_empty() { self.completed(cx, ran, log) } else { self.failed(cx, ran, problems, log) }
    }

    fn completed(&self, cx: &JobCx<TestBot>, ran: Vec<Ran>, log: Option<ObjectRef>) -> Effects<TestBot> {
        Effects::none().say(TestCompleted {
            revision: self.revision.clone(),
            job_id: cx.id.clone(),
            artifact: self.artifact.clone(),
            suites: ran.into_iter().map(|r| r.result).collect(),
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
        let failures = ran.iter().flat_map(|r| r.failures.clone()).take(FAILURES_MAX).collect();
        let whole = sum_up(problems);
        Effects::none().say(TestFailed {
            revision: self.revision.clone(),
            job_id: Some(cx.id.clone()),
            reason: whole.reason,
            error: SafeError::new(whole.code, whole.message, cx.now()),
            suites: ran.into_iter().map(|r| r.result).collect(),
            failures,
            log_tail: tail.iter().skip(tail.len().saturating_sub(TAIL_LINES)).map(|line| cut(line)).collect(),
            log,
            duration_ms: cx.duration_ms(),
        })
    }
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
        let job =
            TestJob { revision: e.revision, artifact: e.artifact, source: e.source, keep: None, deploy: e.deploy };
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
            log_tail: Vec::new(),
            log: None,
            duration_ms: 7,
        };
        assert_eq!(job.gave_up(&bot(dir.path()), &end), Effects::none().say(said));
    }

    #[test]
    fn the_first_problem_speaks_for_all() {
        let problem = |code, message: &str| Problem { reason: FailureReason::Failed, code, message: message.into() };
        let both = sum_up(vec![problem(Code::TestsFailed, "1 of 2 tests failed"), problem(Code::NoTests, "no test")]);
        assert_eq!(both, problem(Code::TestsFailed, "1 of 2 tests failed; no test"));
    }
}
