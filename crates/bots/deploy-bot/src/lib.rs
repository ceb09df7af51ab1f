//! DeployBot puts tested artifacts into environments, and takes them back.
//!
//! Hears `test.completed` and `build.completed`: what vouches for an artifact is kept (`proofs`), and what the operator's
//! `environments.yaml` requires of it being there, it is offered to the environments that its pipeline names. Each
//! environment has a desk (`desk`), where newer pushes take the place of older ones and the gates are passed: promotion,
//! freeze, approval, busy. Hears what people ask: `deploy.requested`, `deploy.rollback_requested`, `approval.granted` and
//! `denied`, freezes, and reports of what happened. What passes the gates is a job (`job`, `deployment`).
//! Says `deploy.held` and `approval.requested` while something waits; `deploy.started`, then one of `deploy.completed` and
//! `deploy.failed`; and `deploy.rolled_back` whenever an environment is back at what it was. By the clock (`retention`) it
//! removes from the object store what is old and no environment needs, and says `objects.collected`.
//!
//! How it fails: what is not healthy by its deadline is taken back, and the release before it runs again; where that fails
//! too, an `alert.triggered` calls a person. What was never tested, or may not go there, is refused with
//! PERMISSION_DENIED. A crash at any point is continued by the next attempt from the environment's journal: one switch,
//! one terminal event, one application. Applications outlive the bot.

mod application;
mod asked;
mod compose;
mod deployment;
mod desk;
mod elsewhere;
mod environments;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod history;
mod in_use;
mod job;
mod journal;
mod keeper;
mod project;
mod proofs;
mod release;
mod report;
mod retention;
mod scripts;
mod settings;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use application::Host;
use bot_clients::{ArchiveLimits, ObjectSettings, Objects, RetentionDays};
use bot_core::{About, Bot, Effects, Fail, Feature, Handle, Meta, Optional, Outcome, ServiceCx, TimerDue, Tools};
use bot_messages::{
    Category, Code, Event, ObjectRef, Revision,
    alert::{AlertResolved, AlertTriggered},
    approval::{ApprovalDenied, ApprovalGranted, ApprovalRequested},
    build::BuildCompleted,
    deploy::{
        DeployCompleted, DeployFailed, DeployFreezeRequested, DeployFrozen, DeployHeld, DeployRefused,
        DeployReportRequested, DeployReported, DeployRequested, DeployRollbackRequested, DeployRolledBack,
        DeployStarted, DeployUnfreezeRequested, DeployUnfrozen,
    },
    objects::ObjectsCollected,
    pipeline::DeployStage,
    test::TestCompleted,
};
use bot_pipeline::{Publishers, Repositories};
use desk::Desk;
use environments::{Base, Environment, Environments};
use job::Want;
use proofs::{Proof, Shelf};
use release::Sizes;
use retention::Retention;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::OnceCell;
use words::{Again, Offer, What, Word};

pub use job::DeployJob;
pub use retention::CollectJob;
pub use settings::Settings;

/// Features, by their names in heartbeats.
/// Room for those of what is deployed.
const PROCESSES: &str = "processes";
const OBJECTS: &str = "objects";
const PRUNING: &str = "pruning";
const MIB: u64 = 1024 * 1024;
/// Of one key: the core stores 256 KiB, and what is remembered may grow a little before it is looked at again.
const STATE_BYTES_MAX: usize = 160 * 1024;

/// What is remembered under one key: a shelf of proofs, the desk of an environment, or what retention came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    #[serde(skip_serializing_if = "Shelf::is_empty")]
    shelf: Shelf,
    #[serde(skip_serializing_if = "is_default")]
    desk: Desk,
    #[serde(skip_serializing_if = "is_default")]
    retention: Retention,
}

fn is_default<T: Default + PartialEq>(part: &T) -> bool {
    *part == T::default()
}

/// Deploys.
pub struct DeployBot {
    settings: Settings,
    tools: Tools,
    environments: Environments,
    /// Asked only where nothing keeps applications in.
    repositories: Repositories,
    publishers: Publishers,
    objects: Objects,
    /// How long these are kept.
    retention: RetentionDays,
    sizes: Sizes,
    http: reqwest::Client,
    pruning: Optional,
    /// Found out once, when it is first needed: that takes a trial.
    host: OnceCell<Host>,
}

impl Bot for DeployBot {
    const ABOUT: About = About {
        name: "DeployBot",
        category: Category::Infrastructure,
        responsibility: "puts tested artifacts into environments and takes them back",
        never: &["builds", "tests", "changes infrastructure configuration"],
        actions: &["deploy", "rollback", "collect"],
        dependencies: &[],
        observes: &[],
    };
    const FEATURES: &'static [Feature] = &[
        Feature::essential(OBJECTS, "holds what is deployed"),
        Feature::optional(PRUNING, "removes old releases and logs of environments"),
    ];
    const CONFIG_FILES: &'static [&'static str] =
        &["environments.yaml", "repositories.yaml", "publishers.yaml", "objects.yaml"];
    /// Its environments are in folders of one machine.
    const ALONE: bool = true;
    type Hears = (
        BuildCompleted,
        (
            TestCompleted,
            (
                DeployRequested,
                (
                    DeployRollbackRequested,
                    (
                        DeployFreezeRequested,
                        (DeployUnfreezeRequested, (DeployReportRequested, (ApprovalGranted, (ApprovalDenied, ())))),
                    ),
                ),
            ),
        ),
    );
    type Says = (
        DeployHeld,
        (
            ApprovalRequested,
            (
                DeployStarted,
                (
                    DeployCompleted,
                    (
                        DeployFailed,
                        (
                            DeployRolledBack,
                            (
                                DeployFrozen,
                                (
                                    DeployUnfrozen,
                                    (
                                        DeployReported,
                                        (DeployRefused, (ObjectsCollected, (AlertTriggered, (AlertResolved, ())))),
                                    ),
                                ),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    );
    type Jobs = (DeployJob, (CollectJob, ()));
    type Config = Settings;
    type State = Memory;

    fn new(settings: Settings, mut tools: Tools) -> anyhow::Result<Self> {
        tools.dir = std::path::absolute(&tools.dir).context("the bot's folder has no absolute path")?;
        anyhow::ensure!(!settings.check_every.0.is_zero(), "settings.check_every is zero: expected such as 5s");
        let base = Base { bot: &tools.dir, config: &tools.config_dir };
        let environments = environments::read(&tools.config_dir.join(&settings.environments), base)?;
        let repositories = Repositories::read(&tools.config_dir).map_err(anyhow::Error::msg)?;
        let publishers = Publishers::read(&tools.config_dir).map_err(anyhow::Error::msg)?;
        let objects = Objects::open(&tools.objects)?;
        let settings_of_objects = ObjectSettings::read(&tools.config_dir.join("objects.yaml"));
        let retention = settings_of_objects.map_err(anyhow::Error::msg)?.retention_days;
        let sizes = Sizes {
            artifact_bytes_max: settings.artifact_mib_max.saturating_mul(MIB),
            unpacked: ArchiveLimits {
                entries_max: settings.entries_max,
                bytes_max: settings.unpacked_mib_max.saturating_mul(MIB),
            },
        };
        let http = health::client()?;
        let pruning = tools.optional(PRUNING);
        Ok(Self {
            settings,
            tools,
            environments,
            repositories,
            publishers,
            objects,
            retention,
            sizes,
            http,
            pruning,
            host: OnceCell::new(),
        })
    }

    fn on_timer(&self, timer: &TimerDue, state: &mut Memory, meta: &Meta) -> Outcome<Self> {
        if timer.name.starts_with(words::AGAIN) {
            let Again { environment, digest, by } = read(timer)?;
            return Ok(self.requested(&environment, digest, by, &state.shelf, meta));
        }
        if timer.name == retention::ENDED {
            return Ok(state.retention.ended(read(timer)?, meta.now));
        }
        Ok(self.heed(read(timer)?, &mut state.desk, meta))
    }

    fn schedule_key(&self, data: &Value) -> Result<String, String> {
        retention::schedule_key(data)
    }

    fn on_schedule(&self, _: &TimerDue, _: &mut Memory, _: &Meta) -> Outcome<Self> {
        Ok(Effects::none().start(retention::KEY, &CollectJob {}))
    }

    async fn service(self: Arc<Self>, cx: ServiceCx<Self>) -> anyhow::Result<()> {
        keeper::keep(&self, &cx).await;
        Ok(())
    }
}

impl Handle<BuildCompleted> for DeployBot {
    fn key(&self, event: &BuildCompleted) -> String {
        proofs::key(&event.artifact.digest)
    }

    fn handle(&self, event: BuildCompleted, state: &mut Memory, meta: &Meta) -> Outcome<Self> {
        let BuildCompleted { revision, artifact, .. } = event;
        self.may_speak_for(&revision, meta)?;
        Ok(self.vouched::<BuildCompleted>(artifact, &revision, BTreeMap::new(), &mut state.shelf, meta))
    }
}

impl Handle<TestCompleted> for DeployBot {
    fn key(&self, event: &TestCompleted) -> String {
        proofs::key(&event.artifact.digest)
    }

    fn handle(&self, event: TestCompleted, state: &mut Memory, meta: &Meta) -> Outcome<Self> {
        let TestCompleted { revision, artifact, deploy, .. } = event;
        self.may_speak_for(&revision, meta)?;
        Ok(self.vouched::<TestCompleted>(artifact, &revision, deploy, &mut state.shelf, meta))
    }
}

impl DeployBot {
    /// Who vouches for an artifact, or asks for one, has to be one that may name its repository.
    fn may_speak_for(&self, revision: &Revision, meta: &Meta) -> Result<(), Fail> {
        let may = self.publishers.may_speak_for(&meta.publisher, &revision.url);
        may.map_err(|why| Fail::reject(Code::PermissionDenied, anyhow::anyhow!(why)))
    }

    /// Keeps a proof, and offers the artifact to each environment that waited for just this one.
    fn vouched<E: Event>(
        &self,
        artifact: ObjectRef,
        revision: &Revision,
        deploy: BTreeMap<String, DeployStage>,
        shelf: &mut Shelf,
        meta: &Meta,
    ) -> Effects<Self> {
        let digest = artifact.digest.clone();
        let proof = Proof {
            event_type: E::TYPE.to_owned(),
            publisher: meta.publisher.clone(),
            revision: revision.clone(),
            deploy,
        };
        shelf.put(artifact, proof, meta.now);
        let test = shelf.tests(&digest).find(|test| test.revision == *revision);
        let Some(test) = test else {
            return Effects::ignored(format!("kept: {} waits for its tests", digest.short()));
        };
        if test.deploy.is_empty() {
            return Effects::ignored("the pipeline file asks for no deployment");
        }
        let mut effects = Effects::none();
        let mut told = Vec::new();
        for (name, stage) in &test.deploy {
            let wish = self.wish(name, revision, stage).and_then(|environment| {
                match shelf.missing(&digest, revision, environment)[..] {
                    [] if environment.requires.iter().any(|required| required == E::TYPE) => {
                        shelf.release(&digest, revision, stage)
                    }
                    [] => Err(format!("{name} does not ask for {}.", E::TYPE)),
                    ref missing => Err(format!("{name}: {} waits for {}.", digest.short(), missing.join(" and "))),
                }
            });
            match wish {
                Ok(release) => {
                    let by = format!("a push of {}", revision.git_ref);
                    let offer = Offer { want: Want::Release(Box::new(release)), by, by_hand: false };
                    effects = effects.and(offered(name, offer, meta));
                    told.push(format!("{name}: {} goes there.", digest.short()));
                }
                Err(why) => told.push(why),
            }
        }
        effects.note(told.join(" "))
    }

    /// Whether a pipeline's wish is granted; otherwise why not, as a sentence.
    fn wish(&self, name: &str, revision: &Revision, stage: &DeployStage) -> Result<&Environment, String> {
        let environment = self.environment(name)?;
        let fits = stage.when.as_ref().map_or(Ok(()), |when| when.judge_ref(&revision.git_ref));
        fits.map_err(|why| format!("{name}: the pipeline file sends it there {why}."))?;
        environment.admits(revision).map_err(|why| format!("{name}: environments.yaml {why}."))?;
        Ok(environment)
    }

    fn environment(&self, name: &str) -> Result<&Environment, String> {
        self.environments.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.environments.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!("{name}: there is no such environment in environments.yaml, which has: {known}.")
        })
    }

    /// A word to the desk of an environment.
    fn heed(&self, word: Word, desk: &mut Desk, meta: &Meta) -> Effects<Self> {
        let Word { environment: name, what } = word;
        let environment = match (self.environment(&name), what) {
            (Ok(environment), what) => (environment, what),
            // Nobody holds back any more what waits there, and nothing can go there.
            (Err(why), What::Turn { number }) => return desk.abandon(&name, number, &why, meta.now),
            (Err(why), What::Offer(offer)) => return desk::refused(&name, &offer, &why, meta.now),
            (Err(why), What::Ask { asker, number, digest }) => {
                return desk.asked(&name, &asker, number, &digest).note(why);
            }
            (Err(why), _) => return Effects::ignored(why),
        };
        match environment {
            (environment, What::Offer(offer)) => desk.offer(environment, *offer, meta.now),
            (environment, What::Turn { number }) => desk.turn(environment, number, meta.now),
            (_, What::Ask { asker, number, digest }) => desk.asked(&name, &asker, number, &digest),
            (_, What::Answer { number, healthy }) => desk.answered(&name, number, healthy),
            (_, What::Promoted { digest }) => desk.promoted(&name, &digest),
            (_, What::Step { number, job_id, step }) => {
                desk.step(number, job_id, &step);
                Effects::none()
            }
            (environment, What::Ended { number, end }) => {
                desk.ended(environment, &self.environments, number, end, meta.now)
            }
        }
    }

    async fn host(&self) -> Result<&Host, Fail> {
        let host = self.host.get_or_try_init(|| Host::new(&self.tools, &self.settings));
        host.await.map_err(|e| {
            let is_outside = e.is_lack_of_room();
            let why = anyhow::Error::from(e).context("applications cannot be started on this machine");
            if is_outside { Fail::outside(PROCESSES, why) } else { Fail::Retry(why) }
        })
    }
}

/// A version of the bot that can read it may come: until then it is set again.
fn read<T: DeserializeOwned>(timer: &TimerDue) -> Result<T, Fail> {
    let read = T::deserialize(&timer.data).with_context(|| format!("the timer {} cannot be read", timer.name));
    read.map_err(Fail::Retry)
}

/// Something is offered to the desk of an environment, once for each message.
fn offered(environment: &str, offer: Offer, meta: &Meta) -> Effects<DeployBot> {
    words::say(environment, &format!("offer:{environment}:{}", meta.id), What::Offer(Box::new(offer)))
}

#[cfg(test)]
mod tests;
