//! Jobs of `TestBot` with a real object store, real archives and the real sandbox: what a build's tests come to.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken assumption ends the test")]
mod fixture;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bot_clients::Kind;
use bot_core::{Fail, Job, Stop};
use bot_messages::{Code, Digest, FailureReason, test::TestCompleted};
use bot_test::JobRecord;
use fixture::{Bench, said};
use test_bot::{Config, TestJob};

/// Prints what libtest prints, without a compiler.
const PASSING: &str =
    "printf 'running 2 tests\\ntest a ... ok\\ntest b ... ok\\ntest result: ok. 2 passed; 0 failed; 0 ignored\\n'";

const FLAKY: &str = "version: 1\ntest: {suites: {unit: {run: sh it.sh}}}\n";

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
    for line in ["[unit] printf", "[unit] test b ... ok\n", "[web] built\n"] {
        assert!(log.contains(line), "{log}");
    }
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
async fn what_a_real_tool_prints_is_read_and_its_format_found() {
    let bench = Bench::new();
    assert!(Path::new("/usr/bin/node").exists(), "this test runs Node's own tests: apt-get install nodejs");
    let script = "const test = require('node:test');\ntest('adds', () => {});\ntest('group', async (t) => {\n  await t.test('broken', () => { throw new Error('boom'); });\n});\n";
    let run = "node --test --test-reporter=tap sum.test.js";
    let as_output = format!("version: 1\ntest: {{suites: {{web: {{run: {run}}}}}}}\n");
    let as_file = format!("version: 1\ntest: {{suites: {{web: {{run: '{run} > web.tap', reports: [web.tap]}}}}}}\n");
    for pipeline in [as_output, as_file] {
        let job = bench.job(&[(".lotabots.yaml", &pipeline), ("sum.test.js", script)]).await;
        let failed = bench.failed(&job).await;
        assert_eq!((failed.suites[0].passed, failed.suites[0].failed), (1, 1), "{failed:?}");
        let [failure] = failed.failures.as_slice() else { panic!("{failed:?}") };
        assert_eq!((failure.name.as_str(), failure.location.as_deref()), ("group > broken", Some("sum.test.js:4")));
        assert!(failure.message.starts_with("boom"), "{}", failure.message);
        let names: Vec<&str> = failed.slowest.iter().map(|t| t.name.as_str()).collect();
        assert!(names.len() == 2 && names.contains(&"adds"), "{names:?}");
    }
}

#[tokio::test]
async fn suites_run_side_by_side_and_do_not_disturb_each_other() {
    let bench = Bench::new();
    let script = format!(
        "test ! -e mark && echo $ME > mark && touch began\nuntil test -e go; do sleep 0.02; done\ntest \"$(cat mark)\" = $ME && {PASSING}"
    );
    let suites = "    one: {run: sh it.sh, timeout: 60s, env: {ME: one}}\n    two: {run: sh it.sh, timeout: 60s, env: {ME: two}}\n";
    let pipeline = format!("version: 1\ntest:\n  suites:\n{suites}");
    let job = bench.job(&[(".lotabots.yaml", &pipeline), ("it.sh", &script)]).await;
    // Both have begun before one may go on.
    let meet = async {
        let tree = |name: &str| Some(job_folder(bench.path())?.join("parts").join(name).join("tree"));
        let began = |name| tree(name).is_some_and(|tree| tree.join("began").exists());
        while !began("one") || !began("two") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for name in ["one", "two"] {
            std::fs::write(tree(name).unwrap().join("go"), "").unwrap();
        }
    };
    let record = JobRecord::new();
    let run = bench.run(&job, &record);
    tokio::pin!(run);
    tokio::select! {
        outcome = &mut run => panic!("they never met: {outcome:?}"),
        () = meet => {}
    }
    let done: TestCompleted = said(&run.await.unwrap());
    let names: Vec<_> = done.suites.iter().map(|s| (s.name.as_str(), s.passed)).collect();
    assert_eq!(names, [("one", 2), ("two", 2)]);
}

#[tokio::test]
async fn a_test_that_passes_when_it_is_run_again_is_flaky() {
    let bench = Bench::new();
    let tap = "echo 1..2; echo ok 1 - steady; if test -e mark; then echo ok 2 - shaky; else touch mark; echo not ok 2 - shaky; echo '# no answer'; exit 1; fi";
    let job = bench.job(&[(".lotabots.yaml", FLAKY), ("it.sh", tap)]).await;
    let done: TestCompleted = said(&bench.run(&job, &JobRecord::new()).await.unwrap());
    assert_eq!((done.suites[0].passed, done.suites[0].failed, done.suites[0].flaky), (2, 0, 1));
    let [flaky] = done.flaky.as_slice() else { panic!("{done:?}") };
    assert_eq!((flaky.suite.as_str(), flaky.name.as_str(), flaky.message.as_str()), ("unit", "shaky", "no answer"));
    let log = bench.log(done.log).await;
    assert!(log.contains("the suite is run again (1 of 1)"), "{log}");
    assert!(log.contains("[unit] flaky: shaky failed and then passed: no answer"), "{log}");
    let strict = FLAKY.replace("sh it.sh", "sh it.sh, flaky: fail");
    let failed = bench.failed(&bench.job(&[(".lotabots.yaml", &strict), ("it.sh", tap)]).await).await;
    assert_eq!((failed.error.code, failed.flaky.len()), (Code::TestsFailed, 1));
    let never = Bench::with(Config { retries: 0, ..Config::default() });
    let failed = never.failed(&never.job(&[(".lotabots.yaml", FLAKY), ("it.sh", tap)]).await).await;
    assert_eq!((failed.suites[0].failed, failed.flaky.len()), (1, 0));
}

#[tokio::test]
async fn a_test_that_fails_twice_failed() {
    let bench = Bench::new();
    let tap = "echo run >> runs; echo 1..1; echo not ok 1 - broken; cat runs; exit 1";
    let failed = bench.failed(&bench.job(&[(".lotabots.yaml", FLAKY), ("it.sh", tap)]).await).await;
    assert_eq!((failed.suites[0].failed, failed.suites[0].flaky, failed.failures.len()), (1, 0, 1));
    let log = bench.log(failed.log).await;
    assert_eq!(log.matches("[unit] run\n").count(), 3, "once in the first run, twice in the second: {log}");
}

#[tokio::test]
async fn coverage_is_merged_over_the_suites_and_held_against_the_last() {
    let bench = Bench::new();
    let lcov = "SF:src/a.rs\nDA:1,1\nDA:2,0\nDA:3,0\nDA:4,0\nend_of_record\n";
    let cobertura = "<coverage><class filename='src/a.rs'><line number='2' hits='5'/></class></coverage>";
    let pipeline = format!(
        "version: 1\ntest:\n  suites:\n    one: {{run: \"cp one.txt lcov.info; {0}\", coverage: [lcov.info]}}\n    two: {{run: \"sed s#src#$PWD/src# two.txt > cov.xml; {0}\", coverage: [cov.xml]}}\n",
        PASSING.replace('\\', "\\\\")
    );
    let files = [(".lotabots.yaml", pipeline.as_str()), ("one.txt", lcov), ("two.txt", cobertura)];
    let mut job = bench.job(&files).await;
    job.covered_before = serde_json::from_str("{\"covered\": 1, \"total\": 4}").unwrap();
    let done: TestCompleted = said(&bench.run(&job, &JobRecord::new()).await.unwrap());
    let coverage = done.coverage.unwrap();
    assert_eq!((coverage.lines_covered, coverage.lines_total), (2, 4));
    assert_eq!((coverage.percent, coverage.change), (50.0, Some(25.0)));
    let missing = pipeline.replace("> cov.xml", "> other.xml");
    let job = bench.job(&[(".lotabots.yaml", &missing), ("one.txt", lcov), ("two.txt", cobertura)]).await;
    let done: TestCompleted = said(&bench.run(&job, &JobRecord::new()).await.unwrap());
    assert_eq!(done.coverage, None, "a part would look like a fall");
    let log = bench.log(done.log).await;
    assert!(log.contains("[two] the coverage of this run is not told: no file fits cov.xml"), "{log}");
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
    let slow = "{run: \"echo begin; sleep 600\"}";
    let job = bench.suites(&format!("    late: {slow}\n    slow: {slow}\n    third: {slow}\n")).await;
    let record = JobRecord::new();
    let begun = |suite: &str| record.lines().contains(&format!("[{suite}] begin"));
    let stop = async {
        while !begun("slow") || !begun("late") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        record.stop_job(Stop::Asked("wrong branch".into()));
    };
    let (outcome, ()) = tokio::join!(bench.run(&job, &record), stop);
    assert!(matches!(outcome, Err(Fail::Retry(_))), "the runtime gives it up, because it knows why: {outcome:?}");
    assert!(!begun("third"), "two at a time, and none after");
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
    let began = || job_folder(bench.path()).is_some_and(|folder| folder.join("tree/began").exists());
    tokio::select! {
        outcome = slow.run(&bench.bot, &cx) => panic!("{outcome:?}"),
        () = async { while !began() { tokio::time::sleep(Duration::from_millis(10)).await; } } => {}
    }
    assert!(left_behind(bench.path()), "the workspace of a process that died stays");
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

#[tokio::test]
async fn logs_that_cannot_be_kept_are_gone_without_and_not_tried_again_at_once() {
    let bench = Bench::new();
    let job = bench.suites(&format!("    unit: {{run: \"{}\"}}\n", PASSING.replace('\\', "\\\\"))).await;
    // Where the markers of what is stored go, a file is in the way; the log is all that this job stores.
    let (markers, aside) = (bench.path().join("objects/kinds"), bench.path().join("kinds"));
    std::fs::rename(&markers, &aside).unwrap();
    std::fs::write(&markers, "").unwrap();
    for what in ["fails", "is off"] {
        let record = JobRecord::new();
        let done: TestCompleted = said(&bench.run(&job, &record).await.unwrap());
        assert_eq!((done.suites[0].passed, done.log), (2, None), "{what}");
        assert!(
            record.lines().iter().any(|line| line.contains("goes on without logs")),
            "{what}: {:?}",
            record.lines()
        );
        if aside.exists() {
            std::fs::remove_file(&markers).unwrap();
            std::fs::rename(&aside, &markers).unwrap();
        }
    }
}
