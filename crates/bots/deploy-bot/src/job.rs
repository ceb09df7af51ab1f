//! The job that puts something into an environment: what it is given, and what is said when it is given up.
use bot_core::{Again, Asked, Effects, Fail, GaveUp, Job, JobCx, Outcome};
use bot_messages::{
    Code, Digest, Event, FailureReason, Revision,
    deploy::{AttemptState, DeployFailed, DeployRefused, DeployRollbackRequested},
};
use serde::{Deserialize, Serialize};

use crate::{
    DeployBot,
    deployment::Deployment,
    journal::Journal,
    release::{Release, Releases},
    words::{self, End, Offer, What},
};

/// Puts something into an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeployJob {
    pub(crate) environment: String,
    /// Which attempt of the environment it is.
    pub(crate) number: u64,
    pub(crate) want: Want,
    /// Who or what asked.
    pub(crate) by: String,
    /// Someone asked for just this: it goes over what is newer.
    pub(crate) by_hand: bool,
}

/// What is to be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Want {
    /// This.
    Release(Box<Release>),
    /// What was there before; absent: just before.
    Back { to: Option<Digest>, reason: String },
}

impl Want {
    /// What it is about, where that is known before the journal is read.
    pub(crate) fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Release(release) => Some(release.digest()),
            Self::Back { to, .. } => to.as_ref(),
        }
    }
}

impl DeployJob {
    /// Why, for the journal.
    pub(crate) fn reason(&self) -> Option<String> {
        match &self.want {
            Want::Release(_) => None,
            Want::Back { reason, .. } => Some(reason.clone()),
        }
    }

    /// Tells the desk how the job ended.
    pub(crate) fn ended(&self, end: End) -> Effects<DeployBot> {
        let name = format!("ended:{}:{}", self.environment, self.number);
        words::say(&self.environment, &name, What::Ended { number: self.number, end })
    }
}

impl Job for DeployJob {
    type Bot = DeployBot;
    const KIND: &'static str = "deploy";

    fn exclusive(&self) -> Option<String> {
        Some(words::desk(&self.environment))
    }

    async fn run(&self, bot: &DeployBot, cx: &JobCx<DeployBot>) -> Outcome<DeployBot> {
        let environment = bot.environment(&self.environment);
        let environment = environment.map_err(|why| Fail::reject(Code::PermissionDenied, anyhow::anyhow!(why)))?;
        let _busy = environment.busy.lock().await;
        let host = bot.host().await?;
        // What was there before is there because it was allowed.
        if let Want::Release(release) = &self.want {
            let Revision { repository, url, .. } = &release.revision;
            let (kind, weak) = (host.sandbox.kind(), bot.settings.allow_weak_sandbox);
            let may_run = bot.repositories.may_run_in(kind, weak, repository, url);
            may_run.map_err(|why| Fail::reject(Code::PermissionDenied, anyhow::anyhow!(why)))?;
        }
        let deployment = Deployment {
            job: self,
            bot,
            cx,
            environment,
            host,
            journal: Journal::in_folder(&environment.root),
            releases: Releases::in_folder(&environment.root),
        };
        deployment.run().await
    }

    fn gave_up(&self, bot: &DeployBot, end: &GaveUp) -> Effects<DeployBot> {
        // What is there is told by the journal and by nothing else; it is a short file on this machine.
        let history = bot.environment(&self.environment).ok();
        let history =
            history.and_then(|environment| Journal::in_folder(&environment.root).read().ok()).unwrap_or_default();
        let current = history.current().map(|release| release.digest().clone());
        // A job that comes to its end after it has switched is not given up, whichever way it ends.
        let halfway = !history.of_job(&end.job_id).is_empty();
        let (state, why) = match (halfway, end.reason) {
            (true, _) => {
                let there = current.as_ref().map_or("nothing", Digest::short);
                let why = format!(
                    "{}; it was given up between a switch and its end: the journal names {there}, and whether that is \
                     healthy is not known",
                    end.error.message
                );
                (AttemptState::Stranded, why)
            }
            // The runtime says by whom it was cancelled; what the job refuses itself as cancelled came too late.
            (false, FailureReason::Cancelled) if end.error.message.starts_with("cancelled: ") => {
                (AttemptState::Cancelled, end.error.message.clone())
            }
            (false, FailureReason::Cancelled) => (AttemptState::Superseded, end.error.message.clone()),
            (false, _) => (AttemptState::Failed, end.error.message.clone()),
        };
        let (revision, digest) = match &self.want {
            Want::Release(release) => (Some(release.revision.clone()), Some(release.digest().clone())),
            Want::Back { to, .. } => (None, to.clone().or_else(|| current.clone())),
        };
        let told = self.ended(End {
            job_id: end.job_id.clone(),
            state,
            why,
            digest: self.want.digest().cloned(),
            current: current.clone(),
        });
        let Some(digest) = digest else {
            return told.say(DeployRefused {
                environment: self.environment.clone(),
                request: DeployRollbackRequested::TYPE.to_owned(),
                error: end.error.clone(),
            });
        };
        told.say(DeployFailed {
            environment: self.environment.clone(),
            revision,
            job_id: Some(end.job_id.clone()),
            digest,
            reason: end.reason,
            error: end.error.clone(),
            current,
            log_tail: Vec::new(),
            duration_ms: end.duration_ms,
        })
    }
    /// It is asked for as by hand, so that all gates look at it again. A way back goes to where this one went.
    fn again(self, asked: &Asked) -> Result<Again<Self>, String> {
        let environment = self.environment;
        Ok(Again::Effects(match self.want {
            Want::Release(release) => {
                let digest = release.digest().clone();
                words::Again { environment, digest, by: asked.by.clone() }.say(&asked.id)
            }
            Want::Back { to: Some(to), reason } => {
                let offer = Offer { want: Want::Back { to: Some(to), reason }, by: asked.by.clone(), by_hand: true };
                let name = format!("offer:{environment}:{}", asked.id);
                words::say(&environment, &name, What::Offer(Box::new(offer)))
            }
            Want::Back { to: None, .. } => {
                return Err(format!(
                    "it took {environment} back by one release, and once more would be one further: `lota rollback` says                      to which"
                ));
            }
        }))
    }
}
