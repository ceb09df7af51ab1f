//! What DeployBot does to a machine: real artifacts, folders and processes; no broker.
mod compose;
mod field;
mod killed;
mod scripts;

use std::{fs, sync::Arc};

use bot_clients::{Kind, RetentionDays};
use bot_core::{Effect, Fail, GaveUp, Job, JobPort, Stop};
use bot_messages::{
    Code, Event, FailureReason, ObjectRef, Revision, SafeError,
    approval::ApprovalDenied,
    deploy::{DeployCompleted, DeployFailed, DeployRolledBack, DeployStarted},
    pipeline::DeployStage,
    test::TestCompleted,
};
use bot_test::{JobRecord, Rehearsal};
use deploy_bot::{CollectJob, DeployBot};
use field::{Field, cx, stage};
use killed::one_of_each;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

#[tokio::test]
async fn a_first_deployment_serves() {
    let field = Field::new();
    let artifact = field.whole_artifact("one", "good").await;
    let job = field.job_of_stage(&artifact, stage("exec ./site"));
    let ended = field.run("job-1", &job).await;
    assert_eq!(ended.said(), ["deploy.started", "deploy.completed"]);
    assert_eq!(ended.event::<DeployStarted>().previous, None);
    let completed: DeployCompleted = ended.event();
    assert_eq!((completed.digest, completed.previous), (artifact.digest.clone(), None));
    let url = completed.url.unwrap();
    assert_eq!(completed.health_url, Some(format!("{url}health")));
    assert_eq!(field.page().await.as_deref(), Some("one"));
    assert_eq!(field.current().as_deref(), Some(artifact.digest.hex()));
    assert_eq!(field.processes().len(), 1);
    let page = field.root().join("current/page");
    assert!(fs::metadata(page).unwrap().permissions().readonly(), "a release is read-only");
}

#[tokio::test]
async fn the_next_one_takes_its_place_under_the_same_address() {
    let field = Field::new();
    let (one, two) = (field.artifact("one", "good").await, field.artifact("two", "good").await);
    let first: DeployCompleted = field.run("job-1", &field.deploy_job(&one)).await.event();
    let second: DeployCompleted = field.run("job-2", &field.deploy_job(&two)).await.event();
    assert_eq!((second.url, second.previous), (first.url, Some(one.digest)));
    assert_eq!(field.page().await.as_deref(), Some("two"));
    let running = field.processes();
    assert_eq!(running.len(), 1);

    let again = field.run("job-3", &field.deploy_job(&two)).await;
    assert_eq!(again.terminal(), ["deploy.completed"]);
    let note = again.outcome.as_ref().unwrap().note.clone().unwrap();
    assert_eq!(note, format!("{} is in local already, and healthy", two.digest.short()));
    assert_eq!((field.processes(), field.journal().len()), (running, 2), "nothing was touched");
}

#[tokio::test]
async fn only_the_newest_releases_stay() {
    let field = Field::new();
    for (number, page) in ["one", "two", "three", "four"].into_iter().enumerate() {
        let artifact = field.artifact(page, "good").await;
        field.run(&format!("job-{number}"), &field.deploy_job(&artifact)).await.event::<DeployCompleted>();
    }
    assert_eq!(fs::read_dir(field.root().join("releases")).unwrap().count(), 2);
    assert_eq!(fs::read_dir(field.root().join("logs")).unwrap().count(), 2);
}

#[tokio::test]
async fn old_releases_that_cannot_be_removed_stay_and_fail_nothing() {
    let field = Field::new();
    let stubborn = field.root().join("logs/a-folder");
    for (number, page) in ["one", "two", "three", "four"].into_iter().enumerate() {
        let artifact = field.artifact(page, "good").await;
        field.run(&format!("job-{number}"), &field.deploy_job(&artifact)).await.event::<DeployCompleted>();
        // Where only files are, a folder is not removed.
        fs::create_dir_all(&stubborn).unwrap();
    }
    // It failed for the second, and was off for those after it.
    assert_eq!(fs::read_dir(field.root().join("releases")).unwrap().count(), 4);
}

#[tokio::test]
async fn what_an_environment_needs_is_told_before_it_is_fetched() {
    let field = Field::new();
    let mut wanted = std::collections::BTreeSet::new();
    for (job, page) in [("job-1", "one"), ("job-2", "two")] {
        let artifact = field.artifact(page, "good").await;
        field.run(job, &field.deploy_job(&artifact)).await.event::<DeployCompleted>();
        wanted.insert(artifact.digest);
        assert_eq!(field.in_use().await, wanted);
    }
    let missing = ObjectRef::example("application/zstd");
    let failed = field.run("job-3", &field.deploy_job(&missing)).await;
    assert!(failed.outcome.is_err());
    wanted.insert(missing.digest.clone());
    assert_eq!(field.in_use().await, wanted, "also if it does not get there");
    // The keeper puts it right, as it says what is needed of an environment where nothing ever was.
    wanted.remove(&missing.digest);
    let _kept = field.keep();
    field.needs(&wanted).await;
}

#[tokio::test]
async fn what_waits_at_a_gate_is_needed_until_it_is_refused() {
    let environments = "
local:
  repositories: ['shop/*']
  refs: [refs/heads/*]
  approval: {required: true, expires: 4h}
  target: {type: directory, path: environments/local}
";
    let field = Field::with(environments, &[]);
    let (waits, other) = (field.artifact("one", "good").await, field.artifact("two", "good").await);
    let mut rehearsal = Rehearsal::new(field.bot.clone());
    let tested = TestCompleted {
        artifact: waits.clone(),
        revision: Revision::example(),
        deploy: [("local".to_owned(), DeployStage::default())].into(),
        ..Event::example()
    };
    rehearsal.hear("push-1", "test-bot", &tested).unwrap();
    let desk = "environment:local";
    let remember = |rehearsal: &Rehearsal<DeployBot>| {
        let state = serde_json::to_value(rehearsal.state(desk)).unwrap();
        field.states.lock().unwrap().insert(desk.to_owned(), state);
    };
    remember(&rehearsal);
    let _kept = field.keep();
    field.needs(&[waits.digest.clone()].into()).await;
    let environment = ["local".to_owned()];
    let in_a_year = JobRecord::new().now() + chrono::TimeDelta::days(400);
    let retention = RetentionDays::default();
    let collect = || field.objects.collect(&retention, &environment, in_a_year, false);
    let collected = collect().await.unwrap();
    assert_eq!((collected.in_use.count, collected.removed[&Kind::Artifact].count), (1, 1));
    assert!(field.objects.exists(&waits.digest).await.unwrap() && !field.objects.exists(&other.digest).await.unwrap());

    let denied = ApprovalDenied {
        environment: "local".into(),
        approval_id: format!("local:1:{}", waits.digest.short()),
        digest: waits.digest.clone(),
        ..Event::example()
    };
    rehearsal.hear("deny-1", "operator", &denied).unwrap();
    remember(&rehearsal);
    field.needs(&[].into()).await;
    assert_eq!(collect().await.unwrap().removed[&Kind::Artifact].count, 1, "nobody waits for it any more");
}

#[tokio::test]
async fn by_the_clock_old_objects_go_and_a_silent_environment_raises_an_alert() {
    let field = Field::new();
    let (one, two) = (field.artifact("one", "good").await, field.artifact("two", "good").await);
    field.run("job-1", &field.deploy_job(&one)).await.event::<DeployCompleted>();
    let mut rehearsal = Rehearsal::new(field.bot.clone());
    let collect = async |rehearsal: &mut Rehearsal<DeployBot>, days: i64| {
        let record = JobRecord::new();
        record.set_now(record.now() + chrono::TimeDelta::days(days));
        let outcome = CollectJob {}.run(&field.bot, &cx("collect-1", &record)).await;
        let effects = outcome.unwrap_or_else(|fail| {
            let error = SafeError::new(Code::AttemptsExhausted, fail.message(), record.now());
            let end = GaveUp { job_id: "c".into(), reason: FailureReason::Error, error, attempts: 3, duration_ms: 1 };
            CollectJob {}.gave_up(&field.bot, &end)
        });
        let acts = rehearsal.take("night", effects.list);
        let said = acts.into_iter().map(|(_, effect)| match effect {
            Effect::Say { event_type, data, .. } => (event_type, data),
            other => panic!("{other:?}"),
        });
        said.collect::<Vec<_>>()
    };
    let said = collect(&mut rehearsal, 1).await;
    assert_eq!((said[0].0, said.len(), &said[0].1["removed"]), ("objects.collected", 1, &json!({})), "young");
    // An environment of which nobody knows what it needs.
    let in_use = field.objects_dir().join("in-use/local.json");
    let told = fs::read(&in_use).unwrap();
    fs::write(&in_use, "{").unwrap();
    let said = collect(&mut rehearsal, 100).await;
    assert_eq!((said[0].0, said.len(), &said[0].1["alert_id"]), ("alert.triggered", 1, &json!("retention")));
    assert!(said[0].1["summary"].as_str().unwrap().contains("local"), "{said:?}");
    assert!(field.objects.exists(&two.digest).await.unwrap(), "nothing goes then");
    fs::write(&in_use, told).unwrap();
    let said = collect(&mut rehearsal, 100).await;
    let types: Vec<&str> = said.iter().map(|(event_type, _)| *event_type).collect();
    assert_eq!(types, ["objects.collected", "alert.resolved"]);
    let data = &said[0].1;
    assert_eq!((&data["removed"]["artifact"]["count"], &data["in_use"]["count"]), (&json!(1), &json!(1)), "{data}");
    assert!(field.objects.exists(&one.digest).await.unwrap() && !field.objects.exists(&two.digest).await.unwrap());
    assert_eq!(collect(&mut rehearsal, 100).await.len(), 1, "the alert is resolved once");
}

#[tokio::test]
async fn what_is_not_healthy_is_taken_back() {
    let field = Field::new();
    let one = field.artifact("one", "good").await;
    field.run("job-1", &field.deploy_job(&one)).await.event::<DeployCompleted>();
    for (mode, said) in [("broken", "/health answered 500 until the deadline of 5 s"), ("exit", "ended before http")] {
        let bad = field.artifact("two", mode).await;
        let ended = field.run(mode, &field.deploy_job(&bad)).await;
        assert_eq!(ended.said(), ["deploy.started", "deploy.rolled_back", "deploy.failed"]);
        let failed: DeployFailed = ended.event();
        assert_eq!((failed.reason, failed.error.code), (FailureReason::Failed, Code::HealthCheckFailed));
        assert!(failed.error.message.contains(said), "{}", failed.error.message);
        let is_back = format!("; {}, which was there before, is back", one.digest.short());
        assert!(failed.error.message.ends_with(&is_back), "{}", failed.error.message);
        assert_eq!(failed.current.as_ref(), Some(&one.digest));
        assert!(failed.log_tail[0].starts_with(&format!("two in mode {mode}")), "{:?}", failed.log_tail);
        let back: DeployRolledBack = ended.event();
        assert_eq!((back.from, back.to), (bad.digest, Some(one.digest.clone())));
        assert_eq!(field.page().await.as_deref(), Some("one"));
        assert_eq!((field.processes().len(), field.switches(mode)), (1, 2));
    }
}

#[tokio::test]
async fn a_first_deployment_that_fails_leaves_nothing() {
    let field = Field::new();
    let bad = field.artifact("one", "exit").await;
    let ended = field.run("job-1", &field.deploy_job(&bad)).await;
    let failed: DeployFailed = ended.event();
    assert!(failed.error.message.ends_with("nothing was there before, and nothing is there now"));
    assert_eq!((failed.current, ended.event::<DeployRolledBack>().to), (None, None));
    assert_eq!((field.current(), field.processes(), field.page().await), (None, vec![], None));
}

#[tokio::test]
async fn a_rollback_that_fails_says_what_is_there() {
    let field = Field::new();
    let one = field.artifact("one", "good").await;
    field.run("job-1", &field.deploy_job(&one)).await.event::<DeployCompleted>();
    // The former release can neither be started again nor be fetched.
    let page = field.root().join("releases").join(one.digest.hex()).join("page");
    fs::rename(&page, page.with_file_name("gone")).unwrap();
    let bad = field.artifact("two", "exit").await;
    let ended = field.run("job-2", &field.deploy_job(&bad)).await;
    assert_eq!(ended.said(), ["deploy.started", "deploy.failed"], "it is not back, so that is not said");
    let failed: DeployFailed = ended.event();
    let message = failed.error.message;
    assert!(message.contains("; going back failed too: "), "{message}");
    assert!(message.contains(&format!("name {} now, it does not answer", one.digest.short())), "{message}");
    assert_eq!((failed.current, field.current().as_deref()), (Some(one.digest.clone()), Some(one.digest.hex())));
}

#[tokio::test]
async fn files_alone_need_no_process() {
    let field = Field::new();
    let artifact = field.artifact("one", "good").await;
    let ended = field.run("job-1", &field.job_of_stage(&artifact, DeployStage::default())).await;
    let completed: DeployCompleted = ended.event();
    assert_eq!((completed.url, completed.health_url), (None, None));
    assert_eq!(fs::read_to_string(field.root().join("current/page")).unwrap(), "one");
    assert!(field.processes().is_empty());
}

#[tokio::test]
async fn what_cannot_be_fetched_changes_nothing() {
    let field = Field::new();
    let ended = field.run("job-1", &field.deploy_job(&ObjectRef::example("application/zstd"))).await;
    let Err(Fail::Reject { code: Code::FetchFailed, error }) = ended.outcome else { panic!("{:?}", ended.outcome) };
    assert!(format!("{error:#}").contains("is not in the store"), "{error:#}");
    assert_eq!((field.journal().len(), field.current()), (0, None));
    assert_eq!(fs::read_dir(field.root().join("releases")).unwrap().count(), 0, "nothing is left half");
}

#[tokio::test]
async fn an_older_push_does_not_undo_a_newer_one_unless_someone_asks() {
    let field = Field::new();
    let (old, new) = (field.artifact("old", "good").await, field.artifact("new", "good").await);
    field.run("job-1", &field.push_job(&new, 8, false)).await.event::<DeployCompleted>();
    let late = field.run("job-2", &field.push_job(&old, 7, false)).await;
    let Err(Fail::Reject { code: Code::Cancelled, error }) = late.outcome else { panic!("{:?}", late.outcome) };
    assert!(error.to_string().contains("is superseded"), "{error:#}");
    assert_eq!((late.record.said().len(), field.current().as_deref()), (0, Some(new.digest.hex())));

    field.run("job-3", &field.push_job(&old, 7, true)).await.event::<DeployCompleted>();
    assert_eq!(field.current().as_deref(), Some(old.digest.hex()));
    field.run("job-4", &field.push_job(&new, 9, false)).await.event::<DeployCompleted>();
    field.run("job-5", &field.rollback_job(None)).await.event::<DeployRolledBack>();
    let late = field.run("job-6", &field.push_job(&new, 8, false)).await;
    assert!(matches!(late.outcome, Err(Fail::Reject { code: Code::Cancelled, .. })), "{:?}", late.outcome);
    assert_eq!(field.current().as_deref(), Some(old.digest.hex()), "what was taken back stays so");
}

#[tokio::test]
async fn someone_asks_for_a_rollback() {
    let field = Field::new();
    let (one, two) = (field.artifact("one", "good").await, field.artifact("two", "good").await);
    for (id, artifact) in [("job-1", &one), ("job-2", &two)] {
        field.run(id, &field.deploy_job(artifact)).await.event::<DeployCompleted>();
    }
    let ended = field.run("job-3", &field.rollback_job(None)).await;
    assert_eq!(ended.said(), ["deploy.rolled_back"]);
    let back: DeployRolledBack = ended.event();
    assert_eq!((back.from, back.to), (two.digest.clone(), Some(one.digest)));
    assert_eq!((field.page().await.as_deref(), field.processes().len()), (Some("one"), 1));
    assert_eq!(field.journal()[2]["reason"], back.reason.as_str());

    let nothing = field.run("job-4", &field.rollback_job(None)).await;
    assert!(matches!(nothing.outcome, Err(Fail::Reject { code: Code::Rejected, .. })), "{:?}", nothing.outcome);
    let there: DeployRolledBack = field.run("job-5", &field.rollback_job(Some(two.digest.clone()))).await.event();
    assert_eq!((there.to, field.page().await.as_deref()), (Some(two.digest), Some("two")));
    let stranger = field.run("job-6", &field.rollback_job(Some(ObjectRef::example("x").digest))).await;
    assert!(
        matches!(stranger.outcome, Err(Fail::Reject { code: Code::PermissionDenied, .. })),
        "{:?}",
        stranger.outcome
    );
}

#[tokio::test]
async fn an_attempt_that_was_overtaken_touches_nothing() {
    let field = Field::new();
    let (one, two) = (field.artifact("one", "good").await, field.artifact("two", "good").await);
    let record = JobRecord::new();
    let (old, new) = (cx("job-1", &record), cx("job-2", &record));
    field.deploy_job(&one).run(&field.bot, &new).await.unwrap();
    // Its store refuses it too; but whoever is refused by the folder alone is told.
    let refused = field.deploy_job(&two).run(&field.bot, &old).await;
    assert!(matches!(refused, Err(Fail::Reject { code: Code::Rejected, .. })), "{refused:?}");
    record.crash_after(0);
    assert_eq!(field.deploy_job(&two).run(&field.bot, &old).await, Err(Fail::LeaseLost));
    assert!(record.lines().last().unwrap().contains("was taken over and changes nothing"), "{:?}", record.lines());
    assert_eq!((field.journal().len(), field.page().await.as_deref()), (1, Some("one")));
}

#[tokio::test]
async fn told_to_stop_it_leaves_things_as_they_were() {
    let field = Field::new();
    let one = field.artifact("one", "good").await;
    let record = JobRecord::new();
    record.stop_job(Stop::Asked("wrong branch".into()));
    let ended = field.attempt("job-1", &field.deploy_job(&one), &record).await;
    assert!(matches!(ended.outcome, Err(Fail::Reject { code: Code::Cancelled, .. })), "{:?}", ended.outcome);
    assert_eq!((field.journal().len(), field.current()), (0, None));

    field.run("job-2", &field.deploy_job(&one)).await.event::<DeployCompleted>();
    let deaf = field.artifact("two", "deaf").await;
    let record = JobRecord::new();
    let job = field.deploy_job(&deaf);
    let switched = async {
        while field.switches("job-3") == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        record.stop_job(Stop::Asked("never mind".into()));
    };
    let (ended, ()) = tokio::join!(field.attempt("job-3", &job, &record), switched);
    assert_eq!(ended.said(), ["deploy.started", "deploy.rolled_back", "deploy.failed"]);
    let failed: DeployFailed = ended.event();
    assert_eq!((failed.reason, failed.error.code), (FailureReason::Cancelled, Code::Cancelled));
    assert_eq!((field.page().await.as_deref(), field.processes().len()), (Some("one"), 1));
}

#[tokio::test]
async fn a_crash_between_any_two_steps_is_continued() {
    let field = Field::new();
    let good = [field.artifact("one", "good").await, field.artifact("two", "good").await];
    let bad = field.artifact("three", "exit").await;
    field.run("job-first", &field.deploy_job(&good[0])).await.event::<DeployCompleted>();
    for steps in 0..4 {
        for (kind, artifact) in [("good", &good[(steps + 1) % 2]), ("bad", &bad)] {
            let id = format!("job-{kind}-{steps}");
            let record = JobRecord::new();
            record.crash_after(steps as u32);
            let job = field.deploy_job(artifact);
            let crashed = field.attempt(&id, &job, &record).await;
            record.no_more_crashes();
            let ended = match crashed.outcome {
                Ok(_) => crashed,
                Err(_) => field.attempt(&id, &job, &record).await,
            };
            let page = if (steps + 1) % 2 == 0 { "one" } else { "two" };
            one_of_each(&field, &id, &ended, kind == "good", page).await;
        }
    }
}

#[tokio::test]
async fn an_application_outlives_the_bot_and_is_found_again() {
    let mut field = Field::new();
    let one = field.artifact("one", "good").await;
    let job = field.deploy_job(&one);
    field.run("job-1", &job).await.event::<DeployCompleted>();
    let running = field.processes();
    field.restart();
    let kept = field.keep();
    field.run("job-2", &job).await.event::<DeployCompleted>();
    assert_eq!((field.processes(), field.journal().len()), (running, 1));
    drop(kept);
}

#[tokio::test]
async fn an_application_that_ended_is_started_again() {
    let mut field = Field::new();
    let one = field.artifact("one", "good").await;
    field.run("job-1", &field.deploy_job(&one)).await.event::<DeployCompleted>();
    let kill_all = |field: &Field| {
        for pid in field.processes() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    };
    kill_all(&field);
    // As after a reboot: nothing runs when the bot starts.
    field.restart();
    let _kept = field.keep();
    field.page_becomes("one").await;
    kill_all(&field);
    field.page_becomes("one").await;
    assert_eq!((field.processes().len(), field.journal().len()), (1, 1));

    let two = field.artifact("two", "good").await;
    let job = field.deploy_job(&two);
    let (bot, cx) = (Arc::clone(&field.bot), cx("job-2", &JobRecord::new()));
    job.run(&bot, &cx).await.unwrap();
    assert_eq!((field.page().await.as_deref(), field.processes().len()), (Some("two"), 1), "job and keeper agree");
}
