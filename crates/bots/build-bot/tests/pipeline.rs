//! What a pipeline file may ask for, on real git repositories: order, conditions, matrix, cache, and not building twice.
mod fixture;

use bot_messages::{
    Code,
    build::{BuildCompleted, BuildFailed},
    pipeline::Trigger,
};
use build_bot::{BuildJob, Config};
use fixture::{Fleet, PIPELINE, Repository, small_repository};

#[tokio::test]
async fn steps_that_need_nothing_of_each_other_run_side_by_side() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    // Each waits for what the other writes: one after the other, neither would end.
    let meet = |own: &str, other: &str| {
        format!(
            "{{name: {own}, needs: [], timeout: 60s, run: \"touch {own}.here; until [ -e {other}.here ]; do sleep 0.05; done; echo met\"}}"
        )
    };
    let last = "{name: last, needs: [left, right], run: ls *.here}";
    let steps = [meet("left", "right"), meet("right", "left"), last.to_owned()].join(", ");
    repository.write(".lotabots.yaml", &format!("version: 1\nbuild: {{steps: [{steps}]}}\n"));
    let done: BuildCompleted =
        fleet.run(&repository.revision(&repository.commit())).await.only_event("build.completed");
    assert_eq!(done.steps.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["left", "right", "last"]);
    let log = fleet.text(&done.log).await;
    for line in ["[left] met\n", "[right] met\n", "[last] left.here\n[last] right.here\n"] {
        assert!(log.contains(line), "{log}");
    }
}

#[tokio::test]
async fn the_first_step_that_fails_ends_the_others_and_is_the_one_named() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    repository.write(
        ".lotabots.yaml",
        "version: 1\nbuild:\n  steps:\n    - {name: long, run: \"touch begun; sleep 600\"}\n    - {name: bad, needs: [], run: \"until [ -e begun ]; do sleep 0.05; done; echo oh; exit 3\"}\n    - {name: never, needs: [], run: echo ran}\n",
    );
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    assert_eq!(run.rejected(), Code::CommandFailed);
    let failed: BuildFailed = run.gave_up(&fleet);
    assert_eq!(failed.step.as_deref(), Some("bad"));
    assert!(failed.error.message.contains("step `bad` ended with exit code 3"), "{}", failed.error.message);
    let log = fleet.text(&failed.log.unwrap()).await;
    assert!(log.contains("[long] ended, because `bad` failed") && !log.contains("[never]"), "{log}");
    assert!(fleet.work_is_empty());
}

#[tokio::test]
async fn steps_and_deployments_follow_what_changed_and_what_led_to_it() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    let text = "version: 1\nbuild:\n  steps:\n    - {name: docs, run: echo docs, when: {path: 'docs/**'}}\n    - {name: code, run: echo code, when: {path: [src/**, '*.toml']}}\n    - {name: nightly, run: echo nightly, when: {event: [schedule]}}\ndeploy:\n  site: {when: {path: 'docs/**'}}\n  app: {when: {branch: main, event: [push]}}\n";
    repository.write(".lotabots.yaml", text);
    repository.write("src/a", "1");
    let first = repository.commit();
    repository.write("docs/a", "1");
    let second = repository.commit();
    repository.write("src/b", "1");
    let third = repository.commit();
    let built = async |commit: &str, base: Option<&str>, trigger| {
        let base = base.map(|base| base.parse().unwrap());
        let job = BuildJob { revision: repository.revision(commit), bundle: None, base, trigger, anew: false };
        let done: BuildCompleted = fleet.run_as(job).await.only_event("build.completed");
        let steps: Vec<String> = done.steps.iter().map(|step| step.name.clone()).collect();
        let stages: Vec<String> = done.deploy.keys().cloned().collect();
        (steps.join(" "), stages.join(" "), fleet.text(&done.log).await)
    };
    // A first commit changes all it has; another is compared with its parent, or with what came before.
    let (steps, stages, log) = built(&first, None, Trigger::Push).await;
    assert_eq!((steps.as_str(), stages.as_str()), ("code", "app"));
    assert!(log.contains("[docs] skipped: only where docs/** changed, and none of 2 changed files is"), "{log}");
    assert!(log.contains("[nightly] skipped: only for event schedule, and this is push"), "{log}");
    assert!(log.contains("[deploy] site is left out: only where docs/** changed"), "{log}");
    let (steps, stages, _) = built(&second, None, Trigger::Push).await;
    assert_eq!((steps.as_str(), stages.as_str()), ("docs", "app site"));
    let (steps, stages, _) = built(&third, Some(&first), Trigger::Schedule).await;
    assert_eq!((steps.as_str(), stages.as_str()), ("docs code nightly", "site"));
    let (steps, stages, log) = built(&third, Some(&"ab".repeat(20)), Trigger::Push).await;
    assert_eq!((steps.as_str(), stages.as_str()), ("docs code", "app site"));
    assert!(log.contains("[docs] runs: which files changed is not known: commit abab"), "{log}");
}

#[tokio::test]
async fn a_matrix_is_built_once_for_each_combination_in_a_tree_of_its_own() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    repository.write(
        ".lotabots.yaml",
        "version: 1\nbuild:\n  matrix: {libc: [gnu, musl], opt: ['0', '3']}\n  steps:\n    - {name: compile, run: 'test ! -e made; test ! -e ~/made; touch made ~/made; echo $MATRIX_LIBC $MATRIX_OPT > app'}\n    - {name: look, run: cat app src}\n  artifacts: [app]\n  keep: [src]\n",
    );
    repository.write("src", "source\n");
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    let done: BuildCompleted = run.only_event("build.completed");
    let names: Vec<&str> = done.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names.len(), 8);
    assert_eq!(names[..3], ["compile (gnu, 0)", "look (gnu, 0)", "compile (gnu, 3)"]);
    let artifact = fleet.unpack(&done.artifact).await;
    let files: Vec<(&str, &str)> = artifact.iter().map(|(name, text)| (name.as_str(), text.trim())).collect();
    let want = [
        ("app", "gnu 0"),
        ("matrix/gnu/3/app", "gnu 3"),
        ("matrix/musl/0/app", "musl 0"),
        ("matrix/musl/3/app", "musl 3"),
    ];
    assert_eq!(files, want);
    assert!(fleet.unpack(&done.keep.unwrap()).await.contains_key("matrix/musl/3/src"));
    let log = fleet.text(&done.log).await;
    assert!(log.contains("[look (musl, 3)] musl 3\n[look (musl, 3)] source\n"), "{log}");
    assert!(fleet.work_is_empty());
}

#[tokio::test]
async fn a_matrix_fails_with_the_combination_that_failed() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    let steps = "steps: [{name: a, run: 'test $MATRIX_V != two'}], artifacts: [matrix]";
    repository.write(".lotabots.yaml", &format!("version: 1\nbuild: {{matrix: {{v: [one, two]}}, {steps}}}\n"));
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    assert_eq!(run.gave_up::<BuildFailed>(&fleet).step.as_deref(), Some("a (two)"));
    assert!(run.message().contains("step `a (two)` ended with exit code 1"), "{}", run.message());
    // What would lie at one path twice is said, and not lost.
    repository.write("matrix/three/matrix/x", "");
    repository.write("matrix/x", "");
    repository.write(
        ".lotabots.yaml",
        "version: 1\nbuild: {matrix: {v: [one, three]}, steps: [{name: a, run: 'true'}], artifacts: [matrix]}\n",
    );
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    assert!(run.rejected() == Code::Rejected && run.message().contains("twice"), "{}", run.message());
}

#[tokio::test]
async fn cached_paths_come_back_until_lock_files_change_and_forks_share_none() {
    let fleet =
        Fleet::listing("- {match: '**/fork', trust: fork}\n- {match: '**', trust: own}", &[], Config::default());
    let repository = Repository::new();
    let text = "version: 1\nbuild:\n  steps:\n    - {name: fill, run: 'mkdir -p target ~/.store; echo x >> target/n; echo y >> ~/.store/n; cat target/n ~/.store/n | tr -d \"\\n\"; exit $(cat code)'}\n  cache: [target, ~/.store]\n";
    repository.write(".lotabots.yaml", text);
    repository.write("code", "0");
    repository.write("Cargo.lock", "1");
    let first = repository.commit();
    let log = async |commit: &str, url: Option<String>| {
        let mut revision = repository.revision(commit);
        revision.url = url.unwrap_or(revision.url);
        fleet.run_anew(&revision).await.record.lines().join("\n")
    };
    let cold = log(&first, None).await;
    assert!(cold.contains("[cache] nothing was kept") && cold.contains("[fill] xy\n"), "{cold}");
    assert!(cold.contains("[cache] 2 files kept"), "{cold}");
    let warm = log(&first, None).await;
    assert!(warm.contains("[cache] 2 files of a build with the same lock files") && warm.contains("[fill] xxyy\n"));
    assert!(!warm.contains("files kept"), "it is there already: {warm}");
    repository.write("Cargo.lock", "2");
    repository.write("code", "1");
    let failing = log(&repository.commit(), None).await;
    assert!(failing.contains("with other lock files") && !failing.contains("files kept"), "{failing}");
    repository.write("code", "0");
    let second = repository.commit();
    let other = log(&second, None).await;
    assert!(other.contains("[fill] xxyy\n") && other.contains("[cache] 2 files kept"), "{other}");
    let fork = repository.path().with_file_name("fork");
    std::fs::rename(repository.path(), &fork).unwrap();
    let fork = log(&second, Some(fork.display().to_string())).await;
    assert!(fork.contains("[cache] a fork shares no cache") && fork.contains("[fill] xy\n"), "{fork}");
}

#[tokio::test]
async fn the_same_source_is_not_built_twice_and_says_from_which_job_it_is() {
    let (fleet, repository) = (Fleet::new(), small_repository());
    let first = repository.revision(&repository.commit());
    // Another commit, and the same tree.
    let second = repository.revision(&repository.commit());
    assert_ne!(first.commit, second.commit);
    let record = bot_test::JobRecord::new();
    let asks_for_commit: BuildCompleted =
        fleet.attempt_as("job-a", &first, None, &record).await.only_event("build.completed");
    let again: BuildCompleted = fleet.run(&second).await.only_event("build.completed");
    assert!(!again.cached, "a step writes LOTA_COMMIT");
    assert_ne!(asks_for_commit.artifact, again.artifact);

    let plain = small_repository();
    plain.write(".lotabots.yaml", &PIPELINE.replace("$LOTA_COMMIT", "fine"));
    let first = plain.revision(&plain.commit());
    let built: BuildCompleted = fleet.attempt_as("job-b", &first, None, &record).await.only_event("build.completed");
    assert!(!built.cached);
    let second = plain.revision(&plain.commit());
    let run = fleet.run(&second).await;
    let again: BuildCompleted = run.only_event("build.completed");
    assert!(again.cached && again.revision.commit == second.commit);
    assert_eq!((&again.artifact, &again.keep, &again.steps), (&built.artifact, &built.keep, &built.steps));
    assert!(again.deploy.contains_key("staging"));
    let log = fleet.text(&again.log).await;
    assert!(log.contains("[again] the same source was built by the same tools in job job-b"), "{log}");
    assert!(!log.contains("[compile]") && run.record.said() == ["build.started"], "{log}");

    // Somebody asks; the product is gone; the source is another.
    let asked: BuildCompleted = fleet.run_anew(&second).await.only_event("build.completed");
    assert!(!asked.cached);
    fleet.forget_object(&built.artifact);
    let anew: BuildCompleted = fleet.run(&second).await.only_event("build.completed");
    assert!(!anew.cached && fleet.text(&anew.log).await.contains("is gone: built anew"));
    plain.write("src.txt", "other\n");
    let other: BuildCompleted = fleet.run(&plain.revision(&plain.commit())).await.only_event("build.completed");
    assert!(!other.cached && other.artifact != built.artifact);
}

#[tokio::test]
async fn what_reaches_out_is_built_each_time() {
    let list = "- {match: '**', trust: own, secrets: [TOKEN]}";
    let fleet = Fleet::listing(list, &[("TOKEN", "canary-5f1d")], Config::default());
    for step in ["network: true", "secrets: [TOKEN]"] {
        let repository = Repository::new();
        repository
            .write(".lotabots.yaml", &format!("version: 1\nbuild: {{steps: [{{name: a, run: date, {step}}}]}}\n"));
        let revision = repository.revision(&repository.commit());
        for _ in 0..2 {
            let done: BuildCompleted = fleet.run(&revision).await.only_event("build.completed");
            assert!(!done.cached, "{step}");
        }
    }
}

#[tokio::test]
async fn a_cache_that_cannot_be_kept_is_gone_without_and_not_tried_again_at_once() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    let text =
        "version: 1\nbuild: {steps: [{name: fill, run: 'mkdir -p target; echo x > target/n'}], cache: [target]}\n";
    repository.write(".lotabots.yaml", text);
    let revision = repository.revision(&repository.commit());
    let caches = fleet.mirrors().with_file_name("cache");
    std::fs::write(&caches, "in the way").unwrap();
    for what in ["fails", "is off"] {
        let run = fleet.run_anew(&revision).await;
        let log = run.record.lines().join("\n");
        assert!(log.contains("[cache] goes on without cache"), "{what}: {log}");
        let _: BuildCompleted = run.only_event("build.completed");
        let _ = std::fs::remove_file(&caches);
    }
    assert!(!caches.exists(), "it was not tried the second time");
}
