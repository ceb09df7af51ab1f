//! What all parts of the runtime share.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Instant,
};

use bot_messages::{
    Contract,
    telemetry::{LogRecord, RecordKind},
};
use bot_store::{Commit, Committed, Outgoing, Store, StoreError};
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::{figures::Figures, outgoing::Speaker};
use crate::{
    bus::{Bus, Intake},
    config::{BotConfig, Constraints, Trigger},
    contract::{Bot, HandlerTable, Hears, Jobs, contract_of},
    job::JobTable,
    tools::Tools,
};

/// Why the bot takes no work, or less than it should.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition {
    /// Told to pause: reason, and who asked.
    pub(crate) paused: Option<(String, String)>,
    /// Too much waits: why.
    pub(crate) backlog: Option<String>,
    /// When each dependency was last heard.
    pub(crate) heard: BTreeMap<String, Instant>,
    /// The store failed last time: how.
    pub(crate) store_trouble: Option<String>,
}

pub(crate) struct Shared<B: Bot> {
    pub(crate) bot: Arc<B>,
    pub(crate) contract: Contract,
    pub(crate) constraints: Constraints,
    pub(crate) triggers: Vec<Trigger>,
    pub(crate) enabled: bool,
    pub(crate) config_hash: String,
    pub(crate) dependencies: Vec<String>,
    pub(crate) operator: String,
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) speaker: Speaker,
    pub(crate) handlers: HandlerTable<B>,
    pub(crate) jobs: JobTable<B>,
    pub(crate) figures: Figures,
    pub(crate) tools: Tools,
    pub(crate) intake: watch::Sender<Intake>,
    pub(crate) started: Instant,
    pub(crate) stopping: AtomicBool,
    pub(crate) condition: Mutex<Condition>,
    /// Held while the row that pauses the bot is read and acted on, or written.
    pub(crate) pausing: tokio::sync::Mutex<()>,
    pub(crate) last_execution: Mutex<Option<DateTime<Utc>>>,
}

/// What a runtime is made of.
pub(crate) struct Parts<B: Bot> {
    pub(crate) bot: Arc<B>,
    pub(crate) config: BotConfig<B::Config>,
    pub(crate) config_hash: String,
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) tools: Tools,
    pub(crate) intake: watch::Sender<Intake>,
}

impl<B: Bot> Shared<B> {
    pub(crate) fn new(parts: Parts<B>) -> Self {
        let (mut handlers, mut jobs) = (HandlerTable::<B>::new(), JobTable::<B>::new());
        B::Hears::table(&mut handlers);
        B::Jobs::table(&mut jobs);
        let contract = contract_of::<B>();
        Self {
            bot: parts.bot,
            speaker: Speaker::new(&contract.name),
            contract,
            constraints: parts.config.constraints,
            triggers: parts.config.triggers,
            enabled: parts.config.bot.enabled,
            config_hash: parts.config_hash,
            dependencies: parts.config.dependencies.iter().map(bot_messages::BotName::slug).collect(),
            operator: bot_messages::contract::operator_name().slug(),
            store: parts.store,
            bus: parts.bus,
            handlers,
            jobs,
            figures: Figures::default(),
            tools: parts.tools,
            intake: parts.intake,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            condition: Mutex::default(),
            pausing: tokio::sync::Mutex::default(),
            last_execution: Mutex::default(),
        }
    }

    /// Whether jobs may begin and timers fire: not while it is paused or switched off.
    pub(crate) fn takes_work(&self) -> bool {
        self.enabled && self.condition(|c| c.paused.is_none())
    }

    pub(crate) fn condition<T>(&self, f: impl FnOnce(&mut Condition) -> T) -> T {
        f(&mut self.condition.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Commits, and keeps in mind how the store is.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        let done = self.store.commit(commit).await;
        self.condition(|c| c.store_trouble = done.as_ref().err().map(ToString::to_string));
        done
    }

    /// Says something of the bot itself, durably.
    pub(crate) async fn announce(&self, outgoing: Option<Outgoing>) -> Result<(), StoreError> {
        let outbox = outgoing.into_iter().collect();
        self.commit(Commit { outbox, ..Commit::default() }).await.map(|_| ())
    }

    /// A record for the log stream, to be filled in.
    pub(crate) fn record(&self, level: &str, kind: RecordKind, message: String) -> LogRecord {
        LogRecord {
            bot: self.contract.name.to_string(),
            instance: self.tools.instance.clone(),
            timestamp: crate::clock::now(),
            level: level.to_owned(),
            kind,
            message,
            correlation_id: None,
            message_id: None,
            job_id: None,
            line: None,
            outcome: None,
            percent: None,
            duration_us: None,
        }
    }

    pub(crate) fn send_record(&self, record: &LogRecord) {
        self.bus.send_light(self.speaker.log(record));
    }
}
