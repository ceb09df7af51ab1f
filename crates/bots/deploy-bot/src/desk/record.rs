//! What the desk remembers of each attempt, and how one ends that never began.
use bot_core::Effects;
use bot_messages::{
    Code, Digest, Event, FailureReason, SafeError,
    deploy::{Attempt, AttemptState, AttemptStep, DeployFailed, DeployRefused, DeployRollbackRequested},
};
use chrono::{DateTime, Utc};

use super::{ATTEMPTS_MAX, Desk, kind_of};
use crate::{DeployBot, STATE_BYTES_MAX, environments::Environment, job::Want, words::Offer};

pub(super) const WHY_CHARS_MAX: usize = 600;
const STEP_CHARS_MAX: usize = 160;
const STEPS_MAX: usize = 16;
/// The newest, of which the steps are kept.
const DETAILED_MAX: usize = 20;

impl Desk {
    /// Writes a new attempt down; gives its number.
    pub(super) fn record(&mut self, offer: &Offer, now: DateTime<Utc>) -> u64 {
        self.numbered += 1;
        let revision = match &offer.want {
            Want::Release(release) => Some(release.revision.clone()),
            Want::Back { .. } => None,
        };
        let why = match &offer.want {
            Want::Release(_) => String::new(),
            Want::Back { reason, .. } => clip(reason, WHY_CHARS_MAX),
        };
        self.attempts.push(Attempt {
            number: self.numbered,
            kind: kind_of(&offer.want),
            asked_at: now,
            by: clip(&offer.by, STEP_CHARS_MAX),
            digest: offer.want.digest().cloned(),
            revision,
            state: AttemptState::Waiting,
            gate: None,
            why,
            approval: None,
            job_id: None,
            steps: Vec::new(),
            ended_at: None,
        });
        self.forget();
        self.numbered
    }

    /// Older attempts lose their steps first, then the oldest go. Who still waits or runs is not forgotten.
    fn forget(&mut self) {
        let older = self.attempts.len().saturating_sub(DETAILED_MAX);
        for attempt in self.attempts.iter_mut().take(older).filter(|attempt| attempt.ended_at.is_some()) {
            attempt.steps.clear();
            attempt.why = clip(&attempt.why, STEP_CHARS_MAX);
        }
        while self.attempts.len() > ATTEMPTS_MAX || bytes(self) > STATE_BYTES_MAX {
            match self.attempts.iter().position(|attempt| attempt.ended_at.is_some()) {
                Some(oldest) => drop(self.attempts.remove(oldest)),
                None => break,
            }
        }
    }

    pub(super) fn attempt(&self, number: u64) -> Option<&Attempt> {
        self.attempts.iter().rfind(|attempt| attempt.number == number)
    }

    pub(super) fn change(&mut self, number: u64, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.attempts.iter_mut().rfind(|attempt| attempt.number == number) {
            change(attempt);
        }
    }

    /// Ends an attempt that never began, with the one terminal event it gets.
    pub(super) fn close(
        &mut self,
        environment: &Environment,
        number: u64,
        state: AttemptState,
        why: &str,
        now: DateTime<Utc>,
    ) -> Effects<DeployBot> {
        let Some(index) = self.waiting.iter().position(|waiting| waiting.number == number) else {
            return Effects::none();
        };
        let waiting = self.waiting.remove(index);
        self.change(number, |attempt| {
            (attempt.state, attempt.gate, attempt.ended_at) = (state, None, Some(now));
            attempt.why = clip(why, WHY_CHARS_MAX);
        });
        let (reason, code) = match state {
            AttemptState::Superseded => (FailureReason::Cancelled, Code::Cancelled),
            AttemptState::Denied => (FailureReason::Cancelled, Code::PermissionDenied),
            AttemptState::Expired => (FailureReason::TimedOut, Code::Expired),
            _ => (FailureReason::Error, Code::PermissionDenied),
        };
        never(&environment.name, &waiting.offer, (reason, code), why, self.current.clone(), (waiting.since, now))
    }
}

impl Desk {
    /// Ends an attempt whose environment was taken out of the configuration.
    pub(crate) fn abandon(&mut self, name: &str, number: u64, why: &str, now: DateTime<Utc>) -> Effects<DeployBot> {
        let Some(index) = self.waiting.iter().position(|waiting| waiting.number == number) else {
            return Effects::ignored(why);
        };
        let waiting = self.waiting.remove(index);
        self.change(number, |attempt| {
            (attempt.state, attempt.gate, attempt.ended_at) = (AttemptState::Refused, None, Some(now));
            attempt.why = clip(why, WHY_CHARS_MAX);
        });
        refused(name, &waiting.offer, why, now)
    }
}

/// Nothing was begun, and nothing will be.
pub(crate) fn refused(name: &str, offer: &Offer, why: &str, now: DateTime<Utc>) -> Effects<DeployBot> {
    never(name, offer, (FailureReason::Error, Code::PermissionDenied), why, None, (now, now))
}

/// The one terminal event of what never began.
fn never(
    name: &str,
    offer: &Offer,
    (reason, code): (FailureReason, Code),
    why: &str,
    current: Option<Digest>,
    (since, now): (DateTime<Utc>, DateTime<Utc>),
) -> Effects<DeployBot> {
    let effects = match &offer.want {
        Want::Release(release) => Effects::none().say(DeployFailed {
            environment: name.to_owned(),
            digest: release.digest().clone(),
            revision: Some(release.revision.clone()),
            job_id: None,
            reason,
            error: SafeError::new(code, why, now),
            current,
            log_tail: Vec::new(),
            duration_ms: (now - since).num_milliseconds().try_into().unwrap_or(0),
        }),
        Want::Back { .. } => Effects::none().say(DeployRefused {
            environment: name.to_owned(),
            request: DeployRollbackRequested::TYPE.to_owned(),
            error: SafeError::new(Code::Rejected, why, now),
        }),
    };
    effects.note(format!("{name}: ends before it began: {why}"))
}

/// Adds a step in its place: the words of a job may overtake each other.
pub(super) fn add_step(attempt: &mut Attempt, step: &AttemptStep) {
    let step = AttemptStep { at: step.at, what: clip(&step.what, STEP_CHARS_MAX) };
    let place = attempt.steps.iter().rposition(|other| other.at <= step.at).map_or(0, |before| before + 1);
    attempt.steps.insert(place, step);
    let surplus = attempt.steps.len().saturating_sub(STEPS_MAX);
    attempt.steps.drain(..surplus);
}

/// As stored; what cannot be written has no size.
pub(crate) fn bytes<T: serde::Serialize>(state: &T) -> usize {
    serde_json::to_vec(state).map_or(0, |json| json.len())
}

pub(super) fn clip(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).collect()
}
