//! What is said at the end of a job that switched: that it is there, or why not and what is there instead.
use bot_core::Effects;
use bot_messages::{
    Code, FailureReason, SafeError,
    deploy::{AttemptState, DeployCompleted, DeployFailed, DeployRolledBack},
};
use serde::{Deserialize, Serialize};

use crate::{
    DeployBot,
    deployment::Deployment,
    environments::Target,
    history::{Kind, Switch},
    job::Want,
    release::Release,
    words::End,
};

/// Why a switch is taken back. Remembered before that is done, so that a crash in between changes nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) reason: FailureReason,
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) log_tail: Vec<String>,
}

/// Where a release is once it is there and healthy.
pub(crate) struct Up {
    pub(crate) url: Option<String>,
    pub(crate) health_url: Option<String>,
}

impl Deployment<'_> {
    pub(crate) fn succeeded(&self, first: &Switch, up: Up) -> Effects<DeployBot> {
        let Some(release) = &first.to else {
            return Effects::none();
        };
        let environment = self.environment.name.clone();
        let (kind, at) = match &up.url {
            Some(url) => ("healthy", format!(" at {url}")),
            None => ("in place", String::new()),
        };
        let told = self.job.ended(End {
            job_id: self.cx.id.clone(),
            state: AttemptState::Succeeded,
            why: match self.job.reason() {
                Some(reason) => format!("{} is {kind}{at}: {reason}", release.digest().short()),
                None => format!("{} is {kind}{at}", release.digest().short()),
            },
            digest: Some(release.digest().clone()),
            current: Some(release.digest().clone()),
        });
        match &self.job.want {
            Want::Release(_) => told.say(DeployCompleted {
                environment,
                revision: release.revision.clone(),
                job_id: self.cx.id.clone(),
                digest: release.digest().clone(),
                previous: first.from.clone(),
                url: up.url,
                health_url: up.health_url,
                duration_ms: self.cx.duration_ms(),
            }),
            Want::Back { reason, .. } => told.say(DeployRolledBack {
                environment,
                job_id: self.cx.id.clone(),
                from: first.from.clone().unwrap_or_else(|| release.digest().clone()),
                to: Some(release.digest().clone()),
                reason: reason.clone(),
            }),
        }
    }

    pub(crate) fn failed(
        &self,
        first: &Switch,
        former: Option<&Release>,
        verdict: Verdict,
        trouble: Option<&str>,
    ) -> Effects<DeployBot> {
        let Some(release) = &first.to else {
            return Effects::none();
        };
        let environment = self.environment.name.clone();
        let state = match (former.map(|former| former.digest().short()), &trouble) {
            (Some(former), None) => format!("{former}, which was there before, is back"),
            (None, None) => "nothing was there before, and nothing is there now".to_owned(),
            (Some(former), Some(trouble)) if self.environment.target != Target::Directory => format!(
                "going back failed too: {trouble}; the journal names {former}, and what is there is not known: look there, \
                 then `lota deploy` or `lota rollback` it"
            ),
            (Some(former), Some(trouble)) => format!(
                "going back failed too: {trouble}; the journal and `current` name {former} now, it does not answer, and the \
                 bot goes on trying to keep it running"
            ),
            (None, Some(trouble)) => {
                format!("nothing was there before, but what is there could not be ended: {trouble}")
            }
        };
        let failed = DeployFailed {
            environment: environment.clone(),
            revision: Some(release.revision.clone()),
            job_id: Some(self.cx.id.clone()),
            digest: release.digest().clone(),
            reason: verdict.reason,
            error: SafeError::new(verdict.code, format!("{}; {state}", verdict.message), self.cx.now()),
            current: former.map(|former| former.digest().clone()),
            log_tail: verdict.log_tail,
            duration_ms: self.cx.duration_ms(),
        };
        let told = self.job.ended(End {
            job_id: self.cx.id.clone(),
            state: match (trouble, verdict.reason) {
                (Some(_), _) => AttemptState::Stranded,
                (None, FailureReason::Cancelled) => AttemptState::Cancelled,
                (None, _) => AttemptState::RolledBack,
            },
            why: failed.error.message.clone(),
            digest: Some(release.digest().clone()),
            current: failed.current.clone(),
        });
        let effects = if first.kind == Kind::Deploy && trouble.is_none() {
            told.say(DeployRolledBack {
                environment,
                job_id: self.cx.id.clone(),
                from: release.digest().clone(),
                to: former.map(|former| former.digest().clone()),
                reason: verdict.message,
            })
        } else {
            told
        };
        effects.say(failed)
    }
}
