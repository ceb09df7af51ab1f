//! The life of a bot: configuration, store, session, and the parts that run beside each other until it is told to stop.

mod attempts;
mod control;
mod dispatch;
mod entity;
mod figures;
mod health_file;
mod holding;
mod inbox;
mod jobs;
mod lease;
mod letters;
mod origin;
mod outgoing;
mod pulse;
mod rate;
mod relay;
mod relief;
mod replicas;
mod rerun;
mod schedules;
mod service;
mod settings;
mod shared;
#[cfg(feature = "testing")]
mod testing;
mod timers;
mod trouble;
mod watchdog;

use std::{
    collections::BTreeMap,
    future::Future,
    process::ExitCode,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use bot_messages::{
    Contract, Tap,
    bot::{BotStarted, BotStopping},
    config::ConfigChanged,
    keys,
    telemetry::RecordKind,
};
use bot_store::{Store, StoreError};
use outgoing::Speaker;
pub(crate) use settings::complain;
use settings::{Only, Settings};
use shared::{Parts, Shared};
#[cfg(feature = "testing")]
pub use testing::InProcess;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bus::{Bus, BusOptions, Consumer, Delivery, Intake, Password, Probe, TlsFiles},
    clock, config,
    contract::{Bot, contract_of},
    guard,
    meta::Cause,
    service::ServiceCx,
    telemetry,
    tools::Tools,
};

/// The configuration or the machine is wrong; starting again does not help.
const EXIT_CONFIG: u8 = 78;
/// What it needs does not answer; started again later, it may.
const EXIT_UNAVAILABLE: u8 = 69;
const CONFIG_HASH_ROW: &str = "config.hash";
const ENDED_JOBS_KEPT: Duration = Duration::from_hours(24 * 14);
/// For jobs to clean up, and for the last messages to be confirmed.
const STOP_GRACE: Duration = Duration::from_secs(20);
const FLUSH_GRACE: Duration = Duration::from_secs(5);

/// Runs a bot until it is told to stop: the whole of its `main`.
pub fn run<B: Bot>() -> ExitCode {
    if let Err(e) = guard::close_process() {
        complain(&format!("core dumps cannot be switched off: {e}"));
        return ExitCode::FAILURE;
    }
    let contract = contract_of::<B>();
    let settings = match settings::from_process(&contract) {
        Ok(settings) => settings,
        Err(settings::Instead::Done(text)) => {
            settings::print(&text);
            return ExitCode::SUCCESS;
        }
        Err(settings::Instead::Wrong(text)) => {
            complain(&text);
            return ExitCode::from(EXIT_CONFIG);
        }
        Err(settings::Instead::Unwell(text)) => {
            complain(&text);
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            complain(&format!("the async runtime cannot start: {e}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(look_or_live::<B>(contract, settings));
    runtime.shutdown_timeout(Duration::from_secs(2));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ending::Config(why)) => {
            complain(&why);
            ExitCode::from(EXIT_CONFIG)
        }
        Err(Ending::Unavailable(why)) => {
            complain(&why);
            ExitCode::from(EXIT_UNAVAILABLE)
        }
        Err(Ending::Failed(why)) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

enum Ending {
    Config(String),
    Unavailable(String),
    Failed(String),
}

/// Runs the bot, unless its configuration alone is asked about.
async fn look_or_live<B: Bot>(contract: Contract, settings: Settings) -> Result<(), Ending> {
    let (config, config_hash) = from_files::<B>(&settings, &contract).map_err(Ending::Config)?;
    match settings.only {
        Some(Only::Check) => {
            settings::print(&format!("{}: fits {}", settings.config_file.display(), contract.name));
            Ok(())
        }
        Some(Only::Hash) => {
            settings::print(&format!("{config_hash} {}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        None => {
            let options = settings.bus.clone().ok_or_else(|| Ending::Config(settings::NO_BROKER.to_owned()))?;
            let connect = |lines: Vec<Consumer>, probe: Probe, tasks: &TaskTracker, cancelled: CancellationToken| {
                Bus::start(options, lines, probe, tasks, cancelled)
            };
            live::<B>(contract, settings, config, config_hash, connect, told_to_stop()).await
        }
    }
}

/// The configuration as its files hold it now, and the hash of all that decides what the bot does.
fn from_files<B: Bot>(
    settings: &Settings,
    contract: &Contract,
) -> Result<(config::BotConfig<B::Config>, String), String> {
    let loaded = config::load::<B::Config>(&settings.config_file, &settings.overrides, contract);
    let loaded = loaded.map_err(|e| e.to_string())?;
    let hash = config::whole_hash(&loaded.hash, &settings.tools.config_dir, B::CONFIG_FILES);
    Ok((loaded.config, hash))
}

/// The life of a bot on the bus that `connect` makes, until `told` says why it has to end.
async fn live<B: Bot>(
    contract: Contract,
    settings: Settings,
    config: config::BotConfig<B::Config>,
    config_hash: String,
    connect: impl FnOnce(Vec<Consumer>, Probe, &TaskTracker, CancellationToken) -> Bus,
    told: impl Future<Output = String>,
) -> Result<(), Ending> {
    let telemetry =
        telemetry::start(contract.name.as_str(), &settings.telemetry).map_err(|e| Ending::Config(e.to_string()))?;
    let mut tools = settings.tools.clone();
    tools.max_concurrent_jobs = config.constraints.max_concurrent_jobs;
    let store = Store::open(settings.store.clone()).await.map_err(|e| match e {
        StoreError::Unreachable { .. } => Ending::Unavailable(e.to_string()),
        _ => Ending::Config(e.to_string()),
    })?;
    let bot = B::new(config.settings.clone(), tools.clone())
        .map_err(|e| Ending::Config(format!("{} cannot start: {e:#}", contract.name)))?;
    let keys = schedules::keys(&bot, &config.triggers)
        .map_err(|why| Ending::Config(format!("{}: {why}", settings.config_file.display())))?;
    contract_fits(&contract, &tools).map_err(Ending::Config)?;
    let (tasks, stop) = (TaskTracker::new(), Stop::default());
    let Some(alone) = replicas::wait::<B>(&store, &tools.instance).await else {
        store.close().await;
        return Ok(());
    };
    let (intake, intake_rx) = watch::channel(Intake::Closed);
    let lines = Lines::new(&contract, &intake_rx);
    let probe = probe(&contract, &tools.instance);
    let bus = connect(lines.consumers, probe, &tasks, stop.session.clone());
    let parts = Parts {
        password_file: settings.bus.as_ref().and_then(|bus| bus.password.file()),
        health_file: settings.health_file.clone(),
        hash_of_files: Box::new(move || from_files::<B>(&settings, &contract).map(|(_, hash)| hash)),
        bot: Arc::new(bot),
        config,
        config_hash,
        store,
        bus,
        tools,
        spans: telemetry.spans(),
        intake,
    };
    let shared = Arc::new(Shared::<B>::new(parts));
    take_up(&shared, &keys).await.map_err(|e| Ending::Failed(e.to_string()))?;

    tasks.spawn(relay::relay(shared.clone(), stop.relay.clone()));
    tasks.spawn(pulse::pulse(shared.clone(), stop.relay.clone()));
    tasks.spawn(pulse::listen(shared.clone(), lines.health, stop.relay.clone()));
    let work = begin_work(&shared, lines.control, lines.work, intake_rx, &stop.work);
    let port = Arc::new(service::Port { shared: shared.clone(), taps: Mutex::new(lines.taps) });
    let mut own_service = tokio::spawn(shared.bot.clone().service(ServiceCx::new(stop.work.clone(), port)));

    let ending = tokio::select! {
        reason = told => Ok(reason),
        why = watchdog::watchdog(shared.clone(), stop.work.clone()) => Err(why),
        why = alone.lost() => Err(why),
        ended = &mut own_service => Err(match ended {
            Ok(Ok(())) => "its service ended by itself".to_owned(),
            Ok(Err(e)) => format!("{e:#}"),
            Err(e) => e.to_string(),
        }),
    };
    if let Err(why) = &ending {
        shared.announce_failure(why).await;
    }
    let reason = ending.as_ref().map_or_else(Clone::clone, ToString::to_string);
    wind_down(&shared, &stop, work, tasks, &reason).await;
    ending.map(|_| ()).map_err(|why| Ending::Failed(format!("{} cannot go on: {why}", shared.contract.name)))
}

/// Says that the bot is there, and reads what an earlier process left; before any job begins, since it may have been paused.
async fn take_up<B: Bot>(shared: &Arc<Shared<B>>, keys: &BTreeMap<String, String>) -> Result<(), StoreError> {
    introduce(shared).await?;
    schedules::plan(shared, keys).await?;
    control::look(shared).await?;
    holding::recall(shared).await
}

/// What a bot switches off has to be what its contract says it can go on without; and it must not be a loop by itself.
fn contract_fits(contract: &Contract, tools: &Tools) -> Result<(), String> {
    let loops = bot_messages::topology::loops::undeclared(std::slice::from_ref(contract));
    if !loops.is_empty() {
        return Err(loops.join("\n"));
    }
    let is_declared = |name: &str| contract.features.iter().any(|f| f.name == name && !f.essential);
    match tools.notes().optional.keys().find(|name| !is_declared(name)) {
        Some(name) => Err(format!("{} has no optional feature `{name}`: name it in `FEATURES`", contract.name)),
        None => Ok(()),
    }
}

/// What is stopped first.
fn begin_work<B: Bot>(
    shared: &Arc<Shared<B>>,
    commands: mpsc::Receiver<Delivery>,
    deliveries: mpsc::Receiver<Delivery>,
    intake: watch::Receiver<Intake>,
    stop: &CancellationToken,
) -> TaskTracker {
    let work = TaskTracker::new();
    work.spawn(control::govern(shared.clone(), stop.clone()));
    work.spawn(control::hear_cancels(shared.clone(), stop.clone()));
    work.spawn(control::control(shared.clone(), commands, stop.clone()));
    work.spawn(dispatch::dispatch(shared.clone(), deliveries, intake, stop.clone()));
    work.spawn(timers::timers(shared.clone(), stop.clone()));
    work.spawn(jobs::jobs(shared.clone(), stop.clone()));
    work.spawn(rate::remember(shared.clone(), stop.clone()));
    work.spawn(keep_small(shared.clone(), stop.clone()));
    work
}

/// A line for the log stream, which the broker takes whatever becomes of it.
fn probe(contract: &Contract, instance: &str) -> Probe {
    let (speaker, instance) = (Speaker::new(&contract.name), instance.to_owned());
    Arc::new(move || {
        let message = "several messages in a row were not taken: is this one?".to_owned();
        speaker.log(&speaker.record(&instance, "warn", RecordKind::Note, message))
    })
}

/// What is stopped when: first work, then what sends its last words, then the session.
#[derive(Default)]
struct Stop {
    work: CancellationToken,
    relay: CancellationToken,
    session: CancellationToken,
}

/// The queues a bot reads, each with the channel its deliveries come through.
struct Lines {
    consumers: Vec<Consumer>,
    work: mpsc::Receiver<Delivery>,
    control: mpsc::Receiver<Delivery>,
    health: mpsc::Receiver<Delivery>,
    taps: BTreeMap<Tap, mpsc::Receiver<Delivery>>,
}

impl Lines {
    fn new(contract: &Contract, intake: &watch::Receiver<Intake>) -> Self {
        let slug = contract.name.slug();
        let mut consumers = Vec::new();
        // Steering works also while no work is taken: only the work queue has an intake.
        let mut line = |queue: String, prefetch: u16, no_ack: bool, intake: Option<&watch::Receiver<Intake>>| {
            let (out, deliveries) = mpsc::channel(usize::from(prefetch));
            consumers.push(Consumer { queue, prefetch, no_ack, intake: intake.cloned(), out });
            deliveries
        };
        let work = line(keys::work(&slug), dispatch::PREFETCH, false, Some(intake));
        let control = line(keys::control(&slug), 8, false, None);
        let health = line(keys::health_queue(&slug), 64, true, None);
        let taps = contract
            .observes
            .iter()
            .map(|t| (*t, line(keys::tap_queue(&slug, t.as_str()), 256, false, None)))
            .collect();
        Self { consumers, work, control, health, taps }
    }
}

/// Goes on from what its store keeps; says that the bot is there, and if its configuration is another than last time.
async fn introduce<B: Bot>(shared: &Arc<Shared<B>>) -> Result<(), StoreError> {
    let (bot, instance) = (shared.contract.name.to_string(), shared.tools.instance.clone());
    let before = shared.store.meta(CONFIG_HASH_ROW).await?;
    if let Some(from) = before.filter(|h| *h != shared.config_hash) {
        let changed = ConfigChanged { bot: bot.clone(), from, to: shared.config_hash.clone() };
        shared.announce(shared.speaker.say_core(&changed, &Cause::default(), clock::now())).await?;
    }
    shared.store.set_meta(CONFIG_HASH_ROW, &shared.config_hash).await?;
    shared.recall_rate().await?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let started = BotStarted { bot, instance, version, config_hash: shared.config_hash.clone() };
    shared.announce(shared.speaker.say_core(&started, &Cause::default(), clock::now())).await
}

async fn told_to_stop() -> String {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM".to_owned(),
        _ = int.recv() => "SIGINT".to_owned(),
    }
}

async fn wind_down<B: Bot>(shared: &Arc<Shared<B>>, stop: &Stop, work: TaskTracker, tasks: TaskTracker, reason: &str) {
    tracing::info!("stopping: {reason}");
    shared.stopping.store(true, Ordering::Relaxed);
    pulse::beat(shared).await;
    stop.work.cancel();
    work.close();
    if tokio::time::timeout(STOP_GRACE, work.wait()).await.is_err() {
        tracing::warn!("some work did not end within {} s; it will be done again", STOP_GRACE.as_secs());
    }
    let stopping = BotStopping {
        bot: shared.contract.name.to_string(),
        instance: shared.tools.instance.clone(),
        reason: reason.to_owned(),
    };
    let said = shared.speaker.say_core(&stopping, &Cause::default(), clock::now());
    if let Err(e) = shared.announce(said).await {
        tracing::error!("the last words cannot be written: {e}");
    }
    stop.relay.cancel();
    let _ = tokio::time::timeout(FLUSH_GRACE, relay::flush(shared)).await;
    stop.session.cancel();
    tasks.close();
    let _ = tokio::time::timeout(FLUSH_GRACE, tasks.wait()).await;
    // Code of the bot that never returns may hold what the store waits for.
    let _ = tokio::time::timeout(FLUSH_GRACE, shared.store.close()).await;
}

/// Forgets what is too old, once an hour.
async fn keep_small<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) {
    let inbox = Duration::from_hours(24 * inbox::INBOX_DAYS.unsigned_abs() + 24);
    let mut tick = tokio::time::interval(Duration::from_hours(1));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cancelled.cancelled() => return,
        }
        if let Err(e) = shared.store.prune(inbox, ENDED_JOBS_KEPT).await {
            tracing::warn!("old rows cannot be removed: {e}");
        }
    }
}

/// How a broker is reached; for the operator's command, which publishes as a bot does.
pub fn bus_options(
    addresses: Vec<String>,
    user: String,
    password_file: std::path::PathBuf,
    tls: TlsFiles,
    name: String,
) -> BusOptions {
    let password = Password::File(password_file);
    BusOptions { addresses, user, password, tls, name, confirm_timeout: Duration::from_secs(10) }
}
