//! A DeployBot with an environment, an object store and real applications, which are gone when it is dropped.
#![allow(clippy::unwrap_used, reason = "test support: a broken assumption ends the test")]
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    future::Future,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bot_clients::{ArchiveLimits, Kind, Objects, list_tree, pack};
use bot_core::{Bot, Effect, Job, JobCx, Outcome, ServiceCx, ServicePort, Tools};
use bot_messages::{
    Digest, Event, ObjectRef, Revision,
    deploy::{Attempt, DeployReportRequested, DeployReported, DeployRequested, DeployRollbackRequested},
    pipeline::{DeployStage, Health, Serve, Span, When},
    test::TestCompleted,
};
use bot_test::{Acts, JobRecord, Rehearsal};
use deploy_bot::{DeployBot, DeployJob, Settings};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

const ENVIRONMENTS: &str = "
local:
  repositories: ['shop/*']
  refs: [refs/heads/*]
  target: {type: directory, path: environments/local}
  health: {deadline: 5s}
  keep: 2
";

/// What handlers remember, by key.
type States = Arc<Mutex<BTreeMap<String, Value>>>;

pub(crate) struct Field {
    pub(crate) bot: Arc<DeployBot>,
    pub(crate) objects: Objects,
    /// Where the bot's service looks.
    pub(crate) states: States,
    dir: tempfile::TempDir,
    bwrap: Option<PathBuf>,
}

/// How a job ended: its last effects, and what it said and recorded before.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome<DeployBot>,
    pub(crate) record: Arc<JobRecord>,
}

impl Ended {
    /// The types of everything that was said, in order.
    pub(crate) fn said(&self) -> Vec<&'static str> {
        let mut said = self.record.said();
        said.extend(self.outcome.as_ref().unwrap().list.iter().filter_map(said_type));
        said
    }

    /// The only event of this type.
    pub(crate) fn event<E: Event>(&self) -> E {
        let effects = self.record.effects();
        let all = effects.iter().chain(&self.outcome.as_ref().unwrap().list);
        let events: Vec<&Value> = all
            .filter_map(|effect| match effect {
                Effect::Say { event_type, data, .. } if *event_type == E::TYPE => Some(data),
                _ => None,
            })
            .collect();
        assert_eq!(events.len(), 1, "{} in {:?}", E::TYPE, self.said());
        serde_json::from_value(events[0].clone()).unwrap()
    }

    /// Types that end a job; exactly one may be said.
    pub(crate) fn terminal(&self) -> Vec<&'static str> {
        self.said().into_iter().filter(|said| matches!(*said, "deploy.completed" | "deploy.failed")).collect()
    }
}

fn said_type(effect: &Effect) -> Option<&'static str> {
    match effect {
        Effect::Say { event_type, .. } => Some(event_type),
        _ => None,
    }
}

impl Field {
    pub(crate) fn new() -> Self {
        Self::with(ENVIRONMENTS, &[])
    }

    /// With these environments and secrets.
    pub(crate) fn with(environments: &str, secrets: &[(&str, &str)]) -> Self {
        Self::walled_by(None, environments, secrets)
    }

    /// With a bubblewrap that is not on the path.
    pub(crate) fn walled_by(bwrap: Option<PathBuf>, environments: &str, secrets: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret_dir = dir.path().join("config/deploy-secrets");
        fs::create_dir_all(&secret_dir).unwrap();
        fs::write(dir.path().join("config/environments.yaml"), environments).unwrap();
        // Others are not run where nothing keeps them in.
        fs::write(dir.path().join("config/repositories.yaml"), "- {match: '**', trust: own}\n").unwrap();
        for (name, value) in secrets {
            fs::write(secret_dir.join(name), value).unwrap();
            fs::set_permissions(secret_dir.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let objects = Objects::directory(&dir.path().join("objects")).unwrap();
        let field =
            Self { bot: Self::bot_in(dir.path(), bwrap.clone()), objects, states: States::default(), dir, bwrap };
        fs::create_dir_all(field.root().join("data")).unwrap();
        fs::copy(site(), field.root().join("data/site")).unwrap();
        field
    }

    fn bot_in(dir: &Path, bwrap: Option<PathBuf>) -> Arc<DeployBot> {
        let mut tools = Tools::default();
        // As the sandbox wants it: without links on the way.
        let dir = dir.canonicalize().unwrap();
        tools.dir = dir.join("bot");
        tools.objects = dir.join("objects").to_string_lossy().into_owned();
        tools.config_dir = dir.join("config");
        tools.bwrap = bwrap;
        tools.path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into();
        let brief = Span(Duration::from_millis(50));
        let settings = Settings { check_every: brief, stop_grace: Span(Duration::from_secs(2)), ..Settings::default() };
        Arc::new(DeployBot::new(settings, tools).unwrap())
    }

    /// Another process of the bot on the same folders.
    pub(crate) fn restart(&mut self) {
        self.bot = Self::bot_in(self.dir.path(), self.bwrap.clone());
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("bot/environments/local")
    }

    pub(crate) fn objects_dir(&self) -> PathBuf {
        self.dir.path().join("objects")
    }

    /// What the object store was told that the environment needs.
    pub(crate) async fn in_use(&self) -> BTreeSet<Digest> {
        self.objects.in_use().await.unwrap().remove("local").unwrap_or_default().digests
    }

    /// Waits until it was told just this.
    pub(crate) async fn needs(&self, wanted: &BTreeSet<Digest>) {
        let told = async {
            while self.in_use().await != *wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(10), told).await;
        assert!(told.is_ok(), "the object store was told {:?}", self.in_use().await);
    }

    /// Stores a release of the site without its program, which is large: that is in the application's own folder.
    /// `mode` is how it behaves.
    pub(crate) async fn artifact(&self, page: &str, mode: &str) -> ObjectRef {
        let tree = tempfile::tempdir().unwrap();
        self.store(tree.path(), page, mode).await
    }

    /// Stores a release of the site with its program.
    pub(crate) async fn whole_artifact(&self, page: &str, mode: &str) -> ObjectRef {
        let tree = tempfile::tempdir().unwrap();
        fs::copy(site(), tree.path().join("site")).unwrap();
        self.store(tree.path(), page, mode).await
    }

    /// Stores a release of these files.
    pub(crate) async fn artifact_of(&self, files: &[(&str, &[u8])]) -> ObjectRef {
        let tree = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(tree.path().join(name), bytes).unwrap();
        }
        self.store(tree.path(), "page", "good").await
    }

    /// A file beside environments.yaml.
    pub(crate) fn configured(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join("config").join(name), text).unwrap();
    }

    async fn store(&self, tree: &Path, page: &str, mode: &str) -> ObjectRef {
        fs::write(tree.join("page"), page).unwrap();
        fs::write(tree.join("mode"), mode).unwrap();
        let limits = ArchiveLimits { entries_max: 100, bytes_max: 1 << 30 };
        let packed = self.dir.path().join("packed");
        pack(tree, &list_tree(tree, 100).unwrap(), &packed, &limits).unwrap();
        self.objects.put_file(&packed, Kind::Artifact, "application/zstd").await.unwrap()
    }

    /// The job that follows from a passed test.
    pub(crate) fn deploy_job(&self, artifact: &ObjectRef) -> DeployJob {
        self.job_of_stage(artifact, stage("exec \"$HOME/site\""))
    }

    pub(crate) fn job_of_stage(&self, artifact: &ObjectRef, stage: DeployStage) -> DeployJob {
        let tested = TestCompleted {
            artifact: artifact.clone(),
            revision: Revision::example(),
            deploy: [("local".to_owned(), stage)].into(),
            ..TestCompleted::example()
        };
        started(&Rehearsal::new(self.bot.clone()).hear("push-1", "test-bot", &tested).unwrap())
    }

    /// The job that follows from a passed test of the push with this number; `by_hand`: someone asks for it afterwards.
    pub(crate) fn push_job(&self, artifact: &ObjectRef, sequence: u64, by_hand: bool) -> DeployJob {
        let mut rehearsal = Rehearsal::new(self.bot.clone());
        let tested = TestCompleted {
            artifact: artifact.clone(),
            revision: Revision { sequence: Some(sequence), ..Revision::example() },
            deploy: [("local".to_owned(), DeployStage::default())].into(),
            ..TestCompleted::example()
        };
        let acts = rehearsal.hear("push-1", "test-bot", &tested).unwrap();
        let job = started(&acts);
        if !by_hand {
            return job;
        }
        let mut rehearsal = Rehearsal::new(self.bot.clone());
        // Where no branch is wanted the push alone leads nowhere, and asking does.
        let elsewhere =
            DeployStage { when: Some(When { branch: "x".into(), ..When::default() }), ..DeployStage::default() };
        let tested = TestCompleted { deploy: [("local".to_owned(), elsewhere)].into(), ..tested };
        assert_eq!(rehearsal.hear("push-1", "test-bot", &tested).unwrap(), []);
        let digest = artifact.digest.clone();
        let asked = DeployRequested { environment: "local".into(), digest, requested_by: None };
        started(&rehearsal.hear("ask-1", "operator", &asked).unwrap())
    }

    /// What the environment's history says of a job that followed from a passed test.
    pub(crate) fn explained(&self, artifact: &ObjectRef, stage: DeployStage, ended: &Ended) -> Attempt {
        let mut rehearsal = Rehearsal::new(self.bot.clone());
        let tested = TestCompleted {
            artifact: artifact.clone(),
            revision: Revision::example(),
            deploy: [("local".to_owned(), stage)].into(),
            ..TestCompleted::example()
        };
        rehearsal.hear("push-1", "test-bot", &tested).unwrap();
        rehearsal.take("push-1", ended.record.effects());
        rehearsal.take("push-1", ended.outcome.as_ref().unwrap().list.clone());
        let question = DeployReportRequested { environment: "local".into(), attempts_max: None };
        let acts = rehearsal.hear("ask-1", "operator", &question).unwrap();
        let [(_, Effect::Say { data, .. })] = acts.as_slice() else { panic!("{acts:?}") };
        let mut report: DeployReported = serde_json::from_value(data.clone()).unwrap();
        report.attempts.remove(0)
    }

    pub(crate) fn rollback_job(&self, to: Option<Digest>) -> DeployJob {
        let wanted = DeployRollbackRequested { environment: "local".into(), to, ..DeployRollbackRequested::example() };
        started(&Rehearsal::new(self.bot.clone()).hear("ask-1", "operator", &wanted).unwrap())
    }

    pub(crate) async fn run(&self, id: &str, job: &DeployJob) -> Ended {
        self.attempt(id, job, &JobRecord::new()).await
    }

    pub(crate) async fn attempt(&self, id: &str, job: &DeployJob, record: &Arc<JobRecord>) -> Ended {
        let outcome = job.run(&self.bot, &cx(id, record)).await;
        Ended { outcome, record: record.clone() }
    }

    /// Runs the bot's service until the returned guard is dropped.
    pub(crate) fn keep(&self) -> tokio_util::sync::DropGuard {
        struct Port(States);
        impl ServicePort for Port {
            fn commit<'a>(
                &'a self,
                _: &'a str,
                _: Vec<Effect>,
            ) -> Pin<Box<dyn Future<Output = Result<(), bot_core::Fail>> + Send + 'a>> {
                unreachable!("the keeper says nothing")
            }
            fn state<'a>(
                &'a self,
                key: &'a str,
            ) -> Pin<Box<dyn Future<Output = Result<Option<Value>, bot_core::Fail>> + Send + 'a>> {
                Box::pin(async { Ok(self.0.lock().unwrap().get(key).cloned()) })
            }
            fn observe(&self, _: bot_messages::Tap) -> tokio::sync::mpsc::Receiver<bot_core::Observed> {
                unreachable!("the keeper observes nothing")
            }
            fn now(&self) -> chrono::DateTime<chrono::Utc> {
                chrono::DateTime::UNIX_EPOCH
            }
        }
        let cancelled = CancellationToken::new();
        tokio::spawn(self.bot.clone().service(ServiceCx::new(cancelled.clone(), Arc::new(Port(self.states.clone())))));
        cancelled.drop_guard()
    }

    /// What the site answers now.
    pub(crate) async fn page(&self) -> Option<String> {
        let port = fs::read_to_string(self.root().join("port")).ok()?;
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(2)).build();
        let answer = client.unwrap().get(format!("http://127.0.0.1:{}/", port.trim())).send().await.ok()?;
        answer.text().await.ok()
    }

    pub(crate) async fn page_becomes(&self, wanted: &str) {
        let answers = async {
            while self.page().await.as_deref() != Some(wanted) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let answered = tokio::time::timeout(Duration::from_secs(10), answers).await;
        assert!(answered.is_ok(), "the page never became {wanted}");
    }

    /// The lines of the journal.
    pub(crate) fn journal(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.root().join("journal.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How often a job switched.
    pub(crate) fn switches(&self, id: &str) -> usize {
        self.journal().iter().filter(|line| line["job"] == id).count()
    }

    /// Where `current` leads.
    pub(crate) fn current(&self) -> Option<String> {
        let link = fs::read_link(self.root().join("current")).ok()?;
        Some(link.file_name().unwrap().to_str().unwrap().to_owned())
    }

    /// The site's processes; what the sandbox has beside them does not count.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let is_site = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "site\n");
        processes_below(&self.root()).into_iter().filter(is_site).collect()
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        for pid in processes_below(&self.root()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn processes_below(root: &Path) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_below = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(root));
    pids.filter(is_below).collect()
}

/// The example of this crate, which cargo builds with the tests.
fn site() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let site = tests.ancestors().nth(2).unwrap().join("examples/site");
    assert!(
        site.is_file(),
        "{} is missing: run the tests of the whole crate, or `cargo build --examples`",
        site.display()
    );
    site
}

/// A web server by this command.
pub(crate) fn stage(run: &str) -> DeployStage {
    let health = Health { path: "/health".into(), deadline: Span(Duration::from_secs(20)) };
    let serve = Serve { run: run.into(), env: [].into() };
    DeployStage { when: None, serve: Some(serve), health: Some(health) }
}

/// A context for the next attempt of a job.
pub(crate) fn cx(id: &str, record: &Arc<JobRecord>) -> JobCx<DeployBot> {
    static TOKEN: AtomicI64 = AtomicI64::new(0);
    let mut cx = record.cx();
    id.clone_into(&mut cx.id);
    // As a store gives them: they rise over all jobs.
    cx.token = TOKEN.fetch_add(1, Ordering::Relaxed) + 1;
    cx
}

pub(crate) fn started(acts: &Acts) -> DeployJob {
    match acts.as_slice() {
        [(_, Effect::Start { payload, .. })] => serde_json::from_value(payload.clone()).unwrap(),
        other => panic!("expected one job, got {other:?}"),
    }
}

/// A future that is dropped when it wants to be polled once more than `times`: a process that died there.
pub(crate) async fn killed_after<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = times;
    std::future::poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}
