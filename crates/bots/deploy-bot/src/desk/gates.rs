//! The gates, in the order in which they are passed: promotion, freeze, approval, busy. A rollback passes the last alone.
use std::time::Duration;

use bot_core::Effects;
use bot_messages::{
    approval::ApprovalRequested,
    deploy::{AttemptApproval, AttemptState, DeployHeld, Gate},
};
use chrono::{DateTime, TimeDelta, Utc};

use super::{Desk, Waiting, is_older};
use crate::{
    DeployBot,
    environments::{Environment, Frozen},
    job::Want,
    words::{self, What},
};

/// A turn comes at least this often: windows of the configuration may have changed.
const LOOK_AGAIN: TimeDelta = TimeDelta::hours(1);
/// An artifact that is not healthy where it comes from by then will not be.
const PROMOTION_MAX: TimeDelta = TimeDelta::days(7);
/// A job that has not told its end for so long never will; the store still keeps two from running at a time.
const RUNNING_MAX: TimeDelta = TimeDelta::hours(24);

/// What a look at the gates found.
pub(super) enum Look {
    Open,
    Closed(Box<Closed>),
    Never(AttemptState, String),
}

/// Why a gate is closed, and what opening it takes.
pub(super) struct Closed {
    gate: Gate,
    why: String,
    until: Option<DateTime<Utc>>,
    /// What is said once, when the attempt comes to this gate.
    ask: Option<Ask>,
}

impl Look {
    fn closed(closed: Closed) -> Self {
        Self::Closed(Box::new(closed))
    }
}

enum Ask {
    /// Of the desk of that environment.
    Health(String),
    /// Of a person.
    Approval(Box<ApprovalRequested>),
}

impl Desk {
    pub(super) fn gate(&mut self, environment: &Environment, waiting: &Waiting, now: DateTime<Utc>) -> Look {
        let looks = match &waiting.offer.want {
            Want::Back { .. } => [self.busy(environment, now), Look::Open, Look::Open, Look::Open, Look::Open],
            Want::Release(_) => [
                self.order(waiting),
                promotion(environment, waiting, now),
                self.freeze_gate(environment, now),
                self.approval(environment, waiting, now),
                self.busy(environment, now),
            ],
        };
        looks.into_iter().find(|look| !matches!(look, Look::Open)).unwrap_or(Look::Open)
    }

    /// Never older over newer, unless someone asks for just that.
    fn order(&self, waiting: &Waiting) -> Look {
        let revision = waiting.revision().filter(|_| !waiting.offer.by_hand);
        match revision.and_then(|revision| Some((revision, self.newer_than(revision)?))) {
            Some((revision, newer)) if is_older(revision, newer) => {
                let why = format!("{}, a later push of {}, is ahead of it", newer.commit.short(), newer.git_ref);
                Look::Never(AttemptState::Superseded, why)
            }
            _ => Look::Open,
        }
    }

    fn freeze_gate(&self, environment: &Environment, now: DateTime<Utc>) -> Look {
        match self.freeze_now(environment, now) {
            None => Look::Open,
            Some((why, until)) => Look::closed(Closed { gate: Gate::Freeze, why, until, ask: None }),
        }
    }

    /// Why nothing goes there now, and until when that is so at least.
    pub(super) fn freeze_now(
        &self,
        environment: &Environment,
        now: DateTime<Utc>,
    ) -> Option<(String, Option<DateTime<Utc>>)> {
        let name = &environment.name;
        let by_hand = self.frozen.as_ref().filter(|frozen| frozen.until.is_none_or(|until| now < until));
        let configured = environment.frozen(now);
        match (by_hand, configured) {
            (Some(frozen), _) => {
                let until = match frozen.until {
                    Some(until) => format!(" until {}", minute(until)),
                    None => String::new(),
                };
                Some((format!("{name} is frozen by {}{until}: {}", frozen.by, frozen.reason), frozen.until))
            }
            (None, Some(Frozen { until, reason })) => {
                Some((format!("{name} is frozen until {}: {reason}", minute(until)), Some(until)))
            }
            (None, None) => None,
        }
    }

    fn approval(&self, environment: &Environment, waiting: &Waiting, now: DateTime<Utc>) -> Look {
        let (Some(limit), Some(digest)) = (environment.approval, waiting.offer.want.digest()) else {
            return Look::Open;
        };
        let expires = |approval: &AttemptApproval| minute(approval.expires_at);
        let known = self.attempt(waiting.number).and_then(|attempt| attempt.approval.as_ref());
        match known {
            Some(approval) if now >= approval.expires_at => {
                let why = match &approval.by {
                    Some(by) => format!("the approval by {by} was not used before {}", expires(approval)),
                    None => format!("nobody approved it before {}", expires(approval)),
                };
                Look::Never(AttemptState::Expired, why)
            }
            Some(AttemptApproval { granted: Some(true), .. }) => Look::Open,
            Some(approval) => Look::closed(Closed {
                gate: Gate::Approval,
                why: format!("waits for a yes until {}: lota approve {}", expires(approval), approval.approval_id),
                until: Some(approval.expires_at),
                ask: None,
            }),
            None => {
                let name = &environment.name;
                let approval_id = format!("{name}:{}:{}", waiting.number, digest.short());
                let expires_at = now + TimeDelta::from_std(limit).unwrap_or(LOOK_AGAIN);
                let why = format!("waits for a yes until {}: lota approve {approval_id}", minute(expires_at));
                let ask = ApprovalRequested {
                    approval_id,
                    action: "deploy".to_owned(),
                    environment: name.clone(),
                    digest: digest.clone(),
                    revision: waiting.revision().cloned(),
                    requested_by: waiting.offer.by.clone(),
                    expires_at,
                };
                let ask = Some(Ask::Approval(Box::new(ask)));
                Look::closed(Closed { gate: Gate::Approval, why, until: Some(expires_at), ask })
            }
        }
    }

    fn busy(&mut self, environment: &Environment, now: DateTime<Utc>) -> Look {
        self.running.take_if(|running| now - running.since > RUNNING_MAX);
        match &self.running {
            None => Look::Open,
            Some(running) => {
                let why = format!("attempt {} is on its way to {}", running.number, environment.name);
                Look::closed(Closed { gate: Gate::Busy, why, until: None, ask: None })
            }
        }
    }

    /// The attempt waits: its turn comes when something wakes it, or when the gate opens by itself.
    pub(super) fn hold(
        &mut self,
        environment: &Environment,
        waiting: &Waiting,
        closed: Closed,
        now: DateTime<Utc>,
    ) -> Effects<DeployBot> {
        let (name, number) = (&environment.name, waiting.number);
        let Closed { gate, why, until, ask } = closed;
        let is_news = self.attempt(number).is_some_and(|attempt| attempt.gate != Some(gate) || attempt.why != why);
        self.change(number, |attempt| {
            attempt.gate = Some(gate);
            attempt.why.clone_from(&why);
        });
        let after = until.map_or(LOOK_AGAIN, |until| until - now).min(LOOK_AGAIN);
        let turn = words::turn(name, number);
        let after = after.to_std().unwrap_or(Duration::ZERO);
        let held = words::later(name, &turn, after, What::Turn { number });
        let said = match ask {
            Some(Ask::Health(source)) => ask_health(environment, waiting, &source),
            Some(Ask::Approval(request)) => self.ask_person(number, *request),
            None if is_news && gate != Gate::Approval => Effects::none().say(DeployHeld {
                environment: name.clone(),
                number,
                digest: waiting.offer.want.digest().cloned(),
                revision: waiting.revision().cloned(),
                gate,
                why: why.clone(),
                until,
            }),
            None => Effects::none(),
        };
        held.and(said).note(format!("{name}: attempt {number} waits: {why}"))
    }

    fn ask_person(&mut self, number: u64, request: ApprovalRequested) -> Effects<DeployBot> {
        self.change(number, |attempt| {
            attempt.approval = Some(AttemptApproval {
                approval_id: request.approval_id.clone(),
                expires_at: request.expires_at,
                granted: None,
                by: None,
                answered_at: None,
            });
        });
        Effects::none().say(request)
    }

    /// Another desk asks whether an artifact is healthy here.
    pub(crate) fn asked(
        &self,
        environment: &str,
        asker: &str,
        number: u64,
        digest: &bot_messages::Digest,
    ) -> Effects<DeployBot> {
        let healthy = self.healthy.contains(digest);
        let name = format!("answer:{asker}:{environment}:{number}");
        words::say(asker, &name, What::Answer { number, healthy })
    }

    /// The desk that was asked has answered; the attempt's own turn goes on from there.
    pub(crate) fn answered(&mut self, environment: &str, number: u64, healthy: bool) -> Effects<DeployBot> {
        let waiting = self.waiting.iter_mut().find(|waiting| waiting.number == number);
        let Some(waiting) = waiting.filter(|waiting| waiting.promoted != Some(true)) else {
            return Effects::ignored(format!("{environment}: attempt {number} does not wait for that any more"));
        };
        waiting.promoted = Some(healthy);
        Effects::none().wake_timer(&words::turn(environment, number))
    }

    /// The environment from which this one takes its artifacts has one healthy.
    pub(crate) fn promoted(&mut self, environment: &str, digest: &bot_messages::Digest) -> Effects<DeployBot> {
        let mut woken = Effects::none();
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.offer.want.digest() == Some(digest)) {
            waiting.promoted = Some(true);
            woken = woken.wake_timer(&words::turn(environment, waiting.number));
        }
        woken
    }

    pub(super) fn is_at_busy(&self, number: u64) -> bool {
        self.attempt(number).is_some_and(|attempt| attempt.gate == Some(Gate::Busy))
    }
}

fn ask_health(environment: &Environment, waiting: &Waiting, source: &str) -> Effects<DeployBot> {
    let (asker, number) = (environment.name.clone(), waiting.number);
    let Some(digest) = waiting.offer.want.digest().cloned() else {
        return Effects::none();
    };
    words::say(source, &format!("ask:{asker}:{number}"), What::Ask { asker, number, digest })
}

fn promotion(environment: &Environment, waiting: &Waiting, now: DateTime<Utc>) -> Look {
    let Some(source) = environment.promote_from.as_ref().filter(|_| waiting.promoted != Some(true)) else {
        return Look::Open;
    };
    let (name, until) = (&environment.name, waiting.since + PROMOTION_MAX);
    let takes = format!("{name} takes only what is healthy in {source}");
    if waiting.promoted == Some(false) && waiting.offer.by_hand {
        let why = format!("{takes}, and this was never seen healthy there: deploy it to {source} first");
        return Look::Never(AttemptState::Refused, why);
    }
    if now >= until {
        let why = format!("{takes}, and within {} days this was not", PROMOTION_MAX.num_days());
        return Look::Never(AttemptState::Expired, why);
    }
    let (why, ask) = match waiting.promoted {
        None => (format!("{takes}, which is asked"), Some(Ask::Health(source.clone()))),
        Some(_) => (takes, None),
    };
    Look::closed(Closed { gate: Gate::Promotion, why, until: Some(until), ask })
}

/// For people: to the minute, in UTC.
pub(super) fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}
