//! The desk of one environment: who waits at which gate, who runs, and what became of everyone. Pure: from its state, a
//! word and the time to effects. An attempt that waits is a durable timer, its turn, which carries on where it came from.
mod answers;
mod gates;
mod record;

pub(crate) use record::{bytes, refused};

use bot_core::Effects;
use bot_messages::{
    Digest, Revision, Severity,
    alert::{AlertResolved, AlertTriggered},
    deploy::{Attempt, AttemptKind, AttemptState, AttemptStep},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    DeployBot,
    environments::{Environment, Environments},
    job::{DeployJob, Want},
    words::{self, End, Offer, What},
};

/// More are refused.
const WAITING_MAX: usize = 20;
/// Of an environment's history.
const ATTEMPTS_MAX: usize = 200;
/// Artifacts that were healthy and may be promoted.
const HEALTHY_MAX: usize = 200;

/// What is remembered of one environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Desk {
    /// The number of the newest attempt; none is used twice.
    numbered: u64,
    waiting: Vec<Waiting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Running>,
    /// Oldest first, those that wait or run among them.
    attempts: Vec<Attempt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<FrozenByHand>,
    /// Oldest first.
    healthy: Vec<Digest>,
    /// What is there, as far as the ends of jobs have told.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<Digest>,
    /// Since when an alert about it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    alert_since: Option<DateTime<Utc>>,
}

/// An attempt before its job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Waiting {
    number: u64,
    offer: Offer,
    since: DateTime<Utc>,
    /// Whether the environment it comes from has it healthy; absent: not asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promoted: Option<bool>,
    /// It will not begin; its own turn says so, since that belongs to its own cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<(AttemptState, String)>,
}

impl Waiting {
    fn revision(&self) -> Option<&Revision> {
        match &self.offer.want {
            Want::Release(release) => Some(&release.revision),
            Want::Back { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Running {
    number: u64,
    since: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FrozenByHand {
    reason: String,
    until: Option<DateTime<Utc>>,
    by: String,
}

impl Desk {
    /// The artifacts of those that wait or run.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = &Digest> {
        let running = self.running.iter().filter_map(|running| self.attempt(running.number)?.digest.as_ref());
        self.waiting.iter().filter_map(|waiting| waiting.offer.want.digest()).chain(running)
    }

    /// Something may go there, or is asked back: it gets its number, and goes as far as the gates let it.
    pub(crate) fn offer(&mut self, environment: &Environment, offer: Offer, now: DateTime<Utc>) -> Effects<DeployBot> {
        if let Some(same) = self.waiting.iter().find(|waiting| waiting.end.is_none() && waiting.offer == offer) {
            return Effects::ignored(format!("{}: attempt {} waits there already", environment.name, same.number));
        }
        let woken = self.supersede(environment, &offer);
        let number = self.record(&offer, now);
        self.waiting.push(Waiting { number, offer, since: now, promoted: None, end: None });
        if self.waiting.len() > WAITING_MAX {
            let why = format!("{WAITING_MAX} attempts wait for {} already: let them end first", environment.name);
            return woken.and(self.close(environment, number, AttemptState::Refused, &why, now));
        }
        woken.and(self.turn(environment, number, now))
    }

    /// The pushes that a newer one takes the place of; each ends at its own turn.
    fn supersede(&mut self, environment: &Environment, newer: &Offer) -> Effects<DeployBot> {
        let mut woken = Effects::none();
        let Want::Release(release) = &newer.want else {
            return woken;
        };
        for waiting in self.waiting.iter_mut().filter(|waiting| !waiting.offer.by_hand && waiting.end.is_none()) {
            if waiting.revision().is_some_and(|revision| is_older(revision, &release.revision)) {
                let why = format!(
                    "{}, a later push of {}, took its place before it began",
                    release.revision.commit.short(),
                    release.revision.git_ref
                );
                waiting.end = Some((AttemptState::Superseded, why));
                woken = woken.wake_timer(&words::turn(&environment.name, waiting.number));
            }
        }
        woken
    }

    /// A later push of the same ref that waits, runs or was there.
    fn newer_than(&self, revision: &Revision) -> Option<&Revision> {
        let counts = |attempt: &&Attempt| {
            matches!(
                attempt.state,
                AttemptState::Waiting
                    | AttemptState::Running
                    | AttemptState::Succeeded
                    | AttemptState::RolledBack
                    | AttemptState::Stranded
            )
        };
        let pushes = self.attempts.iter().rev().filter(counts).filter_map(|attempt| attempt.revision.as_ref());
        pushes.into_iter().find(|other| is_older(revision, other))
    }

    /// Looks at an attempt's gates, and begins it where all are open.
    pub(crate) fn turn(&mut self, environment: &Environment, number: u64, now: DateTime<Utc>) -> Effects<DeployBot> {
        let Some(waiting) = self.waiting.iter().find(|waiting| waiting.number == number) else {
            return Effects::ignored(format!("{}: attempt {number} does not wait any more", environment.name));
        };
        if let Some((state, why)) = waiting.end.clone() {
            return self.close(environment, number, state, &why, now);
        }
        let waiting = waiting.clone();
        match self.gate(environment, &waiting, now) {
            gates::Look::Open => self.start(environment, &waiting, now),
            gates::Look::Closed(closed) => self.hold(environment, &waiting, *closed, now),
            gates::Look::Never(state, why) => self.close(environment, number, state, &why, now),
        }
    }

    fn start(&mut self, environment: &Environment, waiting: &Waiting, now: DateTime<Utc>) -> Effects<DeployBot> {
        let number = waiting.number;
        self.waiting.retain(|other| other.number != number);
        self.running = Some(Running { number, since: now });
        self.change(number, |attempt| {
            (attempt.state, attempt.gate) = (AttemptState::Running, None);
            attempt.why.clear();
        });
        let Offer { want, by, by_hand } = waiting.offer.clone();
        let job = DeployJob { environment: environment.name.clone(), number, want, by, by_hand };
        Effects::none().start(&environment.name, &job)
    }

    /// A job tells what it did.
    pub(crate) fn step(&mut self, number: u64, job_id: String, step: &AttemptStep) {
        self.change(number, |attempt| {
            attempt.job_id = Some(job_id);
            record::add_step(attempt, step);
        });
    }

    /// A job has ended: the next one's turn comes, and who waits for the artifact elsewhere learns that it is healthy.
    pub(crate) fn ended(
        &mut self,
        environment: &Environment,
        all: &Environments,
        number: u64,
        end: End,
        now: DateTime<Utc>,
    ) -> Effects<DeployBot> {
        let End { job_id, state, why, digest, current } = end;
        self.change(number, |attempt| {
            attempt.state = state;
            attempt.why = record::clip(&why, record::WHY_CHARS_MAX);
            attempt.job_id = Some(job_id);
            attempt.ended_at = Some(now);
            attempt.digest = digest.clone().or(attempt.digest.take());
        });
        self.current = current;
        if self.running.as_ref().is_some_and(|running| running.number == number) {
            self.running = None;
        }
        let mut effects = self.next(environment);
        if let (AttemptState::Succeeded, Some(digest)) = (state, digest) {
            effects = effects.and(self.is_healthy(environment, all, &digest, number));
        }
        effects.and(self.alert(environment, state, &why, now))
    }

    /// Wakes who goes next: who goes back goes first, then who asked first.
    fn next(&self, environment: &Environment) -> Effects<DeployBot> {
        let busy = self.waiting.iter().filter(|waiting| waiting.end.is_none() && self.is_at_busy(waiting.number));
        let next = busy.min_by_key(|waiting| (matches!(waiting.offer.want, Want::Release(_)), waiting.number));
        next.map_or_else(Effects::none, |next| Effects::none().wake_timer(&words::turn(&environment.name, next.number)))
    }

    fn is_healthy(
        &mut self,
        environment: &Environment,
        all: &Environments,
        digest: &Digest,
        number: u64,
    ) -> Effects<DeployBot> {
        self.healthy.retain(|known| known != digest);
        self.healthy.push(digest.clone());
        let surplus = self.healthy.len().saturating_sub(HEALTHY_MAX);
        self.healthy.drain(..surplus);
        let waits_for_it = |other: &&Environment| other.promote_from.as_deref() == Some(environment.name.as_str());
        all.values().filter(waits_for_it).fold(Effects::none(), |effects, other| {
            let name = format!("promoted:{}:{}:{number}", other.name, environment.name);
            effects.and(words::say(&other.name, &name, What::Promoted { digest: digest.clone() }))
        })
    }

    /// Someone is called where nobody knows any more what is there, until the next good deployment.
    fn alert(
        &mut self,
        environment: &Environment,
        state: AttemptState,
        why: &str,
        now: DateTime<Utc>,
    ) -> Effects<DeployBot> {
        let name = &environment.name;
        let (alert_id, subject) = (format!("rollback:{name}"), format!("environment:{name}"));
        match (state, self.alert_since) {
            (AttemptState::Stranded, _) => {
                self.alert_since = self.alert_since.or(Some(now));
                let summary = record::clip(&format!("{name} needs a person: {why}"), record::WHY_CHARS_MAX);
                Effects::none().say(AlertTriggered { alert_id, severity: Severity::Critical, subject, summary })
            }
            (AttemptState::Succeeded, Some(since)) => {
                self.alert_since = None;
                let duration_ms = (now - since).num_milliseconds().try_into().unwrap_or(0);
                let summary = format!("{name} is healthy again");
                Effects::none().say(AlertResolved { alert_id, subject, summary, duration_ms })
            }
            _ => Effects::none(),
        }
    }
}

/// Whether it is an earlier push of the same ref. Pushes without a number have no order.
fn is_older(revision: &Revision, other: &Revision) -> bool {
    revision.repository == other.repository
        && revision.git_ref == other.git_ref
        && revision.sequence.zip(other.sequence).is_some_and(|(own, other)| own < other)
}

fn kind_of(want: &Want) -> AttemptKind {
    match want {
        Want::Release(_) => AttemptKind::Deploy,
        Want::Back { .. } => AttemptKind::Rollback,
    }
}
