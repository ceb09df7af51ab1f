//! BuildBot builds a pushed commit.
//!
//! Hears `repository.pushed`. Says `build.started` once the source is there and it is known how it is built, and then
//! exactly one of `build.completed` (with the artifact, the source, the log) and `build.failed`. When a schedule of its
//! configuration is due it looks where a ref points to, and may say `repository.pushed` itself, which it then hears like
//! any other (`look.rs`).
//!
//! How it fails: a repository that `repositories.yaml` does not list, or for which `publishers.yaml` does not let the
//! publisher speak, and a URL or ref that is none, is answered with `build.failed` at once. A server that does not answer is tried again, a breaker per host keeps that from burning
//! attempts. A missing commit, a wrong pipeline file, a failing step, a limit that was reached are final. Whatever
//! happened, the log up to there is stored and named by `build.failed`.
//!
//! The commit's own code runs only in the sandbox, in a folder of the job, and gets only those secrets that a step names
//! and that the operator lists for its repository.
mod attempt;
mod builds;
mod cache;
mod config;
mod credential;
mod files;
mod git;
mod images;
mod last_words;
mod look;
mod machine;
mod mirrors;
mod pushes;
mod remote;
mod reuse;
mod steps;
mod take;
mod versions;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use bot_clients::{Kind, ObjectError, Objects};
use bot_core::{
    About, Again, Asked, Bot, Effects, Fail, Feature, GaveUp, Handle, Job, JobCx, Meta, Optional, Outcome, ServiceCx,
    TimerDue, Tools,
};
use bot_messages::{
    Category, Code, CommitId, FailureReason, ObjectRef, Revision, SafeError,
    build::{BuildCompleted, BuildFailed, BuildStarted},
    pipeline::Trigger,
    repository::RepositoryPushed,
};
use bot_pipeline::{AllowedImages, Folder, Listed, Log, Publishers, Repositories, SecretsDir};
use bot_sandbox::{Engine, NetworkEnv, Sandbox, SandboxError, Toolchains};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::{
    attempt::{Attempt, Broken},
    builds::Builds,
    cache::Caches,
    git::Git,
    last_words::{LastWords, Remembered},
    look::Look,
    mirrors::Mirrors,
    pushes::means_deleted,
    remote::{Remote, ref_fits},
};

pub use crate::{config::Config, images::EngineSetting, look::LookJob, pushes::Pushes};

/// See the module.
pub struct BuildBot {
    config: Config,
    tools: Tools,
    repositories: Repositories,
    publishers: Publishers,
    secrets: SecretsDir,
    objects: Objects,
    mirrors: Mirrors,
    caches: Arc<Caches>,
    builds: Builds,
    toolchains: Toolchains,
    network: NetworkEnv,
    /// Found out once something has to run.
    sandbox: OnceCell<Sandbox>,
    images: AllowedImages,
    engine: OnceCell<Engine>,
    last_words: Remembered,
    /// What the tools said they are.
    versions: versions::Remembered,
    cache: Optional,
    reuse: Optional,
}

impl Bot for BuildBot {
    const ABOUT: About = About {
        name: "BuildBot",
        category: Category::Development,
        responsibility: "builds a pushed commit",
        never: &["deploys", "tests", "edits source"],
        actions: &["build"],
        dependencies: &[],
        observes: &[],
    };
    const CONFIG_FILES: &'static [&'static str] = &["repositories.yaml", "publishers.yaml"];
    const FEATURES: &'static [Feature] = &[
        Feature::essential(OBJECTS, "holds sources, artifacts and logs"),
        Feature::optional(CACHE, "keeps what builds of one repository share"),
        Feature::optional(REUSE, "finds what was built before from the same"),
    ];
    const LOOPS: &'static [(&'static [&'static str], &'static str)] = &[(
        &["repository.pushed"],
        "it says it only where a schedule of its configuration is due, never for one it heard",
    )];
    type Hears = (RepositoryPushed, ());
    type Says = (BuildStarted, (BuildCompleted, (BuildFailed, (RepositoryPushed, ()))));
    type Jobs = (BuildJob, (LookJob, ()));
    type Config = Config;
    /// Nothing where the store is of a version that gave pushes no order.
    type State = Option<Pushes>;

    fn new(config: Config, tools: Tools) -> anyhow::Result<Self> {
        config.check()?;
        let repositories = Repositories::read(&tools.config_dir).map_err(anyhow::Error::msg)?;
        let publishers = Publishers::read(&tools.config_dir).map_err(anyhow::Error::msg)?;
        let secrets =
            SecretsDir::new(config.secrets_dir.clone().unwrap_or_else(|| tools.subdir("secrets")), &tools.secrets);
        let missing: Vec<String> = repositories
            .credentials()
            .filter_map(|name| secrets.credential_file(name).err().map(|e| format!("credential `{name}`: {e}")))
            .collect();
        anyhow::ensure!(missing.is_empty(), "repositories.yaml: {}", missing.join("; "));
        let objects = Objects::open(&tools.objects)?;
        // Nothing of an earlier process is of use: its jobs begin anew.
        let leftovers = bot_clients::remove_tree(&work_dir(&tools));
        leftovers.with_context(|| format!("cannot clear {}", work_dir(&tools).display()))?;
        let mirrors = tools.subdir("mirrors");
        for folder in [&work_dir(&tools), &mirrors] {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let network = NetworkEnv::of(&tools.toolchain_env);
        let git = Git::new(&tools.dir, &config, &network)?;
        Ok(Self {
            mirrors: Mirrors::new(mirrors, git, config.mirror_mib << 20, config.mirrors, tools.clone()),
            builds: Builds::new(tools.subdir("builds"), config.remembered_builds),
            caches: Arc::new(Caches::new(
                tools.subdir("cache"),
                config.cache_repository_mib << 20,
                config.cache_mib << 20,
            )),
            toolchains: machine::toolchains(&tools),
            sandbox: OnceCell::new(),
            images: AllowedImages::new(&config.images).map_err(anyhow::Error::msg)?,
            engine: OnceCell::new(),
            last_words: Remembered::default(),
            versions: versions::Remembered::default(),
            cache: tools.optional(CACHE),
            reuse: tools.optional(REUSE),
            config,
            tools,
            repositories,
            publishers,
            secrets,
            objects,
            network,
        })
    }

    fn schedule_key(&self, data: &Value) -> Result<String, String> {
        let look = Look::read(data)?;
        self.admits(&look.repository, &look.url, &look.git_ref).map_err(|(_, why)| why)?;
        Ok(look.repository)
    }

    fn on_schedule(&self, schedule: &TimerDue, state: &mut Option<Pushes>, _: &Meta) -> Outcome<Self> {
        let look = Look::read(&schedule.data).map_err(|why| Fail::reject(Code::InvalidField, anyhow::anyhow!(why)))?;
        let known = state.as_ref().and_then(|pushes| pushes.latest(&look.git_ref)).cloned();
        let repository = look.repository.clone();
        Ok(Effects::none().start(&repository, &LookJob { look, known }))
    }

    /// Finds out what confines the commands before the first one comes, so that the heartbeat names it.
    async fn service(self: Arc<Self>, cx: ServiceCx<Self>) -> anyhow::Result<()> {
        if let Err(fail) = self.sandbox().await {
            tracing::error!("no sandbox yet; the next job tries again: {}", fail.message());
        }
        if self.has_images()
            && let Err(why) = self.engine().await
        {
            tracing::warn!("no step can run in an image: {}", why.message());
        }
        cx.cancelled.cancelled().await;
        Ok(())
    }
}

impl Handle<RepositoryPushed> for BuildBot {
    fn key(&self, push: &RepositoryPushed) -> String {
        push.revision.repository.clone()
    }

    fn handle(&self, push: RepositoryPushed, state: &mut Option<Pushes>, meta: &Meta) -> Outcome<Self> {
        let RepositoryPushed { mut revision, bundle, before, event, .. } = push;
        if means_deleted(&revision.commit) {
            return Ok(Effects::ignored(format!("{} was deleted: there is nothing to build", revision.git_ref)));
        }
        // Trust follows the URL, so its publisher has to be one that may name it; a bundle's content is its word too.
        let admitted = self.admits(&revision.repository, &revision.url, &revision.git_ref).and_then(|listed| {
            let may = self.publishers.may_speak_for(&meta.publisher, &revision.url);
            may.map(|()| listed).map_err(|why| (Code::PermissionDenied, why))
        });
        let (code, why) = match admitted {
            Ok(listed) => {
                let key = revision.repository.clone();
                let pushes = state.get_or_insert_default();
                let is_poll = meta.publisher == OWN_SLUG && event != Some(Trigger::Schedule);
                if is_poll && pushes.latest(&revision.git_ref) == Some(&revision.commit) {
                    return Ok(Effects::ignored("it was pushed already while the remote was looked at"));
                }
                let base = pushes.base(&revision, before);
                revision.sequence = Some(pushes.number(&revision, meta.now.timestamp_millis()));
                let trigger = event.unwrap_or_default();
                // Whoever asks, and whatever comes by the clock, wants it done.
                let job = BuildJob { revision, bundle, base, trigger, anew: trigger != Trigger::Push };
                return Ok(Effects::none().start_weighted(&key, &job, listed.weight));
            }
            Err(refusal) => refusal,
        };
        Ok(Effects::none().note(why.clone()).say(BuildFailed {
            revision,
            job_id: None,
            reason: FailureReason::Error,
            step: None,
            error: SafeError::new(code, why, meta.now),
            log_tail: Vec::new(),
            log: None,
            duration_ms: 0,
        }))
    }
}

/// Builds one commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildJob {
    /// What.
    pub revision: Revision,
    /// A git bundle that holds it, where the repository itself cannot be reached.
    pub bundle: Option<ObjectRef>,
    /// What the ref pointed to before, where that is known.
    #[serde(default)]
    pub base: Option<CommitId>,
    /// What led to it.
    #[serde(default)]
    pub trigger: Trigger,
    /// Whether it is built even if the same was built before.
    #[serde(default)]
    pub anew: bool,
}

impl Job for BuildJob {
    type Bot = BuildBot;
    const KIND: &'static str = "build";

    async fn run(&self, bot: &BuildBot, cx: &JobCx<BuildBot>) -> Outcome<BuildBot> {
        // Again, as the list may be another since the push was heard.
        let listed = bot.repositories.judge(&self.revision.repository, &self.revision.url);
        let listed = listed.map_err(|why| Fail::reject(Code::PermissionDenied, anyhow::anyhow!(why)))?;
        let sandbox = bot.sandbox().await?;
        let weak = bot.config.allow_weak_sandbox;
        listed.may_run_in(sandbox.kind(), weak).map_err(|why| attempt::fail(Code::PermissionDenied, why))?;
        let name = bot_pipeline::name_of(&cx.id);
        // The separator keeps one job's processes apart from those of a job whose name begins alike.
        let label = format!("{name}:");
        if !cx.is_first_claim() {
            sandbox.reap_stale(&label).await.map_err(Fail::retry)?;
            // Where there is no engine, whoever needs it is told.
            if bot.has_images()
                && let Ok(engine) = bot.engine().await
            {
                sandbox.reap_containers(engine, &label).await.map_err(Fail::retry)?;
            }
        }
        let folder = Folder::make(&work_dir(&bot.tools), &name, cx.token).await.map_err(Fail::retry)?;
        let live = |line: &str| cx.line(line);
        let log_file = folder.file("log.txt");
        let log = Log::create(&log_file, bot.config.output_mib << 20, &live).map_err(Fail::retry)?;
        let attempt = Attempt { bot, job: self, cx, listed, sandbox, folder: &folder, label: &label };
        let ended = attempt.run(&log).await;
        let tail = ended.as_ref().err().map(|broken| {
            log.line(&broken.part, &broken.fail.message());
            log.tail(&broken.part)
        });
        let stored = bot.store_log(&log, &log_file).await;
        if let Err(e) = folder.remove().await {
            tracing::warn!(job_id = cx.id, "the job's folder stays until the next start: {e}");
        }
        match ended {
            Ok(built) => Ok(Effects::none().say(BuildCompleted {
                revision: self.revision.clone(),
                job_id: cx.id.clone(),
                artifact: built.artifact,
                source: built.source,
                keep: built.keep,
                log: stored?,
                steps: built.steps,
                cached: built.cached,
                deploy: built.deploy,
                duration_ms: cx.duration_ms(),
            })),
            Err(Broken { step, fail, .. }) => {
                let tail = tail.unwrap_or_default();
                bot.last_words.keep(LastWords { job_id: cx.id.clone(), step, tail, log: stored.ok() });
                Err(fail)
            }
        }
    }

    fn gave_up(&self, bot: &BuildBot, end: &GaveUp) -> Effects<BuildBot> {
        let words = bot.last_words.of(&end.job_id);
        Effects::none().say(BuildFailed {
            revision: self.revision.clone(),
            job_id: Some(end.job_id.clone()),
            reason: end.reason,
            step: words.step,
            error: end.error.clone(),
            log_tail: words.tail,
            log: words.log,
            duration_ms: end.duration_ms,
        })
    }

    /// The same commit under the same conditions, and really built.
    fn again(self, _: &Asked) -> Result<Again<Self>, String> {
        Ok(Again::Start(Self { anew: true, ..self }))
    }
}

impl BuildBot {
    /// What is built and looked at: plain names, and a repository that the operator lists.
    fn admits(&self, repository: &str, url: &str, git_ref: &str) -> Result<&Listed, (Code, String)> {
        let form = Remote::parse(url, self.config.allow_unencrypted).and(ref_fits(git_ref));
        form.map_err(|why| (Code::InvalidField, why))?;
        self.repositories.judge(repository, url).map_err(|why| (Code::PermissionDenied, why))
    }

    async fn sandbox(&self) -> Result<&Sandbox, Fail> {
        let detect = || async {
            let sandbox = machine::sandbox(&self.tools, self.config.sandbox).await?;
            self.tools.sandbox_is(sandbox.kind().as_str(), sandbox.weaknesses(), sandbox.process_bound());
            Ok(sandbox)
        };
        let found = self.sandbox.get_or_try_init(detect).await;
        self.tools.degraded("sandbox", found.as_ref().err().map(|e| format!("no command can be run: {e}")));
        found.map_err(|e: SandboxError| if e.is_lack_of_room() { Fail::outside(PROCESSES, e) } else { Fail::retry(e) })
    }

    async fn store_log(&self, log: &Log<'_>, file: &Path) -> Result<ObjectRef, Fail> {
        let stored = match log.flush().context("writing the log") {
            Ok(()) => self.objects.put_file(file, Kind::Log, "text/plain").await.map_err(of_objects),
            Err(e) => Err(Fail::Retry(e)),
        };
        stored.inspect_err(|fail| tracing::warn!("the log is not stored: {}", fail.message()))
    }
}

/// A store that fails keeps every build from its end; a file of ours only this one.
fn of_objects(error: ObjectError) -> Fail {
    if error.is_of_store() { Fail::outside(OBJECTS, error) } else { Fail::retry(error) }
}

/// Room for those of commands.
const PROCESSES: &str = "processes";
/// Features, by their names in heartbeats.
const OBJECTS: &str = "objects";
const CACHE: &str = "cache";
const REUSE: &str = "reuse";
/// By which the broker proves what the bot said itself.
const OWN_SLUG: &str = "build-bot";

fn work_dir(tools: &Tools) -> PathBuf {
    tools.subdir("work")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bot_messages::{Event, Priority};

    /// A bot that builds what lies below `/srv`.
    pub(crate) fn bot() -> (tempfile::TempDir, BuildBot) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("repositories.yaml"), "- {match: /srv/**, trust: own, weight: 3}\n").unwrap();
        let ci = "publishers: [{name: ci, says: [repository.pushed], repositories: [/srv/ci/*, /srv/git/a*]}]\n";
        std::fs::write(dir.path().join("publishers.yaml"), ci).unwrap();
        let mut tools = Tools::default();
        tools.dir = dir.path().join("bot");
        tools.objects = dir.path().join("objects").to_string_lossy().into_owned();
        tools.config_dir = dir.path().to_owned();
        std::fs::create_dir(&tools.dir).unwrap();
        let bot = BuildBot::new(Config::default(), tools).unwrap();
        (dir, bot)
    }

    fn handled(change: impl FnOnce(&mut Revision)) -> (RepositoryPushed, Effects<BuildBot>, Meta) {
        handled_of("operator", change)
    }

    fn handled_of(publisher: &str, change: impl FnOnce(&mut Revision)) -> (RepositoryPushed, Effects<BuildBot>, Meta) {
        let mut push = RepositoryPushed::example();
        push.revision.url = "/srv/git/api".into();
        change(&mut push.revision);
        let meta = Meta {
            id: "m-1".into(),
            publisher: publisher.into(),
            correlation_id: "c-1".into(),
            priority: Priority::Medium,
            attempt: 1,
            now: chrono::DateTime::from_timestamp_millis(7000).unwrap(),
        };
        let effects = bot().1.handle(push.clone(), &mut None, &meta).unwrap();
        (push, effects, meta)
    }

    /// What is refused, and by which words.
    fn refused(code: Code, words: &[&str], change: impl FnOnce(&mut Revision)) {
        let (push, effects, meta) = handled(change);
        let why = effects.note.clone().unwrap();
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
        let failed = BuildFailed {
            revision: push.revision,
            job_id: None,
            reason: FailureReason::Error,
            step: None,
            error: SafeError::new(code, why.clone(), meta.now),
            log_tail: Vec::new(),
            log: None,
            duration_ms: 0,
        };
        assert_eq!(effects, Effects::none().note(why).say(failed));
    }

    #[test]
    fn a_push_to_a_listed_repository_starts_a_job() {
        let (mut push, effects, _) = handled(|_| {});
        push.revision.sequence = Some(7000);
        let job = BuildJob { revision: push.revision, bundle: None, base: None, trigger: Trigger::Push, anew: false };
        assert_eq!(effects, Effects::none().start_weighted("shop/api", &job, 3));
    }

    #[test]
    fn a_deleted_ref_is_ignored_and_says_why() {
        let (_, effects, _) = handled(|r| r.commit = "0".repeat(40).parse().unwrap());
        assert_eq!(effects, Effects::ignored("refs/heads/main was deleted: there is nothing to build"));
    }

    #[test]
    fn a_repository_that_is_not_listed_is_refused_with_the_line_to_add() {
        let line = "- {match: \"https://git.example.org/shop/api.git\", trust: known}";
        refused(Code::PermissionDenied, &["repositories.yaml", line], |r| {
            r.url = Revision::example().url;
        });
    }

    #[test]
    fn a_publisher_speaks_only_for_its_repositories() {
        let note = |publisher, url: &str| handled_of(publisher, |r| r.url = url.into()).1.note;
        assert_eq!(note("ci", "/srv/ci/api"), None);
        for (publisher, url) in [("ci", "/srv/git/web"), ("another", "/srv/ci/api")] {
            let why = note(publisher, url).unwrap();
            assert!(why.contains(publisher) && why.contains("publishers.yaml"), "{why}");
        }
        let (_, effects, _) = handled_of("ci", |r| r.url = "/srv/git/web".into());
        assert!(format!("{effects:?}").contains("PERMISSION_DENIED"), "{effects:?}");
    }

    #[test]
    fn hostile_urls_and_refs_are_refused() {
        for url in ["--upload-pack=touch /tmp/x", "ext::sh -c id", "/srv/../etc", "https://u:canary@h/a"] {
            refused(Code::InvalidField, &["expected"], |r| r.url = url.into());
        }
        for git_ref in ["--upload-pack=x", "main", "refs/heads/../x"] {
            refused(Code::InvalidField, &["expected the full name"], |r| {
                r.git_ref = git_ref.into();
            });
        }
    }

    #[test]
    fn a_wrong_list_or_setting_stops_the_bot_from_starting() {
        let (dir, bot) = bot();
        let start = |config| BuildBot::new(config, bot.tools.clone()).err().map(|e| e.to_string());
        assert!(start(Config { memory_mib: 0, ..Config::default() }).unwrap().contains("memory_mib"));
        std::fs::write(dir.path().join("repositories.yaml"), "x: 1\n").unwrap();
        assert!(start(Config::default()).unwrap().contains("repositories.yaml:1:1"));
    }
}
