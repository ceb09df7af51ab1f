//! DeployBot puts tested artifacts into environments, and takes them back.
//!
//! Hears `test.completed`: whatever passed goes to the environments that its pipeline names, where the operator's
//! `environments.yaml` lets it. Hears `deploy.requested` (an artifact that passed before) and `deploy.rollback_requested`.
//! Says `deploy.started`, then one of `deploy.completed` and `deploy.failed`; and `deploy.rolled_back` whenever an
//! environment is back at what it was.
//!
//! How it fails: what is not healthy by its deadline is taken back, and the release before it runs again. What was never
//! tested, or may not go there, is refused with PERMISSION_DENIED. A crash at any point is continued by the next attempt
//! from the environment's journal: one switch, one terminal event, one application. Applications outlive the bot.

mod application;
mod deployment;
mod environments;
mod health;
mod history;
mod in_use;
mod journal;
mod keeper;
mod release;
mod report;
mod settings;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use application::Host;
use bot_clients::{ArchiveLimits, Objects};
use bot_core::{About, Bot, Effects, Fail, GaveUp, Handle, Job, JobCx, Meta, Outcome, ServiceCx, Tools};
use bot_messages::{
    Category, Code, Digest, FailureReason, ObjectRef, Revision, SafeError,
    deploy::{
        DeployCompleted, DeployFailed, DeployRequested, DeployRollbackRequested, DeployRolledBack, DeployStarted,
    },
    pipeline::DeployStage,
    test::TestCompleted,
};
use deployment::Deployment;
use environments::{Environment, Environments};
use journal::Journal;
use release::{Release, Releases, Sizes};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

pub use settings::Settings;

const MIB: u64 = 1024 * 1024;
/// Revisions that are remembered for one artifact.
const VOUCHED_MAX: usize = 16;

/// What is known of one artifact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// The tests it passed, the newest last.
    vouched: Vec<Vouched>,
}

/// A passed test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Vouched {
    artifact: ObjectRef,
    revision: Revision,
    deploy: BTreeMap<String, DeployStage>,
}

/// Deploys.
pub struct DeployBot {
    settings: Settings,
    tools: Tools,
    environments: Environments,
    objects: Objects,
    sizes: Sizes,
    http: reqwest::Client,
    /// Found out once, when it is first needed: that takes a trial.
    host: OnceCell<Host>,
}

impl Bot for DeployBot {
    const ABOUT: About = About {
        name: "DeployBot",
        category: Category::Infrastructure,
        responsibility: "puts tested artifacts into environments and takes them back",
        never: &["builds", "tests", "changes infrastructure configuration"],
        actions: &["deploy", "rollback"],
        dependencies: &[],
        observes: &[],
    };
    type Hears = (TestCompleted, (DeployRequested, (DeployRollbackRequested, ())));
    type Says = (DeployStarted, (DeployCompleted, (DeployFailed, (DeployRolledBack, ()))));
    type Jobs = (DeployJob, ());
    type Config = Settings;
    type State = Artifact;

    fn new(settings: Settings, mut tools: Tools) -> anyhow::Result<Self> {
        tools.dir = std::path::absolute(&tools.dir).context("the bot's folder has no absolute path")?;
        anyhow::ensure!(!settings.check_every.0.is_zero(), "settings.check_every is zero: expected such as 5s");
        let environments = environments::read(&tools.config_dir.join(&settings.environments), &tools.dir)?;
        let objects = Objects::open(&tools.objects)?;
        let sizes = Sizes {
            artifact_bytes_max: settings.artifact_mib_max.saturating_mul(MIB),
            unpacked: ArchiveLimits {
                entries_max: settings.entries_max,
                bytes_max: settings.unpacked_mib_max.saturating_mul(MIB),
            },
        };
        let http = health::client()?;
        Ok(Self { settings, tools, environments, objects, sizes, http, host: OnceCell::new() })
    }

    async fn service(self: Arc<Self>, cx: ServiceCx<Self>) -> anyhow::Result<()> {
        keeper::keep(&self, &cx).await;
        Ok(())
    }
}

impl Handle<TestCompleted> for DeployBot {
    fn key(&self, event: &TestCompleted) -> String {
        event.artifact.digest.to_string()
    }

    fn handle(&self, event: TestCompleted, state: &mut Artifact, _: &Meta) -> Outcome<Self> {
        let TestCompleted { revision, artifact, deploy, .. } = event;
        let mut effects = Effects::none();
        let mut told = Vec::new();
        for (name, stage) in &deploy {
            match self.wish(name, &revision, stage) {
                Ok(()) => {
                    effects = effects.start(name, &DeployJob::of(name, &artifact, &revision, stage, None));
                    told.push(format!("{name}: {} goes there.", artifact.digest.short()));
                }
                Err(why) => told.push(why),
            }
        }
        state.vouch(Vouched { artifact, revision, deploy });
        if told.is_empty() {
            return Ok(Effects::ignored("the pipeline file asks for no deployment"));
        }
        Ok(effects.note(told.join(" ")))
    }
}

impl Handle<DeployRequested> for DeployBot {
    fn key(&self, event: &DeployRequested) -> String {
        event.digest.to_string()
    }

    fn handle(&self, event: DeployRequested, state: &mut Artifact, meta: &Meta) -> Outcome<Self> {
        match self.permitted(&event.environment, &event.digest, state) {
            Ok(vouched) => {
                let stage = vouched.deploy.get(&event.environment).cloned().unwrap_or_default();
                let Vouched { artifact, revision, .. } = vouched;
                let job = DeployJob::of(&event.environment, artifact, revision, &stage, event.requested_by);
                let job = DeployJob { by_hand: true, ..job };
                Ok(Effects::none().start(&event.environment, &job))
            }
            Err(why) => Ok(Effects::none().say(DeployFailed {
                environment: event.environment,
                revision: state.vouched.last().map(|vouched| vouched.revision.clone()),
                job_id: None,
                digest: event.digest,
                reason: FailureReason::Error,
                error: SafeError::new(Code::PermissionDenied, why, meta.now),
                current: None,
                log_tail: Vec::new(),
                duration_ms: 0,
            })),
        }
    }
}

impl Handle<DeployRollbackRequested> for DeployBot {
    fn key(&self, event: &DeployRollbackRequested) -> String {
        format!("environment:{}", event.environment)
    }

    fn handle(&self, event: DeployRollbackRequested, _: &mut Artifact, _: &Meta) -> Outcome<Self> {
        let environment = self.environment(&event.environment);
        environment.map_err(|why| Fail::reject(Code::Rejected, anyhow::anyhow!(why)))?;
        let DeployRollbackRequested { environment, to, reason, requested_by } = event;
        let job = DeployJob { environment, want: Want::Back { to, reason }, requested_by, by_hand: true };
        Ok(Effects::none().start(&job.environment, &job))
    }
}

impl DeployBot {
    fn environment(&self, name: &str) -> Result<&Environment, String> {
        self.environments.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.environments.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!("{name}: there is no such environment in environments.yaml, which has: {known}.")
        })
    }

    /// Whether a pipeline's wish is granted; otherwise why not, as a sentence.
    fn wish(&self, name: &str, revision: &Revision, stage: &DeployStage) -> Result<(), String> {
        let environment = self.environment(name)?;
        let fits = stage.when.as_ref().map_or(Ok(()), |when| when.judge_ref(&revision.git_ref));
        fits.map_err(|why| format!("{name}: the pipeline file sends it there {why}."))?;
        environment.admits(revision).map_err(|why| format!("{name}: environments.yaml {why}."))
    }

    /// The test that lets an artifact go to an environment.
    fn permitted<'a>(&self, name: &str, digest: &Digest, state: &'a Artifact) -> Result<&'a Vouched, String> {
        let environment = self.environment(name)?;
        let mut why = format!(
            "{} was never seen to pass its tests: only what a test.completed vouches for is deployed",
            digest.short()
        );
        for vouched in state.vouched.iter().rev() {
            match environment.admits(&vouched.revision) {
                Ok(()) => return Ok(vouched),
                Err(refused) => why = format!("{name}: environments.yaml {refused}."),
            }
        }
        Err(why)
    }

    async fn host(&self) -> anyhow::Result<&Host> {
        let host = self.host.get_or_try_init(|| Host::new(&self.tools, self.settings.stop_grace.0));
        host.await.context("applications cannot be started on this machine")
    }
}

impl Artifact {
    fn vouch(&mut self, vouched: Vouched) {
        self.vouched.retain(|known| known.revision != vouched.revision);
        self.vouched.push(vouched);
        let surplus = self.vouched.len().saturating_sub(VOUCHED_MAX);
        self.vouched.drain(..surplus);
    }
}

/// Puts something into an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeployJob {
    environment: String,
    want: Want,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requested_by: Option<String>,
    /// Someone asked for just this: it goes over what is newer.
    #[serde(default)]
    by_hand: bool,
}

/// What is to be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Want {
    /// This.
    Release(Box<Release>),
    /// What was there before; absent: just before.
    Back { to: Option<Digest>, reason: String },
}

impl DeployJob {
    fn of(name: &str, artifact: &ObjectRef, revision: &Revision, stage: &DeployStage, by: Option<String>) -> Self {
        let release = Release::new(artifact.clone(), revision.clone(), stage.clone());
        let want = Want::Release(Box::new(release));
        Self { environment: name.to_owned(), want, requested_by: by, by_hand: false }
    }

    /// What the journal tells of it: why, and who asked.
    fn history(&self) -> (Option<String>, Option<String>) {
        let reason = match &self.want {
            Want::Release(_) => None,
            Want::Back { reason, .. } => Some(reason.clone()),
        };
        (reason, self.requested_by.clone())
    }
}

impl Job for DeployJob {
    type Bot = DeployBot;
    const KIND: &'static str = "deploy";

    fn exclusive(&self) -> Option<String> {
        Some(format!("environment:{}", self.environment))
    }

    async fn run(&self, bot: &DeployBot, cx: &JobCx<DeployBot>) -> Outcome<DeployBot> {
        let environment = bot.environment(&self.environment);
        let environment = environment.map_err(|why| Fail::reject(Code::PermissionDenied, anyhow::anyhow!(why)))?;
        let _busy = environment.busy.lock().await;
        let deployment = Deployment {
            job: self,
            bot,
            cx,
            environment,
            host: bot.host().await.map_err(Fail::Retry)?,
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
        let (revision, digest) = match &self.want {
            Want::Release(release) => (Some(release.revision.clone()), Some(release.digest().clone())),
            Want::Back { to, .. } => (None, to.clone().or_else(|| current.clone())),
        };
        let Some(digest) = digest else {
            return Effects::ignored(format!("{}: {}", self.environment, end.error.message));
        };
        Effects::none().say(DeployFailed {
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
}

#[cfg(test)]
mod tests;
