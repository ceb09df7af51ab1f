//! What follows from an attempt that failed, a job's or a message's. Pure: what failed, and what is known, is given.
use std::time::Duration;

use bot_messages::{Code, FailureReason, Tier};
use bot_store::{JobOutcome, JobStatus};
use chrono::TimeDelta;

use crate::{
    config::{Constraints, RetryPolicy},
    effects::Fail,
    job::Stop,
    retry,
};

/// A job that is held back waits so much longer than the next probe.
const BEHIND_PROBE: Duration = Duration::from_secs(1);

/// What follows from a job's attempt.
#[derive(Debug)]
pub(super) enum Next {
    Nothing(&'static str),
    Again { outcome: JobOutcome, how: &'static str, told: Option<String> },
    GiveUp { status: JobStatus, reason: FailureReason, code: Code, why: String },
}

/// Of a job that was begun more often than it may be, since the bot died each time: how it fails.
pub(super) fn worn_out(attempt: u32, policy: &RetryPolicy) -> Option<Fail> {
    let why = || anyhow::anyhow!("the bot died {} times while it ran this job", attempt - 1);
    (attempt > policy.max_attempts).then(|| Fail::reject(Code::CrashLoop, why()))
}

/// After a job's attempt. `stop`: why it had to stop, where it had to. `held`: it was no attempt, and is made no sooner.
pub(super) fn after_job(
    attempt: u32,
    constraints: &Constraints,
    stop: Option<Stop>,
    fail: Fail,
    held: Option<TimeDelta>,
) -> Next {
    let why = fail.message();
    let policy = &constraints.retry_policy;
    let give_up = |status, reason, code, why| Next::GiveUp { status, reason, code, why };
    let uncounted = |after, error| JobOutcome::Again { after, error, counts: false };
    match (stop, fail) {
        (Some(Stop::LeaseLost), _) | (_, Fail::LeaseLost) => Next::Nothing("was taken over"),
        (Some(Stop::BotStopping), _) => {
            let outcome = uncounted(Duration::ZERO, "the bot was stopped".to_owned());
            Next::Again { outcome, how: "handed back", told: None }
        }
        (Some(Stop::Asked(by)), _) => {
            give_up(JobStatus::Cancelled, FailureReason::Cancelled, Code::Cancelled, format!("cancelled: {by}"))
        }
        (Some(Stop::TimedOut), _) => {
            let why = format!("it took longer than {} s (constraints.timeout)", constraints.timeout);
            give_up(JobStatus::TimedOut, FailureReason::TimedOut, Code::TimedOut, why)
        }
        (None, _) if held.is_some() => {
            // Not the next probe again, where another job waits.
            let after = held.and_then(|wait| wait.to_std().ok()).unwrap_or_default() + BEHIND_PROBE;
            let told = Some(format!("held back: {why}"));
            Next::Again { outcome: uncounted(after, why), how: "held back", told }
        }
        (None, Fail::Later(after, _)) => Next::Again { outcome: uncounted(after, why), how: "put off", told: None },
        (None, Fail::Retry(_) | Fail::Outside { .. }) if attempt < policy.max_attempts => {
            let after = retry::spread_after(policy.backoff, attempt);
            let of = policy.max_attempts;
            let told = Some(format!("attempt {attempt} of {of} failed: {why}; again in {} s", after.as_secs()));
            Next::Again { outcome: JobOutcome::Again { after, error: why, counts: true }, how: "is tried again", told }
        }
        (None, Fail::Retry(_) | Fail::Outside { .. }) => {
            give_up(JobStatus::Failed, FailureReason::Error, Code::AttemptsExhausted, exhausted(attempt, &why))
        }
        (None, Fail::Reject { code, .. }) => give_up(JobStatus::Failed, reason_of(code), code, why),
    }
}

/// Whether the answer was no, or there was none.
fn reason_of(code: Code) -> FailureReason {
    match code {
        Code::CommandFailed | Code::TestsFailed | Code::NoTests | Code::HealthCheckFailed => FailureReason::Failed,
        Code::TimedOut => FailureReason::TimedOut,
        Code::Cancelled => FailureReason::Cancelled,
        _ => FailureReason::Error,
    }
}

/// What follows from a message's attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextOfMessage {
    /// It waits in a retry queue for `attempt`, which is the same where this one does not count.
    Again { attempt: u32, tier: Tier, counts: bool, why: String },
    /// It becomes a dead letter.
    Bury { code: Code, why: String },
}

/// After a message's attempt. `held`: it was none, and is made no sooner.
pub(super) fn after_message(attempt: u32, policy: &RetryPolicy, fail: &Fail, held: Option<TimeDelta>) -> NextOfMessage {
    let why = fail.message();
    if let Some(wait) = held {
        let tier = Tier::at_least(wait.to_std().unwrap_or_default());
        return NextOfMessage::Again { attempt, tier, counts: false, why: format!("held back: {why}") };
    }
    match fail {
        Fail::Later(delay, _) => {
            let tier = Tier::at_least(*delay);
            NextOfMessage::Again { attempt, tier, counts: false, why: format!("not now: {why}") }
        }
        Fail::Retry(_) | Fail::Outside { .. } if attempt < policy.max_attempts => {
            let tier = Tier::at_least(retry::delay_after(policy.backoff, attempt));
            let (of, wait) = (policy.max_attempts, tier.as_str());
            let why = format!("attempt {attempt} of {of} failed: {why}; again in {wait}");
            NextOfMessage::Again { attempt: attempt + 1, tier, counts: true, why }
        }
        Fail::Retry(_) | Fail::Outside { .. } => {
            NextOfMessage::Bury { code: Code::AttemptsExhausted, why: exhausted(attempt, &why) }
        }
        Fail::Reject { code, .. } => NextOfMessage::Bury { code: *code, why },
        Fail::LeaseLost => NextOfMessage::Bury { code: Code::Rejected, why },
    }
}

fn exhausted(attempt: u32, why: &str) -> String {
    format!("all {attempt} attempts failed; the last: {why}")
}

#[cfg(test)]
mod tests {
    use bot_store::{Claimed, Commit, Committed, Guard, JobEnd, NewJob, Store, StoreOptions};
    use proptest::{collection::vec, prelude::*};
    use serde_json::Value;

    use super::*;
    use crate::retry::BackoffKind;

    const LONGEST: Duration = Duration::from_secs(3600);

    /// What becomes of one attempt.
    #[derive(Clone, Debug)]
    enum Fate {
        Retry,
        Outside { held_s: Option<i64> },
        Later(u64),
        Reject,
        Stopped(Stop),
        Crash,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        let stops = vec![Stop::Asked("enough".to_owned()), Stop::TimedOut, Stop::BotStopping, Stop::LeaseLost];
        prop_oneof![
            6 => Just(Fate::Retry),
            4 => prop::option::of(-5..400_i64).prop_map(|held_s| Fate::Outside { held_s }),
            3 => (0..100_000_u64).prop_map(Fate::Later),
            1 => Just(Fate::Reject),
            2 => prop::sample::select(stops).prop_map(Fate::Stopped),
            3 => Just(Fate::Crash),
        ]
    }

    fn failed(fate: &Fate) -> Fail {
        let why = || anyhow::anyhow!("no");
        match fate {
            Fate::Outside { .. } => {
                Fail::Outside { dependency: "objects".to_owned(), code: Code::ConnectionRefused, error: why() }
            }
            Fate::Later(s) => Fail::Later(Duration::from_secs(*s), why()),
            Fate::Reject => Fail::reject(Code::Rejected, why()),
            Fate::Retry | Fate::Stopped(_) | Fate::Crash => Fail::Retry(why()),
        }
    }

    fn held(fate: &Fate) -> Option<TimeDelta> {
        if let Fate::Outside { held_s: Some(s) } = fate { Some(TimeDelta::seconds(*s)) } else { None }
    }

    fn policy() -> impl Strategy<Value = RetryPolicy> {
        (1..6_u32, any::<bool>()).prop_map(|(max_attempts, fixed)| RetryPolicy {
            max_attempts,
            backoff: if fixed { BackoffKind::Fixed } else { BackoffKind::Exponential },
        })
    }

    /// One job in a store, and how many attempts it has used up.
    struct Life {
        dir: tempfile::TempDir,
        store: Store,
        used: u32,
    }

    impl Life {
        async fn begin() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Self::open(&dir).await;
            let (id, kind, key) = ("job".to_owned(), "build".to_owned(), "shop".to_owned());
            let job = NewJob { id, kind, key, exclusive: None, weight: 1, payload: Value::Null, meta: Value::Null };
            store.commit(Commit { jobs: vec![job], ..Commit::default() }).await.unwrap();
            Self { dir, store, used: 0 }
        }

        async fn open(dir: &tempfile::TempDir) -> Store {
            let dir = dir.path().to_owned();
            Store::open(StoreOptions::Sqlite { dir, max_page_count: None }).await.unwrap()
        }

        async fn crash(&mut self) {
            self.store.close().await;
            self.store = Self::open(&self.dir).await;
        }

        async fn claim(&self) -> Option<Claimed> {
            self.store.claim("here", LONGEST, 1, &[], &[]).await.unwrap().pop()
        }

        /// Ends an attempt as was decided, but has nobody wait.
        async fn end(&self, job: &Claimed, outcome: JobOutcome) {
            let outcome = match outcome {
                JobOutcome::Again { error, counts, .. } => JobOutcome::Again { after: Duration::ZERO, error, counts },
                ended @ JobOutcome::Ended(_) => ended,
            };
            let guard = Guard::Job { id: job.id.clone(), token: job.token };
            let commit = Commit { guard, job_end: Some(JobEnd { outcome }), ..Commit::default() };
            assert_eq!(self.store.commit(commit).await.unwrap(), Committed::Done);
        }

        /// Runs one attempt. `true`: it was the last.
        async fn attempt(&mut self, constraints: &Constraints, fate: &Fate) -> Result<bool, TestCaseError> {
            let job = self.claim().await.expect("a job that has not ended waits");
            let (max, backoff) = (constraints.retry_policy.max_attempts, constraints.retry_policy.backoff);
            prop_assert_eq!(job.attempt, self.used + 1, "attempts that count, and no other");
            let worn_out = worn_out(job.attempt, &constraints.retry_policy);
            prop_assert_eq!(worn_out.is_some(), self.used == max);
            let (stop, fail, held) = match (worn_out, fate) {
                (Some(fail), _) => (None, fail, None),
                (None, Fate::Crash) => {
                    self.used += 1;
                    self.crash().await;
                    return Ok(false);
                }
                (None, Fate::Stopped(why)) => (Some(why.clone()), failed(fate), None),
                (None, _) => (None, failed(fate), held(fate)),
            };
            let is_last = self.used + 1 == max;
            match after_job(job.attempt, constraints, stop, fail, held) {
                Next::Nothing(_) => {
                    // Whoever took it over has begun an attempt; here the store is told by opening it again.
                    prop_assert!(matches!(fate, Fate::Stopped(Stop::LeaseLost)));
                    self.used += 1;
                    self.crash().await;
                    Ok(false)
                }
                Next::Again { outcome, .. } => {
                    let JobOutcome::Again { after, counts, .. } = &outcome else { panic!("an end: {outcome:?}") };
                    match fate {
                        Fate::Stopped(Stop::BotStopping) => prop_assert_eq!((*after, *counts), (Duration::ZERO, false)),
                        Fate::Later(s) => prop_assert_eq!((*after, *counts), (Duration::from_secs(*s), false)),
                        Fate::Outside { held_s: Some(s) } => {
                            prop_assert!(!counts && *after > Duration::from_secs(s.unsigned_abs() * u64::from(*s > 0)));
                        }
                        Fate::Retry | Fate::Outside { held_s: None } => {
                            let nominal = retry::delay_after(backoff, job.attempt);
                            let most = nominal.mul_f64(1.15).min(LONGEST);
                            prop_assert!(*counts && !is_last && (nominal.mul_f64(0.85)..=most).contains(after));
                        }
                        other => prop_assert!(false, "{other:?} is tried again"),
                    }
                    self.used += u32::from(*counts);
                    self.end(&job, outcome).await;
                    Ok(false)
                }
                Next::GiveUp { status, code, .. } => {
                    let expected = match fate {
                        _ if self.used == max => Code::CrashLoop,
                        Fate::Stopped(Stop::Asked(_)) => Code::Cancelled,
                        Fate::Stopped(Stop::TimedOut) => Code::TimedOut,
                        Fate::Reject => Code::Rejected,
                        _ => Code::AttemptsExhausted,
                    };
                    prop_assert_eq!(code, expected);
                    prop_assert!(
                        code != Code::AttemptsExhausted || is_last,
                        "given up after {} of {}",
                        job.attempt,
                        max
                    );
                    self.end(&job, JobOutcome::Ended(status)).await;
                    Ok(true)
                }
            }
        }
    }

    async fn live(policy: RetryPolicy, fates: Vec<Fate>) -> Result<(), TestCaseError> {
        let mut life = Life::begin().await;
        let constraints = Constraints { retry_policy: policy, ..Constraints::default() };
        for fate in fates.iter().chain(std::iter::repeat_n(&Fate::Retry, 6)) {
            if life.attempt(&constraints, fate).await? {
                life.crash().await;
                prop_assert!(life.claim().await.is_none(), "it ends once");
                return Ok(());
            }
        }
        prop_assert!(false, "it never ends");
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_job_has_its_attempts_and_one_end_whatever_becomes_of_each(policy in policy(), fates in vec(fate(), 0..25)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(live(policy, fates))?;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// A process that dies before it commits decides again of the same copy.
        #[test]
        fn a_message_has_its_attempts_and_then_a_letter(policy in policy(), fates in vec(fate(), 0..40)) {
            let (mut attempt, mut counted) = (1, 0);
            for fate in fates.iter().chain(std::iter::repeat_n(&Fate::Retry, 6)) {
                let next = after_message(attempt, &policy, &failed(fate), held(fate));
                if matches!(fate, Fate::Crash) {
                    continue;
                }
                match next {
                    NextOfMessage::Again { attempt: next, tier, counts, .. } => {
                        let wanted = match fate {
                            Fate::Later(s) => Duration::from_secs(*s),
                            Fate::Outside { held_s: Some(s) } => Duration::from_secs(s.unsigned_abs() * u64::from(*s > 0)),
                            _ => retry::delay_after(policy.backoff, attempt),
                        };
                        prop_assert!(tier.delay() >= wanted.min(LONGEST) && tier.delay() <= LONGEST);
                        let free = matches!(fate, Fate::Later(_) | Fate::Outside { held_s: Some(_) });
                        prop_assert_eq!((next, counts), (attempt + u32::from(!free), !free));
                        counted += u32::from(counts);
                        prop_assert_eq!(next, counted + 1);
                        attempt = next;
                    }
                    NextOfMessage::Bury { code, .. } => {
                        let exhausted = code == Code::AttemptsExhausted;
                        prop_assert!(exhausted != matches!(fate, Fate::Reject));
                        prop_assert!(!exhausted || counted + 1 == policy.max_attempts, "{counted} of {policy:?}");
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "it never ends");
        }
    }
}
