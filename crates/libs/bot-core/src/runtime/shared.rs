//! What all parts of the runtime share.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bot_messages::{
    BotName, Contract,
    telemetry::{LogRecord, RecordKind},
};
use bot_store::{Commit, Committed, Outgoing, Store, StoreError};
use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{figures::Figures, outgoing::Speaker, rate::Windows, relief::Relief, trouble::StoreTrouble};
use crate::{
    bus::{Bus, Intake},
    config::{BotConfig, Constraints, Output, Trigger},
    contract::{Bot, HandlerTable, Hears, Jobs, contract_of},
    job::JobTable,
    schedule::Schedule,
    tools::Tools,
    trace::Spans,
};

/// How often what waits for room in the store, or for its server, is tried.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// Why the bot takes no work, or less than it should.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition {
    /// Told to pause: reason, and who asked.
    pub(crate) paused: Option<(String, String)>,
    /// Too much waits: why.
    pub(crate) backlog: Option<String>,
    /// When each dependency was last heard.
    pub(crate) heard: BTreeMap<String, Instant>,
    /// How the store is.
    pub(crate) store: StoreTrouble,
    /// Work waits, nothing holds it back, and none is done.
    pub(crate) stalled: Option<String>,
}

pub(crate) struct Shared<B: Bot> {
    pub(crate) bot: Arc<B>,
    pub(crate) contract: Contract,
    pub(crate) constraints: Constraints,
    pub(crate) triggers: Vec<Trigger>,
    pub(crate) schedules: Vec<Schedule>,
    pub(crate) enabled: bool,
    /// Of the broker's password, where it is in one.
    pub(crate) password_file: Option<PathBuf>,
    /// Where each heartbeat is written too.
    pub(crate) health_file: Option<PathBuf>,
    pub(crate) config_hash: String,
    /// Of the configuration that it would start with now, or what is wrong with it.
    pub(crate) hash_of_files: HashOfFiles,
    pub(crate) dependencies: Vec<String>,
    pub(crate) outputs_missing: u64,
    pub(crate) operator: String,
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) speaker: Speaker,
    pub(crate) handlers: HandlerTable<B>,
    pub(crate) jobs: JobTable<B>,
    pub(crate) figures: Figures,
    pub(crate) rate: Mutex<Windows>,
    pub(crate) tools: Tools,
    pub(crate) spans: Spans,
    pub(crate) intake: watch::Sender<Intake>,
    /// Changes whenever someone asked for a job to be stopped.
    pub(crate) cancels: watch::Sender<()>,
    pub(crate) started: Instant,
    pub(crate) stopping: AtomicBool,
    pub(crate) condition: Mutex<Condition>,
    /// What is held back by itself.
    pub(crate) relief: Mutex<Relief>,
    /// Held while the row that pauses the bot is read and acted on, or written.
    pub(crate) pausing: tokio::sync::Mutex<()>,
    pub(crate) last_execution: Mutex<Option<DateTime<Utc>>>,
}

pub(crate) type HashOfFiles = Box<dyn Fn() -> Result<String, String> + Send + Sync>;

/// What a runtime is made of.
pub(crate) struct Parts<B: Bot> {
    pub(crate) bot: Arc<B>,
    pub(crate) config: BotConfig<B::Config>,
    pub(crate) config_hash: String,
    pub(crate) hash_of_files: HashOfFiles,
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) tools: Tools,
    pub(crate) spans: Spans,
    pub(crate) intake: watch::Sender<Intake>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) health_file: Option<PathBuf>,
}

/// How many bots are named as outputs and have no configuration file where the operator keeps them; each is a warning.
fn missing_outputs(outputs: &[Output], config_dir: &Path) -> u64 {
    let named = outputs.iter().filter_map(|o| o.destination.parse::<BotName>().ok());
    let missing = named.map(|bot| config_dir.join(format!("{}.yaml", bot.slug()))).filter(|file| !file.exists());
    missing.map(|file| tracing::warn!("an output is not installed: {} is not there", file.display())).count() as u64
}

impl<B: Bot> Shared<B> {
    pub(crate) fn new(parts: Parts<B>) -> Self {
        let (mut handlers, mut jobs) = (HandlerTable::<B>::new(), JobTable::<B>::new());
        B::Hears::table(&mut handlers);
        B::Jobs::table(&mut jobs);
        let contract = contract_of::<B>();
        let essential = contract.features.iter().filter(|f| f.essential).map(|f| f.name.clone()).collect();
        Self {
            relief: Mutex::new(Relief::new(&parts.config.constraints.auto_pause, essential)),
            bot: parts.bot,
            speaker: Speaker::new(&contract.name),
            contract,
            constraints: parts.config.constraints,
            schedules: Schedule::all(&parts.config.triggers),
            triggers: parts.config.triggers,
            enabled: parts.config.bot.enabled,
            config_hash: parts.config_hash,
            hash_of_files: parts.hash_of_files,
            dependencies: parts.config.dependencies.iter().map(bot_messages::BotName::slug).collect(),
            outputs_missing: missing_outputs(&parts.config.outputs, &parts.tools.config_dir),
            operator: bot_messages::contract::operator_name().slug(),
            store: parts.store,
            bus: parts.bus,
            handlers,
            jobs,
            figures: Figures::default(),
            rate: Mutex::default(),
            tools: parts.tools,
            spans: parts.spans,
            intake: parts.intake,
            password_file: parts.password_file,
            health_file: parts.health_file,
            cancels: watch::Sender::default(),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            condition: Mutex::default(),
            pausing: tokio::sync::Mutex::default(),
            last_execution: Mutex::default(),
        }
    }

    /// Whether jobs may begin and timers fire: not while it is paused, switched off, or cannot write down what came of it.
    pub(crate) fn takes_work(&self) -> bool {
        self.enabled && self.condition(|c| c.paused.is_none() && c.store.why().is_none())
    }

    pub(crate) fn condition<T>(&self, f: impl FnOnce(&mut Condition) -> T) -> T {
        f(&mut self.condition.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the condition, and opens or closes the intake as it then has to be.
    pub(crate) fn adjust<T>(&self, f: impl FnOnce(&mut Condition) -> T) -> T {
        self.condition(|c| {
            let result = f(c);
            let open = self.enabled
                && !self.stopping.load(Ordering::Relaxed)
                && c.paused.is_none()
                && c.backlog.is_none()
                && c.store.why().is_none();
            let intake = if open { self.held_intake() } else { Intake::Closed };
            self.intake.send_if_modified(|i| std::mem::replace(i, intake) != intake);
            result
        })
    }

    /// Notes that the store failed: no work is taken until it was seen to work again.
    pub(crate) fn store_failed(&self, error: &StoreError) {
        if matches!(error, StoreError::Closed) {
            return;
        }
        let first = self.adjust(|c| {
            let first = c.store.why().is_none();
            c.store.failed(error.to_string(), Instant::now());
            first
        });
        if first {
            tracing::error!("no work is taken, since {error}");
        }
    }

    /// Commits, and keeps in mind how the store is.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        self.store.commit(commit).await.inspect_err(|e| self.store_failed(e))
    }

    /// Commits; a store that is full, or whose server is away, is waited for until `cancelled`. What was written although the
    /// answer was lost is found by its guard when it is tried again.
    pub(crate) async fn commit_when_room(
        &self,
        commit: Commit,
        cancelled: &CancellationToken,
    ) -> Result<Committed, StoreError> {
        loop {
            match self.commit(commit.clone()).await {
                Err(away @ (StoreError::Full { .. } | StoreError::Unreachable { .. })) => tokio::select! {
                    () = tokio::time::sleep(ROOM_EVERY) => {}
                    () = cancelled.cancelled() => return Err(away),
                },
                done => return done,
            }
        }
    }

    /// Says something of the bot itself, durably.
    pub(crate) async fn announce(&self, outgoing: Option<Outgoing>) -> Result<(), StoreError> {
        let outbox = outgoing.into_iter().collect();
        self.commit(Commit { outbox, ..Commit::default() }).await.map(|_| ())
    }

    /// A record for the log stream, to be filled in.
    pub(crate) fn record(&self, level: &str, kind: RecordKind, message: String) -> LogRecord {
        self.speaker.record(&self.tools.instance, level, kind, message)
    }

    pub(crate) fn send_record(&self, record: &LogRecord) {
        self.bus.send_light(self.speaker.log(record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OutputKind;

    #[test]
    fn an_output_without_a_configuration_file_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("test-bot.yaml"), "").unwrap();
        let outputs =
            ["*", "TestBot", "DeployBot"].map(|to| Output { kind: OutputKind::Message, destination: to.to_owned() });
        assert_eq!(missing_outputs(&outputs, dir.path()), 1);
    }
}
