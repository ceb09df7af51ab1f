//! Jobs of `TestBot` with a real object store, real archives and the real sandbox: what a build's tests come to.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken assumption ends the test")]
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bot_clients::{ArchiveLimits, Kind, Objects, list_tree, pack};
use bot_core::{Bot, Effect, Effects, Fail, Job, Outcome, Stop, Tools};
use bot_messages::{
    Code, Digest, Event, FailureReason, ObjectRef,
    build::BuildCompleted,
    test::{TestCompleted, TestFailed},
};
use bot_test::JobRecord;
use tempfile::TempDir;
use test_bot::{Config, TestBot, TestJob};

/// Prints what libtest prints, without a compiler.
const PASSING: &str =
    "printf 'running 2 tests\\ntest a ... ok\\ntest b ... ok\\ntest result: ok. 2 passed; 0 failed; 0 ignored\\n'";

/// A bot with an object store in a folder of the test.
struct Bench {
    dir: TempDir,
    objects: Objects,
    bot: TestBot,
}

impl Bench {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut tools = Tools::default();
        tools.dir = dir.path().join("bot");
        tools.objects = dir.path().join("objects").to_string_lossy().into_owned();
        tools.path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into();
        let objects = Objects::open(&tools.objects).unwrap();
        let bot = TestBot::new(config, tools).unwrap();
        Self { dir, objects, bot }
    }

    /// Files as an archive in the store.
    async fn archive(&self, files: &[(&str, &str)]) -> ObjectRef {
        let tree = tempfile::tempdir_in(self.dir.path()).unwrap();
        for (name, text) in files {
            let path = tree.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let to = self.dir.path().join("packed");
        let limits = ArchiveLimits { entries_max: 100, bytes_max: 1 << 20 };
        pack(tree.path(), &list_tree(tree.path(), 100).unwrap(), &to, &limits).unwrap();
        self.objects.put_file(&to, Kind::Artifact, "application/zstd").await.unwrap()
    }

    /// The job that a build of this source starts.
    async fn job(&self, source: &[(&str, &str)]) -> TestJob {
        let build = BuildCompleted::example();
        TestJob {
            revision: build.revision,
            artifact: self.archive(&[("target/app", "built")]).await,
            source: self.archive(source).await,
            keep: None,
            deploy: build.deploy,
        }
    }

    async fn suites(&self, suites: &str) -> TestJob {
        self.job(&[(".lotabots.yaml", &format!("version: 1\ntest:\n  suites:\n{suites}"))]).await
    }

    async fn run(&self, job: &TestJob, record: &Arc<JobRecord>) -> Outcome<TestBot> {
        let outcome = job.run(&self.bot, &record.cx()).await;
        assert!(!self.dir.path().join("bot/work/job-1").exists(), "the workspace is gone");
        outcome
    }

    async fn failed(&self, job: &TestJob) -> TestFailed {
        let record = JobRecord::new();
        let effects = self.run(job, &record).await.unwrap();
        assert_eq!(record.said(), ["test.started"]);
        said(&effects)
    }

    async fn log(&self, log: Option<ObjectRef>) -> String {
        String::from_utf8(self.objects.get_bytes(&log.unwrap().digest, 1 << 20).await.unwrap()).unwrap()
    }
}

/// The one event that ends the job.
fn said<E: Event>(effects: &Effects<TestBot>) -> E {
    let [Effect::Say { event_type, data, .. }] = effects.list.as_slice() else { panic!("{effects:?}") };
    assert_eq!(*event_type, E::TYPE, "{data}");
    serde_json::from_value(data.clone()).unwrap()
}

#[tokio::test]
async fn suites_that_pass_vouch_for_the_artifact() {
    let bench = Bench::new();
    let junit = "<testsuite><testcase name='a'/><testcase name='b'><skipped/></testcase></testsuite>";
    let suites = format!(
        "    unit: {{run: \"{}\"}}\n    web: {{run: \"test \\\"$MODE\\\" = fast && cat target/app && echo \\\"{junit}\\\" > out/report.xml\", reports: [\"out/*.xml\"], env: {{MODE: fast}}}}\n",
        PASSING.replace('\\', "\\\\")
    );
    let mut job = bench.suites(&suites).await;
    job.keep = Some(bench.archive(&[("out/kept", "")]).await);
    let record = JobRecord::new();
    let done: TestCompleted = said(&bench.run(&job, &record).await.unwrap());
    let counts: Vec<_> = done.suites.iter().map(|s| (s.name.as_str(), s.passed, s.failed, s.skipped)).collect();
    assert_eq!(counts, [("unit", 2, 0, 0), ("web", 1, 0, 1)]);
    assert_eq!((done.artifact, done.deploy, done.revision), (job.artifact, job.deploy, job.revision));
    assert_eq!(record.said(), ["test.started"]);
    assert!(
        record.lines().contains(&"[unit] test a ... ok".to_owned()),
        "lines come while it runs: {:?}",
        record.lines()
    );
    let log = bench.log(done.log).await;
    assert!(
        log.starts_with("[unit] printf") && log.contains("[unit] test b ... ok") && log.ends_with("\n[web] built\n"),
        "{log}"
    );
}

#[tokio::test]
async fn a_failing_test_is_told_with_its_message_and_place() {
    let bench = Bench::new();
    let script = "cat <<'END'\nrunning 2 tests\ntest tests::adds ... FAILED\ntest tests::b ... ok\n\nfailures:\n\n---- tests::adds stdout ----\n\nthread 'tests::adds' (7) panicked at src/lib.rs:21:9:\nleft: 4, right: 5\n\n\nfailures:\n    tests::adds\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\nEND\nexit 101\n";
    let pipeline = format!(
        "version: 1\ntest: {{suites: {{unit: {{run: sh it.sh}}, zz: {{run: \"{}\"}}}}}}\n",
        PASSING.replace('\\', "\\\\")
    );
    let failed = bench.failed(&bench.job(&[(".lotabots.yaml", &pipeline), ("it.sh", script)]).await).await;
    assert_eq!((failed.reason, failed.error.code), (FailureReason::Failed, Code::TestsFailed));
    assert_eq!(failed.error.message, "1 of 2 tests failed: unit::tests::adds");
    assert_eq!(failed.suites.len(), 2, "the suites after it run all the same");
    let [failure] = failed.failures.as_slice() else { panic!("{failed:?}") };
    assert_eq!((failure.name.as_str(), failure.location.as_deref()), ("tests::adds", Some("src/lib.rs:21")));
    assert!(failed.log_tail.last().unwrap().contains("1 failed") && failed.log_tail.len() <= 40);
}

#[tokio::test]
async fn a_suite_that_says_nothing_of_its_tests_has_not_passed() {
    let bench = Bench::new();
    let code = async |run: &str| {
        let job = bench.suites(&format!("    unit: {{run: {run:?}}}\n")).await;
        let failed = bench.failed(&job).await;
        (failed.error.code, failed.error.message)
    };
    assert_eq!(code("true").await.0, Code::NoTests);
    let (failed, told) = code("echo it broke; exit 3").await;
    assert_eq!((failed, told.contains("exit code 3")), (Code::CommandFailed, true), "{told}");
    assert_eq!(code("false | cat").await.0, Code::CommandFailed, "a failure inside a pipe counts");
    assert_eq!(code("false\ntrue").await.0, Code::CommandFailed, "the first command that fails ends it");
}

#[tokio::test]
async fn a_report_that_came_with_the_source_is_no_result() {
    let bench = Bench::new();
    let pipeline = "version: 1\ntest: {suites: {unit: {run: \"true\", reports: [junit.xml]}}}\n";
    let old = ("junit.xml", "<testsuite><testcase name='a'/></testsuite>");
    let failed = bench.failed(&bench.job(&[(".lotabots.yaml", pipeline), old]).await).await;
    assert_eq!(failed.error.code, Code::NoTests);
}

#[tokio::test]
async fn a_suite_that_takes_too_long_is_ended() {
    let bench = Bench::new();
    let failed =
        bench.failed(&bench.suites("    slow: {run: \"echo begin; sleep 600\", timeout: 300ms}\n").await).await;
    assert_eq!((failed.reason, failed.error.code), (FailureReason::TimedOut, Code::TimedOut));
    assert_eq!(failed.log_tail, ["begin"]);
}

#[tokio::test]
async fn without_suites_it_depends_on_who_says_so() {
    let bench = Bench::new();
    let none = bench.job(&[(".lotabots.yaml", "version: 1\ntest: {suites: {}}\n")]).await;
    let done: TestCompleted = said(&bench.run(&none, &JobRecord::new()).await.unwrap());
    assert!(done.suites.is_empty() && done.log.is_none());
    let site = bench.job(&[("index.html", "<p>hello")]).await;
    let _: TestCompleted = said(&bench.run(&site, &JobRecord::new()).await.unwrap());
    let forgotten = bench.job(&[(".lotabots.yaml", "version: 1\n")]).await;
    let failed = bench.failed(&forgotten).await;
    assert_eq!(failed.error.code, Code::NoTests);
    assert!(failed.error.message.contains("`test: {suites: {}}`"), "it says what to do: {}", failed.error.message);
}

#[tokio::test]
async fn an_artifact_cannot_replace_the_pipeline() {
    let bench = Bench::new();
    let mut job = bench.suites("    unit: {run: \"exit 9\"}\n").await;
    job.artifact = bench.archive(&[(".lotabots.yaml", "version: 1\ntest: {suites: {}}\n")]).await;
    assert_eq!(bench.failed(&job).await.error.code, Code::CommandFailed);
}

#[tokio::test]
async fn what_is_missing_or_broken_is_refused_for_good() {
    let bench = Bench::new();
    let refused = async |job: &TestJob| match bench.run(job, &JobRecord::new()).await {
        Err(Fail::Reject { code, error }) => (code, format!("{error:#}")),
        other => panic!("{other:?}"),
    };
    let mut job = bench.suites("    unit: {run: \"true\"}\n").await;
    job.artifact.digest = Digest::from_hex(&"0".repeat(64)).unwrap();
    let (code, told) = refused(&job).await;
    assert!(code == Code::FetchFailed && told.starts_with("could not fetch the artifact"), "{told}");
    job.source = bench.objects.put_bytes(b"no archive".to_vec(), Kind::Source, "x/y").await.unwrap();
    assert_eq!(refused(&job).await.0, Code::FetchFailed);
    let broken = bench.job(&[(".lotabots.yaml", "version: 1\ntset: {}\n")]).await;
    let (code, told) = refused(&broken).await;
    assert!(code == Code::InvalidPipeline && told.contains("tset"), "{told}");
    let small = Bench::with(Config { entries: 1, ..Config::default() });
    let job = small.job(&[("a", ""), ("b", ""), ("c", "")]).await;
    let Err(Fail::Reject { code, .. }) = small.run(&job, &JobRecord::new()).await else { panic!("it fits") };
    assert_eq!(code, Code::LimitExceeded);
}

#[tokio::test]
async fn a_job_that_is_told_to_stop_stops_and_says_nothing_itself() {
    let bench = Bench::new();
    let job = bench.suites("    slow: {run: \"echo begin; sleep 600\"}\n").await;
    let record = JobRecord::new();
    let stop = async {
        while !record.lines().contains(&"[slow] begin".to_owned()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        record.stop_job(Stop::Asked("wrong branch".into()));
    };
    let (outcome, ()) = tokio::join!(bench.run(&job, &record), stop);
    assert!(matches!(outcome, Err(Fail::Retry(_))), "the runtime gives it up, because it knows why: {outcome:?}");
}

#[tokio::test]
async fn a_job_that_crashed_runs_again_and_ends_once() {
    let bench = Bench::new();
    let job = bench.suites(&format!("    unit: {{run: \"{}\"}}\n", PASSING.replace('\\', "\\\\"))).await;
    let record = JobRecord::new();
    record.crash_after(0);
    assert_eq!(
        bench.run(&job, &record).await,
        Err(Fail::LeaseLost),
        "nothing is said by a process that lost its lease"
    );
    assert!(record.said().is_empty());
    record.no_more_crashes();
    // A process that dies in the middle of a suite: its future goes, and with it what it started.
    let slow = bench.suites("    slow: {run: \"touch began; sleep 600\"}\n").await;
    let cx = record.cx();
    let began = || job_folder(bench.dir.path()).is_some_and(|folder| folder.join("tree/began").exists());
    tokio::select! {
        outcome = slow.run(&bench.bot, &cx) => panic!("{outcome:?}"),
        () = async { while !began() { tokio::time::sleep(Duration::from_millis(10)).await; } } => {}
    }
    assert!(left_behind(bench.dir.path()), "the workspace of a process that died stays");
    let _: TestCompleted = said(&bench.run(&job, &record).await.unwrap());
    assert_eq!(record.said(), ["test.started"], "over all attempts");
}

/// Where a job works; the name goes on with its fencing token.
fn job_folder(dir: &Path) -> Option<PathBuf> {
    let work = std::fs::read_dir(dir.join("bot/work")).ok()?;
    work.filter_map(|e| Some(e.ok()?.path())).find(|path| path.to_string_lossy().contains("/job-1."))
}

fn left_behind(dir: &Path) -> bool {
    job_folder(dir).is_some()
}
