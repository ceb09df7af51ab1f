//! What people ask of an environment, and what its history explains.
use bot_messages::{Severity, deploy::AttemptStep};
use chrono::TimeDelta;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn freeze(environment: &str, minutes: Option<i64>, stage: &Stage) -> DeployFreezeRequested {
    DeployFreezeRequested {
        environment: environment.into(),
        reason: "closing the year".into(),
        until: minutes.map(|minutes| stage.r.now + TimeDelta::minutes(minutes)),
        requested_by: Some("ada".into()),
    }
}

#[test]
fn someone_freezes_an_environment_and_ends_it() {
    let mut stage = stage();
    let request = freeze("local", None, &stage);
    let frozen: DeployFrozen = event(&stage.ask(&request));
    assert_eq!((frozen.by.as_str(), frozen.until), ("ada (operator)", None));
    let held: DeployHeld = event(&stage.push('a', 1, &["local"]));
    assert_eq!((held.gate, held.why.as_str()), (Gate::Freeze, "local is frozen by ada (operator): closing the year"));
    stage.push('b', 2, &["local"]);
    let back =
        DeployRollbackRequested { environment: "local".into(), to: None, reason: "x".into(), requested_by: None };
    let job = job_of(&stage.ask(&back));
    assert_eq!(job.1.number, 3, "who goes back does not wait for a freeze");
    stage.end(&job, AttemptState::Succeeded);
    assert!(stage.report("local").frozen.unwrap().contains("closing the year"));

    let acts = stage.ask(&DeployUnfreezeRequested { environment: "local".into(), requested_by: None });
    assert_eq!(told(&acts), ["ask deploy.unfrozen", "push-2 job for local"], "the newest alone");
    let acts = stage.ask(&DeployUnfreezeRequested { environment: "local".into(), requested_by: None });
    assert_eq!(event::<DeployRefused>(&acts).error.message, "local is not frozen");
}

#[test]
fn a_freeze_ends_at_its_time() {
    let mut stage = stage();
    let request = freeze("local", Some(90), &stage);
    stage.ask(&request);
    stage.push('a', 1, &["local"]);
    assert!(stage.r.pass(MINUTE * 89).is_empty());
    assert_eq!(told(&stage.r.pass(MINUTE)), ["push-1 job for local"]);
    let past = freeze("local", Some(-1), &stage);
    assert!(event::<DeployRefused>(&stage.ask(&past)).error.message.contains("would be over already"));
    let unknown = freeze("lokal", None, &stage);
    let refused: DeployRefused = event(&stage.ask(&unknown));
    assert_eq!((refused.environment.as_str(), refused.request.as_str()), ("lokal", "deploy.freeze_requested"));
    assert!(refused.error.message.contains("which has: asked, live, local"), "{}", refused.error.message);
}

#[test]
fn a_rollback_needs_an_environment() {
    let mut stage = stage();
    let wanted: DeployRollbackRequested = Event::example();
    let (_, job) = job_of(&stage.ask(&wanted));
    let want = Want::Back { to: None, reason: "wrong prices".into() };
    let expected =
        DeployJob { environment: "staging".into(), number: 1, want, by: "ada (operator)".into(), by_hand: true };
    assert_eq!(job, expected);
    let elsewhere = DeployRollbackRequested { environment: "prod".into(), ..wanted };
    assert!(event::<DeployRefused>(&stage.ask(&elsewhere)).error.message.starts_with("prod: there is no such"));
}

#[test]
fn a_failed_rollback_calls_someone_until_all_is_well() {
    let mut stage = stage();
    let job = job_of(&stage.push('a', 1, &["local"]));
    let acts = stage.end(&job, AttemptState::Stranded);
    let alert: AlertTriggered = event(&acts);
    assert_eq!((alert.severity, alert.alert_id.as_str()), (Severity::Critical, "rollback:local"));
    assert_eq!(alert.summary, "local needs a person: so it ended");
    let job = job_of(&stage.push('b', 2, &["local"]));
    assert!(stage.end(&job, AttemptState::Failed).is_empty());
    let job = job_of(&stage.push('c', 3, &["local"]));
    stage.r.pass(MINUTE);
    let resolved: AlertResolved = event(&stage.end(&job, AttemptState::Succeeded));
    assert_eq!((resolved.alert_id, resolved.duration_ms), (alert.alert_id, 60_000));
}

#[test]
fn the_history_explains_how_far_a_job_came() {
    let mut stage = stage();
    let (correlation, job) = job_of(&stage.push('a', 1, &["local"]));
    let at =
        |seconds: i64, what: &str| AttemptStep { at: stage.r.now + TimeDelta::seconds(seconds), what: what.into() };
    let steps = [at(3, "begun again, attempt 2"), at(1, "begun"), at(2, &"x".repeat(500))];
    for (index, step) in steps.into_iter().enumerate() {
        let word = What::Step { number: job.number, job_id: "job-1".into(), step };
        stage.r.take(&correlation, words::say("local", &format!("step-{index}"), word).list);
    }
    let attempt = stage.attempt("local", 1);
    let what: Vec<&str> = attempt.steps.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(what, ["begun", &"x".repeat(160), "begun again, attempt 2"], "by time, and cut");
    assert_eq!((attempt.job_id.as_deref(), attempt.state), (Some("job-1"), AttemptState::Running));
    stage.end(&(correlation, job), AttemptState::RolledBack);
    let attempt = stage.attempt("local", 1);
    assert_eq!((attempt.state, attempt.why.as_str()), (AttemptState::RolledBack, "so it ended"));
    assert_eq!(attempt.ended_at, Some(stage.r.now));
}

#[test]
fn what_waits_for_an_environment_that_is_taken_away_ends() {
    let mut stage = stage();
    stage.push('a', 1, &["asked"]);
    let without = ENVIRONMENTS.lines().filter(|line| !line.starts_with("asked")).collect::<Vec<_>>().join("\n");
    let (dir, bot) = bot_of(&without);
    stage.r.bot = Arc::new(bot.unwrap());
    let acts = stage.r.pass(MINUTE * 60);
    assert_eq!(told(&acts), ["push-1 deploy.failed"]);
    assert!(event::<DeployFailed>(&acts).error.message.starts_with("asked: there is no such environment"));
    assert!(stage.r.timers().is_empty());
    drop(dir);
}

/// What begins when a job is to be done once more.
fn again(job: DeployJob) -> Result<Vec<Effect>, String> {
    let asked = bot_core::Asked { id: "command-1".into(), by: "ada (operator)".into() };
    job.again(&asked).map(|again| match again {
        bot_core::Again::Effects(effects) => effects.list,
        bot_core::Again::Start(job) => panic!("past all gates: {job:?}"),
    })
}

#[test]
fn a_deployment_that_is_done_once_more_passes_the_gates_again() {
    let mut stage = stage();
    let first = job_of(&stage.push('a', 1, &["local", "asked"]));
    stage.end(&first, AttemptState::Failed);
    let acts = stage.r.take("again-1", again(first.1.clone()).unwrap());
    let (correlation, job) = job_of(&acts);
    assert_eq!((correlation.as_str(), job.by.as_str(), job.by_hand), ("again-1", "ada (operator)", true));
    assert_eq!((job.want.digest(), job.number), (Some(&digest('a')), 2));

    let of_asked = DeployJob { environment: "asked".into(), ..first.1.clone() };
    let acts = stage.r.take("again-2", again(of_asked).unwrap());
    assert_eq!(told(&acts), ["again-2 approval.requested"]);

    let nowhere = DeployJob { environment: "gone".into(), ..first.1.clone() };
    let failed: DeployFailed = event(&stage.r.take("again-3", again(nowhere).unwrap()));
    assert_eq!((failed.error.code, failed.environment.as_str()), (Code::PermissionDenied, "gone"));

    let back = |to| DeployJob { want: Want::Back { to, reason: "x".into() }, ..job.clone() };
    let why = again(back(None)).unwrap_err();
    assert!(why.contains("lota rollback"), "{why}");
    stage.end(&(correlation, job.clone()), AttemptState::Succeeded);
    let (_, way_back) = job_of(&stage.r.take("again-4", again(back(Some(digest('a')))).unwrap()));
    assert_eq!(way_back.want, back(Some(digest('a'))).want);
}
