//! The lease under which this process runs a job: renewed in time, or given up before another process may take the job.
use std::{sync::Arc, time::Duration};

use bot_store::Renewed;
use tokio::time::Instant;

use super::jobs::{Port, STOP_GRACE};
use crate::contract::Bot;

/// From a claim or a renewal on, nobody else takes the job for so long.
pub(crate) const LENGTH: Duration = Duration::from_secs(60);
const RENEW_AFTER: Duration = Duration::from_secs(LENGTH.as_secs() / 3);
/// After a renewal that failed; one takes no longer than this either.
const RENEW_AGAIN: Duration = Duration::from_secs(2);
/// What has to be left of the lease for the job to be stopped, and gone, before another process may take it.
const STOPPED_BEFORE: Duration = Duration::from_secs(STOP_GRACE.as_secs() + 5);

/// Until when the job is ours, as far as we know.
pub(super) struct Lease {
    until: Instant,
    renew_at: Instant,
}

/// What a renewal found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LeaseNews {
    /// Still ours, or not known to be lost yet.
    Held,
    /// Still ours; someone asked for it to be stopped, and why.
    Cancelled(String),
    /// Taken over, or so nearly run out that the job has to stop.
    Lost,
}

impl Lease {
    /// From when it was asked for: the store counts from a time after that.
    pub(super) fn begun(asked: Instant) -> Self {
        Self { until: asked + LENGTH, renew_at: asked + RENEW_AFTER }
    }

    /// When it has to be renewed.
    pub(super) async fn due(&self) {
        tokio::time::sleep_until(self.renew_at).await;
    }

    pub(super) async fn renew<B: Bot>(&mut self, port: &Arc<Port<B>>) -> LeaseNews {
        let asked = Instant::now();
        let renewal = port.shared.store.renew(&port.job, port.token, LENGTH);
        let answer = match tokio::time::timeout(RENEW_AGAIN, renewal).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("the store did not answer within {} s", RENEW_AGAIN.as_secs())),
        };
        let (news, trouble) = self.note(answer, asked);
        if let Some(why) = trouble {
            tracing::warn!(job_id = port.job, lost = news == LeaseNews::Lost, "the lease cannot be renewed: {why}");
        }
        news
    }

    /// Renews it for as long as it is ours.
    pub(super) async fn keep<B: Bot>(&mut self, port: &Arc<Port<B>>) {
        loop {
            self.due().await;
            if self.renew(port).await == LeaseNews::Lost {
                return;
            }
        }
    }

    /// What follows from an answer to a renewal that was asked for at `asked`; with what was wrong.
    fn note(&mut self, answer: Result<Renewed, String>, asked: Instant) -> (LeaseNews, Option<String>) {
        match answer {
            Ok(Renewed::Held { cancel }) => {
                *self = Self::begun(asked);
                (cancel.map_or(LeaseNews::Held, LeaseNews::Cancelled), None)
            }
            Ok(Renewed::Lost) => (LeaseNews::Lost, None),
            Err(why) => {
                self.renew_at = asked + RENEW_AGAIN;
                let lost = self.until.duration_since(asked) <= STOPPED_BEFORE;
                (if lost { LeaseNews::Lost } else { LeaseNews::Held }, Some(why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Answer {
        Kept,
        Cancelled,
        /// No answer, or one that says that it failed; the store may have renewed it all the same.
        Failed {
            done: bool,
        },
    }

    /// One renewal: how far before it is due it is asked for (someone wants a job to be stopped), how long the answer takes,
    /// and when within that time the store acted.
    #[derive(Clone, Copy, Debug)]
    struct Renewal {
        early: f64,
        took: f64,
        acted: f64,
        answer: Answer,
    }

    fn renewal() -> impl Strategy<Value = Renewal> {
        let answer = prop_oneof![
            2 => Just(Answer::Kept),
            1 => Just(Answer::Cancelled),
            6 => Just(Answer::Failed { done: false }),
            1 => Just(Answer::Failed { done: true }),
        ];
        let early = prop_oneof![3 => Just(0.0), 1 => 0.0..1.0_f64];
        let took = prop_oneof![1 => Just(1.0), 2 => 0.0..1.0_f64];
        (early, took, 0.0..1.0_f64, answer).prop_map(|(early, took, acted, answer)| Renewal {
            early,
            took,
            acted,
            answer,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_job_is_gone_before_another_process_may_take_it(
            claim_took in 0.0..5.0_f64,
            renewals in vec(renewal(), 1..120),
        ) {
            let asked = Instant::now();
            let mut lease = Lease::begun(asked);
            // The store counts from when it acted, which is never before it was asked.
            let (mut taken_from, mut now) = (asked + LENGTH, asked + Duration::from_secs_f64(claim_took));
            let mut kept = asked;
            for r in renewals {
                let due = lease.renew_at.saturating_duration_since(now);
                let asked = now + due.mul_f64(1.0 - r.early);
                let answered = asked + RENEW_AGAIN.mul_f64(r.took);
                if !matches!(r.answer, Answer::Failed { done: false }) {
                    taken_from = asked + RENEW_AGAIN.mul_f64(r.took * r.acted) + LENGTH;
                }
                prop_assert!(answered < taken_from, "another process has it, and this one still runs it");
                let renewed = match r.answer {
                    Answer::Kept => Ok(Renewed::Held { cancel: None }),
                    Answer::Cancelled => Ok(Renewed::Held { cancel: Some("enough".to_owned()) }),
                    Answer::Failed { .. } => Err("no".to_owned()),
                };
                let is_kept = renewed.is_ok();
                let (news, why) = lease.note(renewed, asked);
                prop_assert_eq!(why.is_none(), is_kept);
                if news == LeaseNews::Lost {
                    prop_assert!(answered + STOP_GRACE < taken_from, "it may still run when another process begins");
                    prop_assert!(!is_kept && asked - kept + STOPPED_BEFORE >= LENGTH, "given up too soon");
                    return Ok(());
                }
                prop_assert_eq!(matches!(news, LeaseNews::Cancelled(_)), matches!(r.answer, Answer::Cancelled));
                if is_kept {
                    kept = asked;
                }
                prop_assert_eq!(lease.renew_at, asked + if is_kept { RENEW_AFTER } else { RENEW_AGAIN });
                now = answered;
            }
        }
    }

    #[test]
    fn a_job_whose_lease_cannot_be_renewed_is_gone_before_the_lease_is() {
        let begun = Instant::now();
        let mut lease = Lease::begun(begun);
        let mut now = begun + RENEW_AFTER;
        let stopped = loop {
            assert_eq!(lease.renew_at, now, "renewed at a third of the lease, then again and again");
            let (news, why) = lease.note(Err("the disk is gone".to_owned()), now);
            assert!(why.is_some());
            if news == LeaseNews::Lost {
                break now;
            }
            now += RENEW_AGAIN;
        };
        assert!(stopped + STOP_GRACE < begun + LENGTH, "another could have begun");
        assert!(stopped > begun + RENEW_AFTER + RENEW_AGAIN, "one renewal that fails stops nothing");
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_asked_for() {
        let begun = Instant::now();
        let mut lease = Lease::begun(begun);
        let asked = begun + RENEW_AFTER;
        assert_eq!(lease.note(Ok(Renewed::Held { cancel: None }), asked).0, LeaseNews::Held);
        assert_eq!((lease.until, lease.renew_at), (asked + LENGTH, asked + RENEW_AFTER));
        let asked_to_stop = Renewed::Held { cancel: Some("enough".to_owned()) };
        assert_eq!(lease.note(Ok(asked_to_stop), asked).0, LeaseNews::Cancelled("enough".to_owned()));
        assert_eq!(lease.note(Ok(Renewed::Lost), asked).0, LeaseNews::Lost);
    }
}
