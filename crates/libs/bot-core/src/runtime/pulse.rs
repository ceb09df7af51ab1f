//! The heartbeat: how the bot is, every 5 seconds; and the ear for the heartbeats of those it depends on.
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use bot_messages::telemetry::{BotState, Heartbeat};
use chrono::{DateTime, Utc};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{health_file, shared::Shared};
use crate::{bus::Delivery, clock, contract::Bot};

const EVERY: Duration = Duration::from_secs(5);
/// A dependency that is not heard for so long is missing.
const DEPENDENCY_SILENT: Duration = Duration::from_secs(30);
/// How often the other replicas are told whom this one hears.
const HEARD_TOLD: Duration = Duration::from_secs(10);

/// Sends heartbeats until cancelled.
pub(crate) async fn pulse<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                recall_heard(&shared).await;
                beat(&shared).await;
            }
            () = cancelled.cancelled() => break,
        }
    }
}

/// Sends one now.
pub(crate) async fn beat<B: Bot>(shared: &Arc<Shared<B>>) {
    let heartbeat = heartbeat(shared).await;
    if let Some(file) = &shared.health_file
        && let Err(e) = health_file::write(file, &heartbeat)
    {
        tracing::warn!(
            "{} cannot be written, so that `--health` will say that this bot is silent: {e}",
            file.display()
        );
    }
    shared.bus.send_light(shared.speaker.health(&shared.tools.instance, &heartbeat));
}

/// Notes who is heard, until cancelled.
pub(crate) async fn listen<B: Bot>(
    shared: Arc<Shared<B>>,
    mut heartbeats: mpsc::Receiver<Delivery>,
    cancelled: CancellationToken,
) {
    let mut told: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let delivery = tokio::select! {
            d = heartbeats.recv() => match d { Some(d) => d, None => return },
            () = cancelled.cancelled() => return,
        };
        // The exchange proves whose it is; what it says is the monitor's to read.
        if let Some(slug) = delivery.exchange.strip_prefix(bot_messages::keys::EGRESS_PREFIX) {
            shared.condition(|c| c.heard.insert(slug.to_owned(), Instant::now()));
            // Each heartbeat reaches one of the replicas.
            if shared.store.is_shared() && told.get(slug).is_none_or(|at| at.elapsed() >= HEARD_TOLD) {
                told.insert(slug.to_owned(), Instant::now());
                if let Err(e) = shared.store.set_meta(&heard_row(slug), &clock::now().timestamp().to_string()).await {
                    tracing::debug!("the other replicas are not told of {slug}: {e}");
                }
            }
        }
    }
}

fn heard_row(slug: &str) -> String {
    format!("heard.{slug}")
}

/// Notes whom the other replicas heard.
async fn recall_heard<B: Bot>(shared: &Arc<Shared<B>>) {
    if !shared.store.is_shared() {
        return;
    }
    for dependency in &shared.dependencies {
        let heard = shared.condition(|c| c.heard.get(dependency).copied());
        if heard.is_some_and(|at| at.elapsed() < HEARD_TOLD) {
            continue;
        }
        let Ok(Some(at)) = shared.store.meta(&heard_row(dependency)).await else { continue };
        let Ok(at) = at.parse::<i64>() else { continue };
        let age = Duration::from_secs(clock::now().timestamp().saturating_sub(at).max(0).unsigned_abs());
        if let Some(at) = Instant::now().checked_sub(age).filter(|at| heard.is_none_or(|heard| heard < *at)) {
            shared.condition(|c| c.heard.insert(dependency.clone(), at));
        }
    }
}

pub(crate) async fn heartbeat<B: Bot>(shared: &Arc<Shared<B>>) -> Heartbeat {
    let figures = &shared.figures;
    let minute = figures.minute(Instant::now());
    let counts = shared.store.counts().await.unwrap_or_default();
    let notes = shared.tools.notes();
    let link = shared.bus.link();
    let (state, reasons) = state(shared);
    let held = shared.relief(|r| r.held().iter().map(|(what, hold)| hold.told(what)).collect());
    let (rss_bytes, cpu_percent) = own_process();
    Heartbeat {
        bot: shared.contract.name.to_string(),
        instance: shared.tools.instance.clone(),
        timestamp: clock::now(),
        state,
        reasons,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_hash: shared.config_hash.clone(),
        uptime_s: shared.started.elapsed().as_secs(),
        processed: figures.processed.load(Ordering::Relaxed),
        errors: figures.errors.load(Ordering::Relaxed),
        rate_per_s: minute.rate_per_s,
        error_rate: minute.error_rate,
        response_p50_us: minute.p50_us,
        response_p99_us: minute.p99_us,
        in_flight: figures.in_flight.load(Ordering::Relaxed),
        jobs_running: figures.jobs_running.load(Ordering::Relaxed),
        jobs_waiting: counts.jobs_waiting,
        outbox_unsent: counts.outbox_unsent,
        records_dropped: shared.bus.light_dropped(),
        stale_acks: figures.stale_acks.load(Ordering::Relaxed),
        rate_deferred: figures.rate_deferred.load(Ordering::Relaxed),
        rate_refused: figures.rate_refused.load(Ordering::Relaxed),
        sessions: link.epoch,
        outputs_missing: shared.outputs_missing,
        rss_bytes,
        cpu_percent,
        credential_age_s: shared.password_file.as_deref().and_then(age_of),
        off: notes.off(),
        held,
        sandbox: notes.sandbox,
        sandbox_weaknesses: notes.sandbox_weaknesses,
        processes_bound: notes.processes_bound,
        breakers: notes.breakers.iter().map(|b| (b.name().to_owned(), b.state().as_str().to_owned())).collect(),
        last_execution: *shared.last_execution.lock().unwrap_or_else(PoisonError::into_inner),
    }
}

/// Seconds since the file was changed.
fn age_of(file: &Path) -> Option<u64> {
    let changed = file.metadata().and_then(|meta| meta.modified()).ok()?;
    u64::try_from((clock::now() - DateTime::<Utc>::from(changed)).num_seconds()).ok()
}

/// What the bot is doing, and why not more.
fn state<B: Bot>(shared: &Arc<Shared<B>>) -> (BotState, Vec<String>) {
    let link = shared.bus.link();
    let condition = shared.condition(|c| c.clone());
    if shared.stopping.load(Ordering::Relaxed) {
        return (BotState::Stopping, Vec::new());
    }
    if !shared.enabled {
        return (BotState::Disabled, vec!["`enabled: false` in its configuration".to_owned()]);
    }
    if let Some((reason, by)) = condition.paused {
        return (BotState::Paused, vec![format!("{reason} (by {by})")]);
    }
    if link.epoch == 0 {
        return (BotState::Starting, link.trouble.into_iter().collect());
    }
    let (nothing, mut reasons) = shared.held_why();
    if nothing {
        return (BotState::Paused, reasons);
    }
    let notes = shared.tools.notes();
    reasons.extend(notes.off_why());
    reasons.extend(notes.degraded.into_values());
    reasons.extend(condition.backlog);
    reasons.extend(condition.stalled);
    reasons.extend(condition.store.why().map(ToOwned::to_owned));
    reasons.extend(link.blocked.map(|why| format!("the broker holds back publishers: {why}")));
    for dependency in &shared.dependencies {
        let silent = condition.heard.get(dependency).map_or(shared.started.elapsed(), Instant::elapsed);
        if silent > DEPENDENCY_SILENT {
            reasons.push(format!("{dependency} has not been heard for {} s", silent.as_secs()));
        }
    }
    (if reasons.is_empty() { BotState::Running } else { BotState::Degraded }, reasons)
}

/// Resident bytes, and percent of one core since the last call.
fn own_process() -> (u64, f64) {
    static SYSTEM: Mutex<Option<System>> = Mutex::new(None);
    let pid = Pid::from_u32(std::process::id());
    let mut system = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    if system.is_none() {
        *system = System::new().ok();
    }
    let Some(system) = system.as_mut() else {
        return (0, 0.0);
    };
    let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
    system.process(pid).map_or((0, 0.0), |p| (p.memory(), f64::from(p.cpu_usage())))
}
