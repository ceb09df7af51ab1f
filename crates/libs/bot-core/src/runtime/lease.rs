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
    pub(super) fn begun(now: Instant) -> Self {
        Self { until: now + LENGTH, renew_at: now + RENEW_AFTER }
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
    use super::*;

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
