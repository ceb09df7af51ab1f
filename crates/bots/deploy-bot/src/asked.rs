//! What people ask: a deployment of a certain artifact, a rollback, a freeze, an approval, what happened.
use bot_core::{Effects, Handle, Meta, Outcome};
use bot_messages::{
    Code, Digest, Event, FailureReason, SafeError,
    approval::{ApprovalDenied, ApprovalGranted},
    deploy::{
        DeployFailed, DeployFreezeRequested, DeployRefused, DeployReportRequested, DeployRequested,
        DeployRollbackRequested, DeployUnfreezeRequested,
    },
};

use crate::{
    DeployBot, Memory,
    environments::Environment,
    job::Want,
    offered,
    proofs::{self, Shelf},
    words::{self, Offer},
};

impl Handle<DeployRequested> for DeployBot {
    fn key(&self, event: &DeployRequested) -> String {
        proofs::key(&event.digest)
    }

    fn handle(&self, event: DeployRequested, state: &mut Memory, meta: &Meta) -> Outcome<Self> {
        let DeployRequested { environment, digest, requested_by } = event;
        if let Some(proof) = state.shelf.newest_test(&digest) {
            self.may_speak_for(&proof.revision, meta)?;
        }
        let by = who(requested_by.as_deref(), meta);
        Ok(self.requested(&environment, digest, by, &state.shelf, meta))
    }
}

impl Handle<DeployRollbackRequested> for DeployBot {
    fn key(&self, event: &DeployRollbackRequested) -> String {
        words::desk(&event.environment)
    }

    fn handle(&self, event: DeployRollbackRequested, state: &mut Memory, meta: &Meta) -> Outcome<Self> {
        let DeployRollbackRequested { environment: name, to, reason, requested_by } = event;
        Ok(self.answer::<DeployRollbackRequested>(&name, meta, |environment| {
            let by = who(requested_by.as_deref(), meta);
            let offer = Offer { want: Want::Back { to, reason }, by, by_hand: true };
            Ok(state.desk.offer(environment, offer, meta.now))
        }))
    }
}

impl Handle<DeployFreezeRequested> for DeployBot {
    fn key(&self, event: &DeployFreezeRequested) -> String {
        words::desk(&event.environment)
    }

    fn handle(&self, event: DeployFreezeRequested, state: &mut Memory, meta: &Meta) -> Outcome<Self> {
        let by = who(event.requested_by.as_deref(), meta);
        let name = event.environment.clone();
        Ok(self.answer::<DeployFreezeRequested>(&name, meta, |_| state.desk.freeze(event, &by, meta.now)))
    }
}

impl Handle<DeployUnfreezeRequested> for DeployBot {
    fn key(&self, event: &DeployUnfreezeRequested) -> String {
        words::desk(&event.environment)
    }

    fn handle(&self, event: DeployUnfreezeRequested, state: &mut Memory, meta: &Meta) -> Outcome<Self> {
        let by = who(event.requested_by.as_deref(), meta);
        Ok(self.answer::<DeployUnfreezeRequested>(&event.environment, meta, |environment| {
            state.desk.unfreeze(environment, &by, meta.now)
        }))
    }
}

impl Handle<DeployReportRequested> for DeployBot {
    fn key(&self, event: &DeployReportRequested) -> String {
        words::desk(&event.environment)
    }

    fn handle(&self, event: DeployReportRequested, state: &mut Memory, meta: &Meta) -> Outcome<Self> {
        Ok(self.answer::<DeployReportRequested>(&event.environment, meta, |environment| {
            Ok(Effects::none().say(state.desk.report(environment, event.attempts_max, meta.now)))
        }))
    }
}

impl Handle<ApprovalGranted> for DeployBot {
    fn key(&self, event: &ApprovalGranted) -> String {
        words::desk(&event.environment)
    }

    fn handle(&self, event: ApprovalGranted, state: &mut Memory, meta: &Meta) -> Outcome<Self> {
        let by = who(Some(&event.approver), meta);
        Ok(self.answer::<ApprovalGranted>(&event.environment, meta, |environment| {
            state.desk.grant(environment, &event, &by, meta.now)
        }))
    }
}

impl Handle<ApprovalDenied> for DeployBot {
    fn key(&self, event: &ApprovalDenied) -> String {
        words::desk(&event.environment)
    }

    fn handle(&self, event: ApprovalDenied, state: &mut Memory, meta: &Meta) -> Outcome<Self> {
        let by = who(Some(&event.approver), meta);
        Ok(self.answer::<ApprovalDenied>(&event.environment, meta, |environment| {
            state.desk.deny(environment, &event, &by, meta.now)
        }))
    }
}

impl DeployBot {
    /// Someone asks for just this artifact: it is offered to the environment, if it may go there.
    pub(crate) fn requested(
        &self,
        name: &str,
        digest: Digest,
        by: String,
        shelf: &Shelf,
        meta: &Meta,
    ) -> Effects<Self> {
        let permitted = self.environment(name).and_then(|environment| shelf.permitted(&digest, environment));
        match permitted {
            Ok(release) => {
                let offer = Offer { want: Want::Release(Box::new(release)), by, by_hand: true };
                offered(name, offer, meta).note(format!("{name}: {} goes there.", digest.short()))
            }
            Err(why) => Effects::none().say(DeployFailed {
                environment: name.to_owned(),
                revision: shelf.newest_test(&digest).map(|test| test.revision.clone()),
                job_id: None,
                digest,
                reason: FailureReason::Error,
                error: SafeError::new(Code::PermissionDenied, why, meta.now),
                current: None,
                log_tail: Vec::new(),
                duration_ms: 0,
            }),
        }
    }

    /// What an environment answers; where it has none, why not. A question is no reason for a dead letter.
    fn answer<E: Event>(
        &self,
        name: &str,
        meta: &Meta,
        ask: impl FnOnce(&Environment) -> Result<Effects<Self>, String>,
    ) -> Effects<Self> {
        let answer = self.environment(name).and_then(ask);
        answer.unwrap_or_else(|why| {
            let error = SafeError::new(Code::Rejected, why.clone(), meta.now);
            let refused = DeployRefused { environment: name.to_owned(), request: E::TYPE.to_owned(), error };
            Effects::none().say(refused).note(why)
        })
    }
}

/// Who asks: the name is what they say, the publisher is what the broker proves.
fn who(name: Option<&str>, meta: &Meta) -> String {
    match name {
        Some(name) => format!("{} ({})", name.chars().take(80).collect::<String>(), meta.publisher),
        None => meta.publisher.clone(),
    }
}
