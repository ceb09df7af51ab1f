//! What people ask of an environment: approvals, freezes, its history.
use bot_core::Effects;
use bot_messages::{
    Digest,
    approval::{ApprovalDenied, ApprovalGranted},
    deploy::{Attempt, AttemptState, DeployFreezeRequested, DeployFrozen, DeployReported, DeployUnfrozen},
};
use chrono::{DateTime, Utc};

use super::{Desk, FrozenByHand, gates::minute, record::clip};
use crate::{DeployBot, environments::Environment, words};

const REPORT_DEFAULT: usize = 20;
/// So that a report fits into a message.
const REPORT_MAX: usize = 50;
const REASON_CHARS_MAX: usize = 300;

impl Desk {
    /// A person says yes. An error says why that does not count.
    pub(crate) fn grant(
        &mut self,
        environment: &Environment,
        answer: &ApprovalGranted,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Effects<DeployBot>, String> {
        let number = self.answerable(&answer.approval_id, &answer.digest, now)?;
        Ok(self.answer(environment, number, true, by, now))
    }

    /// A person says no: the attempt ends at its own turn.
    pub(crate) fn deny(
        &mut self,
        environment: &Environment,
        answer: &ApprovalDenied,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Effects<DeployBot>, String> {
        let number = self.answerable(&answer.approval_id, &answer.digest, now)?;
        let why = format!("denied by {by}: {}", clip(&answer.reason, REASON_CHARS_MAX));
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.number == number) {
            waiting.end = Some((AttemptState::Denied, why.clone()));
        }
        Ok(self.answer(environment, number, false, by, now))
    }

    fn answer(
        &mut self,
        environment: &Environment,
        number: u64,
        granted: bool,
        by: &str,
        now: DateTime<Utc>,
    ) -> Effects<DeployBot> {
        self.change(number, |attempt| {
            if let Some(approval) = &mut attempt.approval {
                (approval.granted, approval.by, approval.answered_at) = (Some(granted), Some(by.to_owned()), Some(now));
            }
        });
        let attempts = self.attempt(number).cloned().into_iter().collect();
        let frozen = self.freeze_now(environment, now).map(|(why, _)| why);
        let reported = DeployReported { environment: environment.name.clone(), frozen, attempts };
        Effects::none().wake_timer(&words::turn(&environment.name, number)).say(reported)
    }

    /// The attempt that an answer is for, if it still can be answered.
    fn answerable(&self, approval_id: &str, digest: &Digest, now: DateTime<Utc>) -> Result<u64, String> {
        let asked = |attempt: &&Attempt| attempt.approval.as_ref().is_some_and(|a| a.approval_id == approval_id);
        let Some(attempt) = self.attempts.iter().rev().find(asked) else {
            return Err(format!(
                "no approval {approval_id} was asked for here, or it was forgotten; see `lota history`"
            ));
        };
        let waits = self.waiting.iter().any(|waiting| waiting.number == attempt.number && waiting.end.is_none());
        let approval = attempt.approval.as_ref();
        if let Some((granted, by)) = approval.and_then(|approval| Some((approval.granted?, approval.by.as_ref()?))) {
            let how = if granted { "granted" } else { "denied" };
            return Err(format!("{approval_id} was answered already: {how} by {by}; each is used once"));
        }
        if let Some(approval) = approval.filter(|approval| now >= approval.expires_at) {
            return Err(format!("{approval_id} has expired at {}; deploy it again", minute(approval.expires_at)));
        }
        if !waits {
            return Err(format!("{approval_id} is not waited for any more: {}", attempt.why));
        }
        match &attempt.digest {
            Some(asked) if asked == digest => Ok(attempt.number),
            asked => Err(format!(
                "{approval_id} was asked for {}, and this answer names {}",
                asked.as_ref().map_or("nothing", Digest::as_str),
                digest.as_str()
            )),
        }
    }

    /// Nothing goes there from now on. An error says why that cannot be.
    pub(crate) fn freeze(
        &mut self,
        request: DeployFreezeRequested,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Effects<DeployBot>, String> {
        let DeployFreezeRequested { environment, reason, until, .. } = request;
        if let Some(until) = until.filter(|until| *until <= now) {
            return Err(format!("a freeze until {} would be over already", minute(until)));
        }
        let reason = clip(&reason, REASON_CHARS_MAX);
        self.frozen = Some(FrozenByHand { reason: reason.clone(), until, by: by.to_owned() });
        Ok(Effects::none().say(DeployFrozen { environment, reason, until, by: by.to_owned() }))
    }

    /// Who waits for the end of the freeze gets their turn.
    pub(crate) fn unfreeze(
        &mut self,
        environment: &Environment,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Effects<DeployBot>, String> {
        let name = &environment.name;
        let still = environment.frozen(now);
        let still = still.map(|frozen| {
            let until = minute(frozen.until);
            format!("environments.yaml freezes {name} until {until}: {}", frozen.reason)
        });
        let frozen = self.frozen.take();
        if frozen.is_none_or(|frozen| frozen.until.is_some_and(|until| until <= now)) {
            return Err(still.unwrap_or_else(|| format!("{name} is not frozen")));
        }
        let woken = self.waiting.iter().fold(Effects::none(), |effects: Effects<DeployBot>, waiting| {
            effects.wake_timer(&words::turn(name, waiting.number))
        });
        Ok(woken.say(DeployUnfrozen { environment: name.clone(), by: by.to_owned(), still }))
    }

    /// What happened here, newest first.
    pub(crate) fn report(
        &self,
        environment: &Environment,
        attempts_max: Option<u32>,
        now: DateTime<Utc>,
    ) -> DeployReported {
        let attempts_max = attempts_max.map_or(REPORT_DEFAULT, |max| (max as usize).clamp(1, REPORT_MAX));
        DeployReported {
            environment: environment.name.clone(),
            frozen: self.freeze_now(environment, now).map(|(why, _)| why),
            attempts: self.attempts.iter().rev().take(attempts_max).cloned().collect(),
        }
    }
}
