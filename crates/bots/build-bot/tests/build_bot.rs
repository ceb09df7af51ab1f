//! BuildBot's job on real git repositories, in the sandbox this machine has.
mod fixture;

use std::{os::unix::fs::symlink, time::Duration};

use bot_core::{Effect, Fail, Stop};
use bot_messages::{
    Code, ObjectRef,
    build::{BuildCompleted, BuildFailed},
    pipeline::Trigger,
    repository::RepositoryPushed,
};
use build_bot::{BuildJob, Config};
use fixture::{Fleet, Repository, small_repository};

#[tokio::test]
async fn a_commit_is_built_and_everything_is_in_the_store() {
    let (fleet, repository) = (Fleet::new(), small_repository());
    // What a repository says about exporting and line ends must not change its source.
    repository.write(".gitattributes", "tests export-ignore\n*.txt text eol=crlf export-subst ident\n");
    repository.write("src.txt", "source $Format:%H$ $Id$\n");
    let commit = repository.commit();
    let run = fleet.run(&repository.revision(&commit)).await;
    assert_eq!(run.record.said(), ["build.started"]);
    let done: BuildCompleted = run.only_event("build.completed");
    assert_eq!(
        done.steps.iter().map(|s| (s.name.as_str(), s.exit_code)).collect::<Vec<_>>(),
        [("compile", Some(0)), ("polish", Some(0))]
    );
    assert_eq!(done.deploy["staging"].when.as_ref().unwrap().branch.0, ["main"]);
    let artifact = fleet.unpack(&done.artifact).await;
    assert_eq!(artifact["dist/app"], "source $Format:%H$ $Id$\npolished\n");
    assert_eq!(artifact["dist/commit"].trim(), commit);
    let source = fleet.unpack(&done.source).await;
    assert_eq!(source.keys().collect::<Vec<_>>(), [".gitattributes", ".lotabots.yaml", "src.txt", "tests/t.sh"]);
    assert_eq!(fleet.unpack(&done.keep.unwrap()).await.keys().collect::<Vec<_>>(), ["tests/t.sh"]);
    let log = fleet.text(&done.log).await;
    assert!(log.contains("[compile] building app\n") && log.starts_with("[fetch] shop/api "), "{log}");
    assert!(run.record.lines().contains(&"[compile] building app".to_owned()));
    assert!(fleet.work_is_empty());
}

#[tokio::test]
async fn the_same_commit_twice_is_the_same_artifact() {
    let (fleet, repository) = (Fleet::new(), small_repository());
    let commit = repository.commit();
    let first: BuildCompleted = fleet.run(&repository.revision(&commit)).await.only_event("build.completed");
    // The mirror has it: the repository may even be away.
    std::fs::remove_dir_all(repository.path()).unwrap();
    let second: BuildCompleted = fleet.run_anew(&repository.revision(&commit)).await.only_event("build.completed");
    assert!(!second.cached);
    assert_eq!((first.artifact, first.source, first.keep), (second.artifact, second.source, second.keep));
}

#[tokio::test]
async fn a_failing_step_is_one_build_failed_with_step_tail_and_log() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    repository.write(
        ".lotabots.yaml",
        "version: 1\nbuild:\n  steps:\n    - {name: good, run: echo fine}\n    - {name: bad, run: \"echo one; false | true; echo never\"}\n    - {name: after, run: echo after}\n",
    );
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    assert_eq!(run.rejected(), Code::CommandFailed);
    let failed: BuildFailed = run.gave_up(&fleet);
    assert_eq!((failed.step.as_deref(), failed.log_tail.first().map(String::as_str)), (Some("bad"), Some("one")));
    assert!(failed.error.message.contains("step `bad` ended with exit code 1"), "{}", failed.error.message);
    let log = fleet.text(&failed.log.unwrap()).await;
    assert!(log.contains("[good] fine") && !log.contains("after") && !log.contains("never"), "{log}");
    assert!(fleet.work_is_empty());
}

#[tokio::test]
async fn mistakes_in_the_pipeline_are_told_with_their_place() {
    let fleet = Fleet::new();
    for (text, want) in [
        ("version: 1\nbuild:\n  stepz: []\n", ".lotabots.yaml:3:"),
        ("version: 1\nbuild: {artifacts: ['[a']}\n", "build.artifacts: `[a` is no pattern"),
        ("version: 1\nbuild: {artifacts: [nothing]}\n", "build.artifacts: `nothing` matches no file"),
    ] {
        let repository = Repository::new();
        repository.write(".lotabots.yaml", text);
        let run = fleet.run(&repository.revision(&repository.commit())).await;
        assert_eq!(run.rejected(), Code::InvalidPipeline);
        assert!(run.message().contains(want), "{}", run.message());
    }
    let nothing = Repository::new();
    nothing.write("README", "");
    let run = fleet.run(&nothing.revision(&nothing.commit())).await;
    assert!(run.rejected() == Code::InvalidPipeline && run.message().contains("Makefile"), "{}", run.message());
    assert!(run.record.said().is_empty());
}

#[tokio::test]
async fn makefiles_and_sites_are_recognised() {
    let fleet = Fleet::new();
    let make = Repository::new();
    make.write("Makefile", "all:\n\techo made > out\n");
    let done: BuildCompleted = fleet.run(&make.revision(&make.commit())).await.only_event("build.completed");
    let log = fleet.text(&done.log).await;
    assert!(log.contains("recognised as make by Makefile"), "{log}");
    assert!(log.contains("[fetch]     - name: make\n[fetch]       run: make\n"), "the file that it stands for: {log}");
    assert_eq!(fleet.unpack(&done.artifact).await["out"], "made\n");
    let site = Repository::new();
    site.write("index.html", "<p>hello");
    let done: BuildCompleted = fleet.run(&site.revision(&site.commit())).await.only_event("build.completed");
    assert_eq!(fleet.unpack(&done.artifact).await["index.html"], "<p>hello");
}

#[tokio::test]
async fn a_cargo_project_without_a_pipeline_file_is_built() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    repository.write("Cargo.toml", "[package]\nname = \"hello\"\nversion = \"1.0.0\"\nedition = \"2024\"\n");
    repository.write("src/main.rs", "fn main() { println!(\"hello\"); }\n");
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    let done: BuildCompleted = run.only_event("build.completed");
    assert_eq!(fleet.names(&done.artifact).await, ["target/artifacts/hello"]);
}

#[tokio::test]
async fn a_repository_with_sha256_ids_is_built() {
    let (fleet, repository) = (Fleet::new(), Repository::with_format("sha256"));
    repository.write("index.html", "<p>hello");
    let commit = repository.commit();
    assert_eq!(commit.len(), 64);
    let _: BuildCompleted = fleet.run(&repository.revision(&commit)).await.only_event("build.completed");
}

#[tokio::test]
async fn a_missing_commit_is_final_and_says_what_is_there() {
    let (fleet, repository) = (Fleet::new(), small_repository());
    let head = repository.commit();
    let run = fleet.run(&repository.revision(&"ab".repeat(20))).await;
    assert_eq!(run.rejected(), Code::FetchFailed);
    assert!(run.message().contains(&head) && run.message().contains("refs/heads/main"), "{}", run.message());
    let mut elsewhere = repository.revision(&"ab".repeat(20));
    elsewhere.git_ref = "refs/heads/other".into();
    let run = fleet.run(&elsewhere).await;
    assert!(run.message().contains("neither is refs/heads/other"), "{}", run.message());
    elsewhere.url = "/srv/no/such/repository".into();
    let run = fleet.run(&elsewhere).await;
    assert!(run.rejected() == Code::FetchFailed && run.message().contains("is not a folder"), "{}", run.message());
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_tried_again_until_the_breaker_opens() {
    let fleet = Fleet::with(Config { allow_unencrypted: true, ..Config::default() });
    let mut revision = small_repository().revision(&"ab".repeat(20));
    // Port 1 of this machine: nobody listens.
    revision.url = "http://127.0.0.1:1/shop/api.git".into();
    for _ in 0..5 {
        let run = fleet.run(&revision).await;
        let Err(Fail::Outside { dependency, code, .. }) = &run.outcome else { panic!("{:?}", run.outcome) };
        assert_eq!((dependency.as_str(), *code), ("git:127.0.0.1", Code::ConnectionRefused), "{}", run.message());
    }
    let run = fleet.run(&revision).await;
    assert!(matches!(run.outcome, Err(Fail::Later(..))), "{:?}", run.outcome);
    assert!(run.message().contains("git:127.0.0.1 is temporarily disabled"), "{}", run.message());
}

#[tokio::test]
async fn a_bundle_is_enough() {
    let (fleet, repository) = (Fleet::new(), small_repository());
    let commit = repository.commit();
    let bundle = fleet.store(&repository.bundle()).await;
    let mut revision = repository.revision(&commit);
    revision.url = "https://git.example.org/unreachable.git".into();
    let run = fleet.run_with(&revision, Some(bundle.clone())).await;
    let _: BuildCompleted = run.only_event("build.completed");
    revision.commit = "ab".repeat(20).parse().unwrap();
    let run = fleet.run_with(&revision, Some(bundle)).await;
    assert!(run.message().contains("the bundle does not hold commit"), "{}", run.message());
    let run = fleet.run_with(&revision, Some(ObjectRef::example("application/x-git-bundle"))).await;
    assert!(run.rejected() == Code::FetchFailed && run.message().contains("not in the store"), "{}", run.message());
}

#[tokio::test]
async fn a_damaged_mirror_is_made_anew() {
    let (fleet, repository) = (Fleet::new(), small_repository());
    let first = repository.commit();
    let _: BuildCompleted = fleet.run(&repository.revision(&first)).await.only_event("build.completed");
    repository.write("src.txt", "second\n");
    let second = repository.commit();
    for damage in ["objects", "HEAD"] {
        let mirror = std::fs::read_dir(fleet.mirrors()).unwrap().next().unwrap().unwrap().path();
        fixture::damage(&mirror.join(damage));
        for commit in [&first, &second] {
            let _: BuildCompleted = fleet.run(&repository.revision(commit)).await.only_event("build.completed");
        }
    }
}

#[tokio::test]
async fn a_linked_worktree_and_a_shallow_clone_are_built() {
    let (fleet, repository) = (Fleet::new(), small_repository());
    repository.commit();
    repository.write("src.txt", "second\n");
    let commit = repository.commit();
    for copy in [repository.worktree(), repository.shallow_clone(), repository.borrowing_clone()] {
        let mut revision = repository.revision(&commit);
        revision.url = copy.display().to_string();
        let _: BuildCompleted = fleet.run(&revision).await.only_event("build.completed");
    }
}

#[tokio::test]
async fn hooks_of_the_repository_are_not_run() {
    let (fleet, repository) = (Fleet::new(), small_repository());
    let commit = repository.commit();
    let trace = repository.add_every_hook();
    let _: BuildCompleted = fleet.run(&repository.revision(&commit)).await.only_event("build.completed");
    assert!(!trace.exists());
}

#[tokio::test]
async fn links_that_leave_the_workspace_are_refused() {
    let fleet = Fleet::new();
    let committed = small_repository();
    symlink("/etc/passwd", committed.path().join("passwd")).unwrap();
    let run = fleet.run(&committed.revision(&committed.commit())).await;
    assert!(
        run.rejected() == Code::FetchFailed && run.message().contains("`passwd` -> `/etc/passwd`"),
        "{}",
        run.message()
    );
    for made in
        ["ln -s /etc/passwd dist/x", "ln -s ../../x dist/x", "mkdir d; ln -s ../dist d/up; ln -s d/up/../../x dist/x"]
    {
        let repository = Repository::new();
        let step = format!("mkdir dist; {made}");
        repository.write(
            ".lotabots.yaml",
            &format!("version: 1\nbuild: {{steps: [{{name: a, run: \"{step}\"}}], artifacts: [dist]}}\n"),
        );
        let run = fleet.run(&repository.revision(&repository.commit())).await;
        assert!(run.rejected() == Code::Rejected && run.message().contains("`dist/x` -> "), "{}", run.message());
    }
}

#[tokio::test]
async fn limits_end_a_step() {
    let fleet = Fleet::with(Config { output_mib: 1, source_mib: 1, ..Config::default() });
    let repository = Repository::new();
    let steps = |step: &str| format!("version: 1\nbuild: {{steps: [{{name: a, {step}}}]}}\n");
    for (step, code, want) in [
        ("run: sleep 60, timeout: 1s", Code::TimedOut, "did not end within 1 s"),
        ("run: yes", Code::LimitExceeded, "1 MiB of output"),
    ] {
        repository.write(".lotabots.yaml", &steps(step));
        let run = fleet.run(&repository.revision(&repository.commit())).await;
        assert!(run.rejected() == code && run.message().contains(want), "{}", run.message());
    }
    repository.write("large", &"x".repeat(2 << 20));
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    assert!(run.rejected() == Code::LimitExceeded && run.message().contains("bytes"), "{}", run.message());
}

#[tokio::test]
async fn steps_that_will_not_end_or_take_too_much_are_killed_and_the_next_build_is_well() {
    let fleet = Fleet::with(Config { memory_mib: 256, workspace_mib: 64, ..Config::default() });
    let repository = Repository::new();
    for (run, code, want) in [
        ("trap '' TERM; while true; do sleep 0.1; done", Code::TimedOut, "did not end within 2 s"),
        ("trap '' TERM; (trap '' TERM; setsid sleep 3600) & wait", Code::TimedOut, "did not end within 2 s"),
        ("head -c 1000m /dev/zero | tail", Code::LimitExceeded, "256 MiB of memory"),
        ("head -c 100m /dev/zero > fill; sleep 3600", Code::LimitExceeded, "filled the disk"),
    ] {
        let timeout = if code == Code::TimedOut { "2s" } else { "2m" };
        let step = format!("{{name: a, run: \"{run}\", timeout: {timeout}}}");
        repository.write(".lotabots.yaml", &format!("version: 1\nbuild: {{steps: [{step}]}}\n"));
        let run = fleet.run(&repository.revision(&repository.commit())).await;
        assert!(run.rejected() == code && run.message().contains(want), "{}", run.message());
        assert!(fleet.work_is_empty());
    }
    repository.write(".lotabots.yaml", "version: 1\nbuild: {steps: [{name: a, run: echo well}]}\n");
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    let _: BuildCompleted = run.only_event("build.completed");
}

#[tokio::test]
async fn a_job_that_has_to_stop_stops_at_once_and_keeps_its_log() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    repository.write(".lotabots.yaml", "version: 1\nbuild: {steps: [{name: long, run: \"echo begun; sleep 600\"}]}\n");
    let revision = repository.revision(&repository.commit());
    let record = bot_test::JobRecord::new();
    let stop = async {
        while !record.lines().contains(&"[long] begun".to_owned()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        record.stop_job(Stop::Asked("ada".into()));
    };
    let both = async { tokio::join!(fleet.attempt(&revision, None, &record), stop).0 };
    let run = tokio::time::timeout(Duration::from_secs(15), both).await.unwrap();
    assert!(matches!(run.outcome, Err(Fail::Retry(_))), "{:?}", run.outcome);
    let failed: BuildFailed = run.gave_up(&fleet);
    assert_eq!(failed.step.as_deref(), Some("long"));
    assert!(fleet.text(&failed.log.unwrap()).await.contains("[long] begun"));
    assert!(fleet.work_is_empty());
}

#[tokio::test]
async fn after_a_crash_the_job_runs_again_and_ends_once() {
    let (fleet, repository) = (Fleet::new(), small_repository());
    let revision = repository.revision(&repository.commit());
    let record = bot_test::JobRecord::new();
    record.crash_after(0);
    let first = fleet.attempt(&revision, None, &record).await;
    assert_eq!(first.outcome, Err(Fail::LeaseLost));
    record.no_more_crashes();
    let second = fleet.attempt(&revision, None, &record).await;
    let _: BuildCompleted = second.only_event("build.completed");
    let third = fleet.attempt(&revision, None, &record).await;
    let _: BuildCompleted = third.only_event("build.completed");
    assert_eq!(record.said(), ["build.started"], "said once over all attempts");
}

#[tokio::test]
async fn two_jobs_of_one_repository_at_a_time() {
    let (fleet, repository) = (Fleet::new(), small_repository());
    let first = repository.revision(&repository.commit());
    repository.write("src.txt", "second\n");
    let second = repository.revision(&repository.commit());
    let records = [bot_test::JobRecord::new(), bot_test::JobRecord::new()];
    let (one, two) = tokio::join!(
        fleet.attempt_as("job-a", &first, None, &records[0]),
        fleet.attempt_as("job-b", &second, None, &records[1])
    );
    let one: BuildCompleted = one.only_event("build.completed");
    let two: BuildCompleted = two.only_event("build.completed");
    assert_ne!(one.artifact, two.artifact);
}

#[test]
fn a_job_reads_back_as_it_was_stored() {
    let push = <RepositoryPushed as bot_messages::Event>::example();
    let job = BuildJob {
        revision: push.revision,
        bundle: push.bundle,
        base: push.before,
        trigger: Trigger::Manual,
        anew: true,
    };
    let effects = bot_core::Effects::<build_bot::BuildBot>::none().start("shop/api", &job);
    let Effect::Start { payload, .. } = &effects.list[0] else { panic!() };
    assert_eq!(serde_json::from_value::<BuildJob>(payload.clone()).unwrap(), job);
}

#[tokio::test]
async fn a_step_for_another_branch_is_skipped_and_says_why() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    repository.write(
        ".lotabots.yaml",
        "version: 1\nbuild:\n  steps:\n    - {name: publish, run: exit 1, when: {branch: release/*}}\n    - {name: compile, run: echo fine, needs: [publish]}\n",
    );
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    let done: BuildCompleted = run.only_event("build.completed");
    assert_eq!(done.steps.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["compile"]);
    let log = fleet.text(&done.log).await;
    assert!(log.contains("[publish] skipped: only for branch release/*, and this is refs/heads/main"), "{log}");
}
