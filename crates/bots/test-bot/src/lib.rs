//! `TestBot` runs the test suites of a build.
//!
//! **Hears** `build.completed`, and `test.report_requested`, which it answers with `test.reported` from what it remembers of
//! a repository's tests. **Says** `test.started`, then exactly one of `test.completed` (every suite passed; it
//! vouches for the artifact and hands the deploy section on) and `test.failed`.
//!
//! One job per build: source, artifacts and kept files are unpacked into a workspace of the job's own, the pipeline is
//! read from the source (before artifacts could replace it), and the suites run in the sandbox, a few at a time, each in
//! a copy of the tree of its own where there are several. A suite that names `secrets` gets them, if the operator lists them
//! for its repository; nothing that is logged, told or remembered shows one. A suite with a few failing tests is run once more: a test that
//! passes then is flaky, and told as such.
//!
//! Results come from report files, or else from the output, in one of the formats of `formats.rs`; old report files are
//! deleted before a suite runs.
//!
//! **How it fails**: a failing test, a suite that ends badly, a service that cannot be used, one that found no test,
//! one over its limits: `test.failed` as the answer of the job. Objects that are missing, archives and pipelines that
//! are broken: rejected, and `test.failed` says so. A full disk, a store that does not answer: tried again. After a
//! crash a job begins anew; what an earlier attempt left running is ended first.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use bot_clients::Objects;
use bot_core::{About, Bot, Effects, Fail, Feature, Handle, Meta, Optional, Outcome, ServiceCx, TimerDue, Tools};
use bot_messages::{
    Category, Code,
    build::BuildCompleted,
    test::{TestCompleted, TestFailed, TestReportRequested, TestReported, TestStarted},
};
use bot_pipeline::{CommandLimits, Publishers, Repositories, SecretsDir, short_hash};
use bot_sandbox::{Limits, NetworkEnv, Options, Sandbox, SandboxError, SandboxKind, Search, Toolchains, split_path};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

mod coverage;
mod formats;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod history;
mod job;
mod redaction;
mod report;
mod reports;
mod source;
mod suite;
mod verdict;

pub use coverage::Covered;
pub use history::History;
pub use job::TestJob;

use crate::{history::Record, job::REMEMBER};

/// Tests in an answer where nobody says how many.
const REPORTED: usize = 20;

/// The section `settings` of its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Ends a suite that names no `timeout` of its own, seconds.
    pub suite_timeout_s: u64,
    /// Memory of a suite with all its processes, MiB.
    pub memory_mib: u64,
    /// Processes and threads of a suite.
    pub processes: u32,
    /// What a suite may print, and the log of a job, MiB.
    pub output_mib: u64,
    /// The largest file a suite may write, MiB.
    pub file_mib: u64,
    /// The largest archive that is fetched, MiB.
    pub archive_mib: u64,
    /// What an archive may hold unpacked, MiB.
    pub tree_mib: u64,
    /// Files and folders that an archive may hold, and a tree when reports are looked for.
    pub entries: u64,
    /// The largest report that is read, MiB.
    pub report_mib: u64,
    /// Report files of one suite.
    pub reports: usize,
    /// What a job may hold on disk: the tree, the copies in which suites run, what they write, and their home, MiB.
    pub workspace_mib: u64,
    /// Suites of one job that run at a time.
    pub parallel_suites: usize,
    /// How often a suite with a few failing tests is run again, to tell flaky tests from broken ones. 0: never.
    pub retries: u32,
    /// `bubblewrap`, `landlock` or `process-group`: that kind of sandbox and no other. Absent: the strongest that works here.
    pub sandbox: Option<SandboxKind>,
    /// Whether commands of repositories that are not `trust: own` run where only process groups work, which keep nothing in.
    pub allow_weak_sandbox: bool,
    /// Folder with the operator's secrets for suites: a file for each name in `secrets` of repositories.yaml, readable by the
    /// bot's user alone. Absent: `secrets` in the bot's own folder.
    pub secrets_dir: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            suite_timeout_s: 900,
            memory_mib: 4096,
            processes: 512,
            output_mib: 64,
            file_mib: 4096,
            archive_mib: 2048,
            tree_mib: 8192,
            entries: 500_000,
            report_mib: 16,
            reports: 500,
            workspace_mib: 16_384,
            parallel_suites: 2,
            retries: 1,
            sandbox: None,
            allow_weak_sandbox: false,
            secrets_dir: None,
        }
    }
}

impl Config {
    /// A limit of 0 would refuse every suite, and only once one runs.
    fn zeros(&self) -> Vec<&'static str> {
        let limits = [
            ("suite_timeout_s", self.suite_timeout_s),
            ("memory_mib", self.memory_mib),
            ("processes", self.processes.into()),
            ("output_mib", self.output_mib),
            ("file_mib", self.file_mib),
            ("archive_mib", self.archive_mib),
            ("tree_mib", self.tree_mib),
            ("entries", self.entries),
            ("report_mib", self.report_mib),
            ("reports", self.reports as u64),
            ("workspace_mib", self.workspace_mib),
            ("parallel_suites", self.parallel_suites as u64),
        ];
        limits.into_iter().filter(|(_, limit)| *limit == 0).map(|(name, _)| name).collect()
    }

    /// Of one suite.
    fn limits(&self) -> Limits {
        let Self { memory_mib, processes, output_mib, file_mib, .. } = *self;
        let limits = CommandLimits { memory_mib, processes, output_mib, file_mib, open_files: 4096 };
        Limits { line_bytes: 16 * 1024, ..limits.within(Duration::from_secs(self.suite_timeout_s)) }
    }
}

/// Runs what blocks beside the runtime.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, Fail> {
    tokio::task::spawn_blocking(run).await.map_err(Fail::retry)
}

/// MiB as bytes.
fn bytes(mib: u64) -> u64 {
    mib.saturating_mul(1 << 20)
}

/// Tests.
pub struct TestBot {
    config: Config,
    tools: Tools,
    repositories: Repositories,
    publishers: Publishers,
    secrets: SecretsDir,
    objects: Objects,
    /// One folder per job.
    work: PathBuf,
    toolchains: Toolchains,
    network: NetworkEnv,
    /// Whether logs are stored.
    logs: Optional,
    sandbox: OnceCell<Sandbox>,
}

/// Features, by their names in heartbeats.
/// Room for those of suites.
const PROCESSES: &str = "processes";
const OBJECTS: &str = "objects";
const LOGS: &str = "logs";

impl Bot for TestBot {
    const ABOUT: About = About {
        name: "TestBot",
        category: Category::Development,
        responsibility: "runs the test suites of a build",
        never: &["fixes tests", "edits code", "deploys"],
        actions: &["run-tests"],
        dependencies: &["BuildBot"],
        observes: &[],
    };
    const CONFIG_FILES: &'static [&'static str] = &["repositories.yaml", "publishers.yaml"];
    const FEATURES: &'static [Feature] =
        &[Feature::essential(OBJECTS, "holds what is tested"), Feature::optional(LOGS, "keeps the logs of suites")];
    type Hears = (BuildCompleted, (TestReportRequested, ()));
    type Says = (TestStarted, (TestCompleted, (TestFailed, (TestReported, ()))));
    type Jobs = (TestJob, ());
    type Config = Config;
    /// Of a repository.
    type State = Option<History>;

    fn new(config: Config, tools: Tools) -> anyhow::Result<Self> {
        let zeros = config.zeros();
        if !zeros.is_empty() {
            bail!("settings: {} must be at least 1, and is 0: no suite could run", zeros.join(", "));
        }
        if let Some(dir) = config.secrets_dir.as_ref().filter(|dir| !dir.is_absolute()) {
            bail!("settings.secrets_dir is {}: expected an absolute path", dir.display());
        }
        let repositories = Repositories::read(&tools.config_dir).map_err(anyhow::Error::msg)?;
        let publishers = Publishers::read(&tools.config_dir).map_err(anyhow::Error::msg)?;
        let secrets =
            SecretsDir::new(config.secrets_dir.clone().unwrap_or_else(|| tools.subdir("secrets")), &tools.secrets);
        let objects = Objects::open(&tools.objects).context("TestBot needs the object store of the fleet")?;
        let work = std::path::absolute(tools.subdir("work")).context("TestBot needs a folder for its workspaces")?;
        let home = tools.home.as_deref().unwrap_or(&tools.dir);
        let toolchains = Toolchains::find(&Search::new(&tools.path, home, &tools.toolchain_env));
        let network = NetworkEnv::of(&tools.toolchain_env);
        let logs = tools.optional(LOGS);
        Ok(Self {
            config,
            tools,
            repositories,
            publishers,
            secrets,
            objects,
            work,
            toolchains,
            network,
            logs,
            sandbox: OnceCell::new(),
        })
    }

    fn on_timer(&self, timer: &TimerDue, state: &mut Option<History>, _: &Meta) -> Outcome<Self> {
        if !timer.name.starts_with(REMEMBER) {
            return Ok(Effects::ignored(format!("no use for the timer {}", timer.name)));
        }
        match serde_json::from_value::<Record>(timer.data.clone()) {
            Ok(record) => state.get_or_insert_default().remember(record),
            Err(e) => return Ok(Effects::ignored(format!("the run of {} cannot be read: {e}", timer.name))),
        }
        Ok(Effects::none())
    }

    /// Finds out at the start what confines the suites, so that the heartbeat says it before the first job.
    async fn service(self: Arc<Self>, cx: ServiceCx<Self>) -> anyhow::Result<()> {
        if let Err(fail) = self.sandbox().await {
            tracing::error!(reason = fail.message(), "no sandbox yet; the next job tries again");
        }
        cx.cancelled.cancelled().await;
        Ok(())
    }
}

impl TestBot {
    /// What confines the suites. The first call ends what an earlier process of this bot left, and its workspaces.
    async fn sandbox(&self) -> Result<&Sandbox, Fail> {
        let made = self.sandbox.get_or_try_init(|| async {
            let options = Options {
                owner: self.owner(),
                bwrap: self.tools.bwrap.clone(),
                path: split_path(&self.tools.path),
                state: self.work.with_file_name("sandbox"),
                launcher: Some(Options::own_program()),
                kind: self.config.sandbox,
            };
            let sandbox = Sandbox::detect(options).await?;
            sandbox.reap_stale("").await?;
            let work = self.work.clone();
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(work)).await;
            self.tools.sandbox_is(sandbox.kind().as_str(), sandbox.weaknesses(), sandbox.process_bound());
            Ok(sandbox)
        });
        let made = made.await;
        self.tools.degraded("sandbox", made.as_ref().err().map(|e| format!("no suite can be run: {e}")));
        made.map_err(|e: SandboxError| if e.is_lack_of_room() { Fail::outside(PROCESSES, e) } else { Fail::retry(e) })
    }

    /// The same over restarts, and another for each fleet on a machine: by this name stale processes are ended.
    fn owner(&self) -> String {
        format!("test-bot:{}", short_hash(&self.work))
    }
}

impl Handle<BuildCompleted> for TestBot {
    fn key(&self, event: &BuildCompleted) -> String {
        event.revision.repository.clone()
    }
    fn handle(&self, event: BuildCompleted, state: &mut Option<History>, meta: &Meta) -> Outcome<Self> {
        self.publishers
            .may_speak_for(&meta.publisher, &event.revision.url)
            .map_err(|why| Fail::reject(Code::PermissionDenied, anyhow::anyhow!(why)))?;
        let covered_before = state.as_ref().and_then(|history| history.coverage_of(&event.revision.git_ref));
        let repository = event.revision.repository.clone();
        let job = TestJob {
            revision: event.revision,
            artifact: event.artifact,
            source: event.source,
            keep: event.keep,
            deploy: event.deploy,
            covered_before,
        };
        Ok(Effects::none().start(&repository, &job))
    }
}

impl Handle<TestReportRequested> for TestBot {
    fn key(&self, event: &TestReportRequested) -> String {
        event.repository.clone()
    }
    fn handle(&self, event: TestReportRequested, state: &mut Option<History>, _: &Meta) -> Outcome<Self> {
        let limit = event.limit.map_or(REPORTED, |limit| limit as usize);
        let (known, tests) = state.as_ref().map(|history| history.report(event.kind, limit)).unwrap_or_default();
        Ok(Effects::none().say(TestReported { repository: event.repository, kind: event.kind, known, tests }))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bot_core::Effect;
    use bot_messages::{Event, Priority, test::TestReportKind};

    pub(crate) fn bot(dir: &std::path::Path) -> TestBot {
        let mut tools = Tools::default();
        tools.dir = dir.join("bot");
        tools.objects = dir.join("objects").to_string_lossy().into_owned();
        TestBot::new(Config::default(), tools).unwrap()
    }

    fn meta() -> Meta {
        Meta {
            id: "m1".into(),
            publisher: "build-bot".into(),
            correlation_id: "c1".into(),
            priority: Priority::Medium,
            attempt: 1,
            now: chrono::DateTime::default(),
        }
    }

    #[test]
    fn a_build_starts_a_job_that_knows_all_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let event = BuildCompleted::example();
        let meta = meta();
        let job = TestJob {
            revision: event.revision.clone(),
            artifact: event.artifact.clone(),
            source: event.source.clone(),
            keep: None,
            deploy: event.deploy.clone(),
            covered_before: None,
        };
        assert_eq!(bot(dir.path()).handle(event, &mut None, &meta), Ok(Effects::none().start("shop/api", &job)));
    }

    #[test]
    fn nobody_vouches_for_a_build_of_a_repository_that_is_not_listed_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let (bot, mut meta) = (bot(dir.path()), meta());
        meta.publisher = "ci".into();
        let refused = bot.handle(BuildCompleted::example(), &mut None, &meta).unwrap_err();
        assert!(matches!(&refused, Fail::Reject { code: Code::PermissionDenied, .. }), "{refused:?}");
        assert!(refused.message().contains("ci is not listed"), "{}", refused.message());
    }

    #[test]
    fn what_a_run_came_to_is_remembered_and_told_to_who_asks() {
        let dir = tempfile::tempdir().unwrap();
        let (bot, meta) = (bot(dir.path()), meta());
        let mut state = None;
        let mut record = Record { git_ref: "refs/heads/main".into(), ..Record::default() };
        record.coverage = Some(Covered { covered: 3, total: 4 });
        record.add("unit", "shaky", history::FLAKY, Some(7));
        let timer = TimerDue { name: "remember:job-1".into(), data: serde_json::to_value(record).unwrap() };
        assert_eq!(bot.on_timer(&timer, &mut state, &meta), Ok(Effects::none()));
        // As the store keeps it.
        let mut state: Option<History> = serde_json::from_value(serde_json::to_value(&state).unwrap()).unwrap();
        let ask = TestReportRequested { repository: "shop/api".into(), kind: TestReportKind::Flaky, limit: None };
        let answer = bot.handle(ask, &mut state, &meta).unwrap();
        let [Effect::Say { event_type: TestReported::TYPE, data, .. }] = answer.list.as_slice() else {
            panic!("{answer:?}")
        };
        let told: TestReported = serde_json::from_value(data.clone()).unwrap();
        assert_eq!((told.known, told.tests[0].name.as_str(), told.tests[0].flaky), (1, "shaky", 1));
        let mut event = BuildCompleted::example();
        event.revision.git_ref = "refs/heads/main".into();
        let started = bot.handle(event, &mut state, &meta).unwrap();
        let [Effect::Start { payload, .. }] = started.list.as_slice() else { panic!("{started:?}") };
        assert_eq!(payload["covered_before"], serde_json::json!({"covered": 3, "total": 4}));
        let old: Option<History> = serde_json::from_value(serde_json::Value::Null).unwrap();
        assert!(old.is_none(), "a store of before there was a history can be read");
    }

    #[test]
    fn what_cannot_work_is_refused_at_the_start() {
        let config = Config { entries: 0, memory_mib: 0, ..Config::default() };
        let error = TestBot::new(config, Tools::default()).err().unwrap().to_string();
        assert_eq!(error, "settings: memory_mib, entries must be at least 1, and is 0: no suite could run");
        let config = Config { secrets_dir: Some("secrets".into()), ..Config::default() };
        let error = TestBot::new(config, Tools::default()).err().unwrap().to_string();
        assert_eq!(error, "settings.secrets_dir is secrets: expected an absolute path");
    }

    #[test]
    fn the_shipped_configuration_can_be_read() {
        #[derive(Deserialize)]
        struct File {
            settings: Config,
        }
        let text = include_str!("../../../../deploy/config/test-bot.yaml");
        assert_eq!(serde_saphyr::from_str::<File>(text).unwrap().settings, Config::default());
    }

    #[test]
    fn settings_are_the_defaults_and_nothing_unknown() {
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
        assert!(serde_json::from_str::<Config>("{\"memory\": 1}").is_err());
    }
}
