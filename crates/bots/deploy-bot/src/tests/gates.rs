//! The gates: order of pushes, promotion, freeze, approval, busy.
use chrono::DateTime;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn denied_because(acts: &Acts) -> String {
    event::<DeployFailed>(acts).error.message
}

#[test]
fn one_at_a_time_and_only_the_newest_push_follows() {
    let mut stage = stage();
    let first = job_of(&stage.push('a', 1, &["local"]));
    let held = stage.push('b', 2, &["local"]);
    assert_eq!(told(&held), ["push-2 deploy.held"]);
    let held: DeployHeld = event(&held);
    assert_eq!((held.gate, held.number, held.why.as_str()), (Gate::Busy, 2, "attempt 1 is on its way to local"));
    let third = stage.push('c', 3, &["local"]);
    assert_eq!(told(&third), ["push-3 deploy.held", "push-2 deploy.failed"], "each in its own name");
    let failed: DeployFailed = event(&third);
    assert_eq!((failed.reason, failed.digest), (FailureReason::Cancelled, digest('b')));
    assert!(
        failed.error.message.contains("a later push of refs/heads/main, took its place"),
        "{}",
        failed.error.message
    );
    assert_eq!(stage.attempt("local", 2).state, AttemptState::Superseded);

    let acts = stage.end(&first, AttemptState::Succeeded);
    let (correlation, job) = job_of(&acts);
    assert_eq!((correlation.as_str(), job.want.digest(), job.number), ("push-3", Some(&digest('c')), 3));
    assert_eq!(stage.attempt("local", 1).state, AttemptState::Succeeded);
    assert!(stage.end(&(correlation, job), AttemptState::Failed).is_empty(), "nobody waits");
    assert!(stage.r.timers().is_empty());
}

#[test]
fn an_older_push_never_goes_over_a_newer_one() {
    let mut stage = stage();
    let newer = job_of(&stage.push('b', 2, &["local"]));
    let late = stage.push('a', 1, &["local"]);
    assert_eq!(told(&late), ["push-1 deploy.failed"], "while the newer one is on its way");
    assert!(denied_because(&late).contains("is ahead of it"));
    stage.end(&newer, AttemptState::RolledBack);
    assert_eq!(told(&stage.push('a', 1, &["local"])), ["push-1 deploy.failed"], "what was taken back was ahead too");
    let again = stage.push('b', 2, &["local"]);
    assert_eq!(told(&again), ["push-2 job for local"], "a second run of the tests of the same push");
    stage.end(&job_of(&again), AttemptState::Failed);

    let mut topic = tested('c', 1, &["local"]);
    topic.revision.git_ref = "refs/heads/topic".into();
    assert_eq!(told(&stage.r.hear("topic-1", "test-bot", &topic).unwrap()), ["topic-1 job for local"], "another ref");
    assert_eq!(told(&stage.deploy("local", 'a')), ["ask deploy.held"], "someone asks for just this");
}

#[test]
fn pushes_wait_in_order_and_who_goes_back_goes_first() {
    let mut stage = stage();
    let running = job_of(&stage.push('a', 1, &["local"]));
    let mut topic = tested('b', 1, &["local"]);
    topic.revision.git_ref = "refs/heads/topic".into();
    stage.r.hear("topic-1", "test-bot", &topic).unwrap();
    assert_eq!(told(&stage.deploy("local", 'a')), ["ask deploy.held"]);
    stage.ask(&DeployRollbackRequested {
        environment: "local".into(),
        to: None,
        reason: "x".into(),
        requested_by: None,
    });
    let (correlation, back) = job_of(&stage.end(&running, AttemptState::Succeeded));
    assert_eq!((back.number, back.want.digest()), (4, None));
    let next = job_of(&stage.end(&(correlation, back), AttemptState::Succeeded));
    assert_eq!((next.0.as_str(), next.1.number), ("topic-1", 2));
    assert_eq!(job_of(&stage.end(&next, AttemptState::Succeeded)).1.number, 3);
}

#[test]
fn the_same_offer_waits_once_and_many_are_refused() {
    let mut stage = stage();
    stage.push('a', 1, &["local"]);
    stage.push('b', 2, &["local"]);
    assert!(stage.push('b', 2, &["local"]).is_empty());
    assert_eq!(stage.note(), "local: attempt 2 waits there already");
    for number in 0..19 {
        let mut topic = tested('c', 1, &["local"]);
        topic.revision.git_ref = format!("refs/heads/topic-{number}");
        assert_eq!(told(&stage.r.hear("topic", "test-bot", &topic).unwrap()), ["topic deploy.held"]);
    }
    let refused = stage.deploy("local", 'a');
    assert_eq!(told(&refused), ["ask deploy.failed"]);
    assert!(denied_because(&refused).starts_with("20 attempts wait for local already"));
}

#[test]
fn a_job_that_never_tells_its_end_does_not_block_for_ever() {
    let mut stage = stage();
    stage.push('a', 1, &["local"]);
    stage.push('b', 2, &["local"]);
    assert!(stage.r.pass(HOUR * 24).is_empty());
    assert_eq!(told(&stage.r.pass(HOUR)), ["push-2 job for local"], "the store still keeps two from running at a time");
}

#[test]
fn production_takes_only_what_was_healthy_in_staging() {
    let mut stage = stage();
    let acts = stage.push('a', 1, &["staging", "live"]);
    assert_eq!(told(&acts), ["push-1 job for staging", "push-1 deploy.held"]);
    assert_eq!(event::<DeployHeld>(&acts).gate, Gate::Promotion);
    let job = job_of(&acts);
    assert!(stage.end(&job, AttemptState::RolledBack).is_empty(), "not healthy there");
    let refused = stage.deploy("live", 'a');
    assert_eq!(told(&refused), ["ask deploy.failed"]);
    assert!(denied_because(&refused).ends_with("this was never seen healthy there: deploy it to staging first"));

    let next = stage.push('b', 2, &["staging", "live"]);
    assert_eq!(told(&next), ["push-1 deploy.failed", "push-2 job for staging", "push-2 deploy.held"]);
    let acts = stage.end(&job_of(&next), AttemptState::Succeeded);
    assert_eq!(told(&acts), ["push-2 approval.requested"], "the next gate, in its own name");
    // What was healthy once may be asked for later.
    stage.ask(&deny("live", 3, 'b'));
    assert_eq!(told(&stage.deploy("live", 'b')), ["ask approval.requested"]);
}

#[test]
fn a_promotion_is_not_waited_for_for_ever() {
    let mut stage = stage();
    stage.push('a', 1, &["live"]);
    assert!(stage.r.pass(HOUR * (24 * 7 - 1)).is_empty());
    let acts = stage.r.pass(HOUR);
    assert_eq!(told(&acts), ["push-1 deploy.failed"]);
    assert_eq!(stage.attempt("live", 1).state, AttemptState::Expired);
}

fn grant(environment: &str, number: u64, letter: char) -> ApprovalGranted {
    ApprovalGranted {
        approval_id: format!("{environment}:{number}:{}", digest(letter).short()),
        environment: environment.into(),
        digest: digest(letter),
        approver: "grace".into(),
        ..<ApprovalGranted as Event>::example()
    }
}

fn deny(environment: &str, number: u64, letter: char) -> ApprovalDenied {
    ApprovalDenied {
        approval_id: format!("{environment}:{number}:{}", digest(letter).short()),
        environment: environment.into(),
        digest: digest(letter),
        approver: "grace".into(),
        reason: "not on a Friday".into(),
        ..<ApprovalDenied as Event>::example()
    }
}

fn refused_because(acts: &Acts) -> String {
    assert_eq!(acts.len(), 1, "{:?}", told(acts));
    event::<DeployRefused>(acts).error.message
}

#[test]
fn a_yes_lets_exactly_one_digest_through_once() {
    let mut stage = stage();
    let acts = stage.push('a', 1, &["asked"]);
    let request: ApprovalRequested = event(&acts);
    assert_eq!((request.approval_id.as_str(), request.digest.clone()), ("asked:1:aaaaaaaaaaaa", digest('a')));
    assert_eq!(request.expires_at - stage.r.now, chrono::TimeDelta::hours(4));
    let other = ApprovalGranted { digest: digest('b'), ..grant("asked", 1, 'a') };
    assert!(refused_because(&stage.ask(&other)).contains("this answer names sha256:bbbb"));
    let unknown = ApprovalGranted { approval_id: "asked:9:x".into(), ..grant("asked", 1, 'a') };
    assert!(refused_because(&stage.ask(&unknown)).starts_with("no approval asked:9:x was asked for here"));

    let acts = stage.ask(&grant("asked", 1, 'a'));
    assert_eq!(told(&acts), ["ask deploy.reported", "push-1 job for asked"]);
    let approval = stage.attempt("asked", 1).approval.unwrap();
    assert_eq!((approval.granted, approval.by.as_deref()), (Some(true), Some("grace (operator)")));
    let again = refused_because(&stage.ask(&grant("asked", 1, 'a')));
    assert_eq!(again, "asked:1:aaaaaaaaaaaa was answered already: granted by grace (operator); each is used once");
    let job = job_of(&acts);
    stage.end(&job, AttemptState::Succeeded);
    assert_eq!(told(&stage.deploy("asked", 'a')), ["ask approval.requested"], "each deployment needs its own");
}

#[test]
fn a_no_ends_it_and_so_does_silence() {
    let mut stage = stage();
    stage.push('a', 1, &["asked"]);
    let acts = stage.ask(&deny("asked", 1, 'a'));
    assert_eq!(told(&acts), ["ask deploy.reported", "push-1 deploy.failed"]);
    assert_eq!(denied_because(&acts), "denied by grace (operator): not on a Friday");
    assert_eq!(stage.attempt("asked", 1).state, AttemptState::Denied);
    assert!(refused_because(&stage.ask(&grant("asked", 1, 'a'))).contains("was answered already: denied by grace"));

    stage.push('b', 2, &["asked"]);
    assert!(stage.r.pass(Duration::from_secs(4 * 3600 - 1)).is_empty());
    let acts = stage.r.pass(Duration::from_secs(1));
    assert_eq!(told(&acts), ["push-2 deploy.failed"]);
    let failed: DeployFailed = event(&acts);
    assert_eq!((failed.reason, failed.error.code), (FailureReason::TimedOut, Code::Expired));
    assert_eq!(stage.attempt("asked", 2).state, AttemptState::Expired);
    let late = refused_because(&stage.ask(&grant("asked", 2, 'b')));
    assert!(late.starts_with("asked:2:bbbbbbbbbbbb has expired at 2026-11-01 "), "{late}");
}

#[test]
fn a_yes_that_was_not_used_in_time_is_void() {
    let mut stage = stage();
    let running = job_of(&{
        stage.push('a', 1, &["asked"]);
        stage.ask(&grant("asked", 1, 'a'))
    });
    stage.push('b', 2, &["asked"]);
    assert_eq!(told(&stage.ask(&grant("asked", 2, 'b'))), ["ask deploy.reported", "push-2 deploy.held"]);
    stage.r.pass(HOUR * 5);
    let acts = stage.end(&running, AttemptState::Succeeded);
    assert!(told(&acts).is_empty(), "it ended before: {:?}", told(&acts));
    assert_eq!(
        stage.attempt("asked", 2).why,
        "the approval by grace (operator) was not used before 2026-11-01 16:00 UTC"
    );
}

#[test]
fn a_newer_push_voids_the_approval_of_an_older_one() {
    let mut stage = stage();
    stage.push('a', 1, &["asked"]);
    let acts = stage.push('b', 2, &["asked"]);
    assert_eq!(told(&acts), ["push-2 approval.requested", "push-1 deploy.failed"]);
    assert!(refused_because(&stage.ask(&grant("asked", 1, 'a'))).contains("is not waited for any more"));
    assert_eq!(told(&stage.ask(&grant("asked", 2, 'b'))), ["ask deploy.reported", "push-2 job for asked"]);
}

#[test]
fn a_freeze_of_the_configuration_comes_before_the_approval_and_ends_by_itself() {
    let mut stage = stage();
    let job = job_of(&stage.push('a', 1, &["staging"]));
    stage.end(&job, AttemptState::Succeeded);
    stage.r.now = DateTime::parse_from_rfc3339("2026-12-24T00:00:00Z").unwrap().into();
    stage.push('a', 1, &["staging", "live"]);
    let attempt = stage.attempt("live", 1);
    assert_eq!(attempt.gate, Some(Gate::Freeze));
    assert_eq!(attempt.why, "live is frozen until 2027-01-04 00:00 UTC: holidays");
    assert!(stage.r.pass(HOUR * 24 * 10).is_empty(), "nothing new is said while it lasts");
    assert_eq!(told(&stage.r.pass(HOUR * 24)), ["push-1 approval.requested"]);
}
