//! Jobs: claimed under a lease, run with limits, ended in one commit that carries their fencing token.
use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bot_messages::{Code, SafeError, telemetry::RecordKind};
use bot_store::{Claimed, Commit, Committed, Guard, JobEnd, JobOutcome, JobStatus, StoreError};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt;
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    attempts::{self, Next, after_job},
    entity::panic_text,
    holding::Claims,
    lease::{self, Lease, LeaseNews},
    relief::what_of,
    shared::Shared,
};
use crate::{
    clock,
    contract::Bot,
    crash::crash_point,
    effects::{Effect, Effects, Fail, Outcome},
    guard,
    job::{Boxed, Claim, GaveUp, JobCx, JobPort, Stop},
    meta::Cause,
};

/// How long a job that was told to stop may take to clean up.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(15);
/// The longest that nobody looks for a job; whatever frees one wakes the look before.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const LOOK_SOONEST: Duration = Duration::from_millis(250);
/// While no work is taken, or the store fails.
const LOOK_IDLE: Duration = Duration::from_secs(1);

/// Runs until cancelled; then the jobs are told to stop, and handed back.
pub(crate) async fn jobs<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) {
    let mut running: JoinSet<()> = JoinSet::new();
    // By task, so that one whose task broke is not held to be running for ever.
    let mut ids: HashMap<tokio::task::Id, String> = HashMap::new();
    while !cancelled.is_cancelled() {
        let mut wait = LOOK_IDLE;
        if shared.takes_work() {
            let free = shared.constraints.max_concurrent_jobs.saturating_sub(running.len());
            let here: Vec<String> = ids.values().cloned().collect();
            // Before the claim, which sees what was asked before.
            let cancels = shared.cancels.subscribe();
            let asked = Instant::now();
            match claim(&shared, free, &here).await {
                Ok((claimed, next)) => {
                    for job in claimed {
                        let id = job.id.clone();
                        let run = run_job(shared.clone(), job, asked, cancels.clone(), cancelled.child_token());
                        let task = running.spawn(run);
                        ids.insert(task.id(), id);
                    }
                    wait = next;
                }
                Err(e) => shared.store_failed(&e),
            }
        }
        shared.figures.jobs_running.store(running.len() as u64, Ordering::Relaxed);
        tokio::select! {
            () = shared.store.jobs_changed().notified() => {}
            Some(ended) = running.join_next_with_id(), if !running.is_empty() => {
                ids.remove(&ended.map_or_else(|e| e.id(), |(id, ())| id));
            }
            () = tokio::time::sleep(wait) => {}
            () = cancelled.cancelled() => break,
        }
    }
    while running.join_next().await.is_some() {}
    shared.figures.jobs_running.store(0, Ordering::Relaxed);
}

/// Takes up to `free` jobs; with them, when to look again.
async fn claim<B: Bot>(
    shared: &Arc<Shared<B>>,
    free: usize,
    here: &[String],
) -> Result<(Vec<Claimed>, Duration), StoreError> {
    // A place that frees up wakes the look.
    if free == 0 {
        return Ok((Vec::new(), LOOK_AGAIN));
    }
    let Claims { held, probes } = shared.claims();
    // Of a kind that is tried, one and no second, so one at a time.
    let limit = if probes.is_empty() { free } else { 1 };
    let claimed = shared.store.claim(&shared.tools.instance, lease::LENGTH, limit as u32, here, &held).await?;
    for job in &claimed {
        shared.relief(|r| r.begin_probe(&what_of(&job.kind)));
    }
    shared.figures.jobs_begun.fetch_add(claimed.len() as u64, Ordering::Relaxed);
    // What was claimed is run whatever comes of this.
    let next = shared.store.next_job_in().await.unwrap_or_else(|e| {
        shared.store_failed(&e);
        Some(LOOK_IDLE)
    });
    let next = next.unwrap_or(LOOK_AGAIN);
    // What is held is due as well, and begins no sooner for being looked at.
    let soonest = if held.is_empty() { LOOK_SOONEST } else { LOOK_IDLE };
    Ok((claimed, next.clamp(soonest, if probes.is_empty() && held.is_empty() { LOOK_AGAIN } else { LOOK_IDLE })))
}

/// The durable side of a job's context.
pub(super) struct Port<B: Bot> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) job: String,
    pub(super) token: i64,
    cause: Cause,
    lines: AtomicU64,
    stop: Mutex<Option<Stop>>,
    cancelled: CancellationToken,
}

impl<B: Bot> Port<B> {
    fn stop_because(&self, why: Stop) {
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if stop.is_none() {
            *stop = Some(why);
        }
        drop(stop);
        self.cancelled.cancel();
    }

    fn heed(&self, news: LeaseNews) {
        match news {
            LeaseNews::Held => {}
            LeaseNews::Cancelled(reason) => self.stop_because(Stop::Asked(reason)),
            LeaseNews::Lost => self.stop_because(Stop::LeaseLost),
        }
    }

    fn guard(&self) -> Guard {
        Guard::Job { id: self.job.clone(), token: self.token }
    }

    /// The commit that ends an attempt. `Err`: what it says is too large to be sent, so nothing of it is.
    fn ending(&self, effects: Vec<Effect>, outcome: JobOutcome) -> Result<Commit, String> {
        let mut commit = self.silent_ending(outcome);
        self.shared.speaker.write(effects, &self.cause, clock::now(), &mut commit)?;
        Ok(commit)
    }

    /// Notes how an attempt went; one that was stopped says nothing of what is outside.
    fn note_outcome(&self, kind: &str, failed: Option<&Fail>) -> Option<TimeDelta> {
        let what = what_of(kind);
        if self.stop().is_some() {
            self.shared.relief(|r| r.unknown(&what));
            return None;
        }
        let held = self.shared.note_outcome(&what, failed);
        // Jobs of this kind may begin now, or later than the loop thinks.
        self.shared.store.jobs_changed().notify_one();
        held
    }

    fn silent_ending(&self, outcome: JobOutcome) -> Commit {
        Commit { guard: self.guard(), job_end: Some(JobEnd { outcome }), ..Commit::default() }
    }

    fn about_the_job(&self, kind: RecordKind, message: String) -> bot_messages::telemetry::LogRecord {
        let mut record = self.shared.record("info", kind, message);
        record.job_id = Some(self.job.clone());
        record.correlation_id = Some(self.cause.correlation_id.clone());
        record
    }
}

impl<B: Bot> JobPort for Port<B> {
    fn commit<'a>(&'a self, step: &'a str, effects: Vec<Effect>, value: Value) -> Boxed<'a, Result<(), Fail>> {
        Box::pin(async move {
            let mut commit = Commit { guard: self.guard(), step: Some((step.to_owned(), value)), ..Commit::default() };
            self.shared
                .speaker
                .write(effects, &self.cause, clock::now(), &mut commit)
                .map_err(|why| Fail::reject(Code::Rejected, anyhow::anyhow!(why)))?;
            // A step's number, if it has one, is another each time.
            let place = step.trim_end_matches(|c: char| c.is_ascii_digit());
            crash_point(&format!("step {place}: done"));
            match self.shared.commit_when_room(commit, &self.cancelled).await.map_err(Fail::retry)? {
                Committed::Done | Committed::StepDone => {
                    crash_point(&format!("step {place}: committed"));
                    Ok(())
                }
                _ => {
                    self.stop_because(Stop::LeaseLost);
                    Err(Fail::LeaseLost)
                }
            }
        })
    }

    fn recall<'a>(&'a self, step: &'a str) -> Boxed<'a, Result<Option<Value>, Fail>> {
        Box::pin(async move { self.shared.store.step(&self.job, step).await.map_err(Fail::retry) })
    }

    fn line(&self, line: &str) {
        let mut record = self.about_the_job(RecordKind::Output, guard::clean(line).chars().take(4000).collect());
        record.line = Some(self.lines.fetch_add(1, Ordering::Relaxed) + 1);
        self.shared.send_record(&record);
    }

    fn progress(&self, percent: u8, what: &str) {
        let mut record = self.about_the_job(RecordKind::Progress, what.to_owned());
        record.percent = Some(percent.min(100));
        self.shared.send_record(&record);
    }

    fn now(&self) -> DateTime<Utc> {
        clock::now()
    }

    fn stop(&self) -> Option<Stop> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn run_job<B: Bot>(
    shared: Arc<Shared<B>>,
    job: Claimed,
    asked: Instant,
    cancels: watch::Receiver<()>,
    bot_stopping: CancellationToken,
) {
    let mut cause: Cause = serde_json::from_value(job.meta.clone()).unwrap_or_default();
    let mut span = shared.spans.job(&job.kind, &job.id, job.attempt, &mut cause);
    let mut lease = Lease::begun(asked);
    let port = Arc::new(Port {
        shared: shared.clone(),
        job: job.id.clone(),
        token: job.token,
        cause: cause.clone(),
        lines: AtomicU64::new(0),
        stop: Mutex::default(),
        cancelled: CancellationToken::new(),
    });
    crash_point("job: claimed");
    let (correlation_id, causation_id) = (&cause.correlation_id, &cause.causation_id);
    tracing::info!(job_id = job.id, kind = job.kind, attempt = job.attempt, correlation_id, causation_id, "job begins");
    let worn_out = attempts::worn_out(job.attempt, &shared.constraints.retry_policy);
    let outcome = match (shared.jobs.get(job.kind.as_str()), worn_out) {
        (None, _) => {
            let why = anyhow::anyhow!("this version of {} has no job `{}`", shared.contract.name, job.kind);
            Err(Fail::reject(Code::UnsupportedSchema, why))
        }
        (Some(_), Some(fail)) => Err(fail),
        (Some(kind), None) => {
            if let Some(reason) = &job.cancel {
                port.stop_because(Stop::Asked(reason.clone()));
            }
            let started_at = clock::now() - TimeDelta::milliseconds(job.age_ms);
            let cancelled = port.cancelled.clone();
            let claim = Claim { attempt: job.attempt, token: job.token, is_first: job.is_first };
            let cx = JobCx::new(job.id.clone(), claim, cause.clone(), started_at, cancelled, port.clone());
            let run = (kind.run)(shared.bot.clone(), job.payload.clone(), Arc::new(cx));
            attended(&port, run, &mut lease, cancels, &bot_stopping).await
        }
    };
    let age = Duration::from_millis(u64::try_from(job.age_ms).unwrap_or(0)) + asked.elapsed();
    let failed = outcome.as_ref().err().map(Fail::message);
    let result = tokio::select! {
        result = finish(&port, &job, age, outcome, &bot_stopping) => result,
        // The end waits for room in the store, under the lease as before.
        () = lease.keep(&port) => Ok("was taken over"),
    };
    shared.relief(|r| r.unknown(&what_of(&job.kind)));
    *shared.last_execution.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::now());
    match result {
        Ok(how) => {
            span.outcome(how);
            span.end(failed.as_deref());
            tracing::info!(job_id = job.id, kind = job.kind, correlation_id, causation_id, "job {how}");
        }
        Err(e) => {
            span.end(Some("its end was not written"));
            // The lease runs out, and the job is run again.
            tracing::error!(job_id = job.id, correlation_id, "the end of the job cannot be written: {e}");
        }
    }
}

/// Runs a job's future beside its lease, its limit, and whoever wants it to stop.
async fn attended<B: Bot>(
    port: &Arc<Port<B>>,
    run: Boxed<'static, Outcome<B>>,
    lease: &mut Lease,
    mut cancels: watch::Receiver<()>,
    bot_stopping: &CancellationToken,
) -> Outcome<B> {
    let run = AssertUnwindSafe(run).catch_unwind();
    tokio::pin!(run);
    let limit = tokio::time::sleep(Duration::from_secs(port.shared.constraints.timeout));
    tokio::pin!(limit);
    let unwound = loop {
        tokio::select! {
            done = &mut run => break done,
            () = port.cancelled.cancelled() => match tokio::time::timeout(STOP_GRACE, &mut run).await {
                Ok(done) => break done,
                Err(_) => {
                    let why = anyhow::anyhow!("told to stop, it went on for {} s", STOP_GRACE.as_secs());
                    return Err(Fail::Retry(why));
                }
            },
            () = &mut limit => port.stop_because(Stop::TimedOut),
            () = bot_stopping.cancelled() => port.stop_because(Stop::BotStopping),
            () = lease.due() => port.heed(lease.renew(port).await),
            Ok(()) = cancels.changed() => port.heed(lease.renew(port).await),
        }
    };
    unwound
        .unwrap_or_else(|panic| Err(Fail::Retry(anyhow::anyhow!("the job panicked: {}", panic_text(panic.as_ref())))))
}

/// Writes the end of an attempt; says how it ended.
async fn finish<B: Bot>(
    port: &Arc<Port<B>>,
    job: &Claimed,
    age: Duration,
    outcome: Outcome<B>,
    bot_stopping: &CancellationToken,
) -> Result<&'static str, StoreError> {
    let shared = &port.shared;
    let held = port.note_outcome(&job.kind, outcome.as_ref().err());
    let done = outcome.and_then(|effects| {
        let ending = port.ending(effects.list, JobOutcome::Ended(JobStatus::Done));
        ending.map_err(|why| Fail::reject(Code::MessageTooLarge, anyhow::anyhow!(why)))
    });
    let (commit, how) = match done {
        Ok(commit) => (commit, "ended"),
        Err(fail) => match after_job(job.attempt, &shared.constraints, port.stop(), fail, held) {
            Next::Nothing(how) => return Ok(how),
            Next::Again { outcome, how, told } => {
                if let Some(told) = told {
                    port.line(&told);
                }
                (port.silent_ending(outcome), how)
            }
            Next::GiveUp { status, reason, code, why } => {
                let error = SafeError::new(code, why, clock::now());
                let duration_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                let end = GaveUp { job_id: job.id.clone(), reason, error, attempts: job.attempt, duration_ms };
                let effects = last_words(shared, job, &end);
                let commit = port.ending(effects.list, JobOutcome::Ended(status)).unwrap_or_else(|why| {
                    tracing::error!(job_id = port.job, "what the job says when it is given up cannot be sent: {why}");
                    port.silent_ending(JobOutcome::Ended(status))
                });
                (commit, "given up")
            }
        },
    };
    crash_point("job: done");
    let committed = shared.commit_when_room(commit, bot_stopping).await?;
    crash_point("job: committed");
    Ok(if committed == Committed::Done { how } else { "was taken over" })
}

/// What the bot says of a job that is given up. If that panics the job still ends, or it would be given up for ever.
fn last_words<B: Bot>(shared: &Shared<B>, job: &Claimed, end: &GaveUp) -> Effects<B> {
    let Some(kind) = shared.jobs.get(job.kind.as_str()) else {
        return Effects::none();
    };
    let words = AssertUnwindSafe(|| (kind.gave_up)(&shared.bot, job.payload.clone(), end));
    std::panic::catch_unwind(words).unwrap_or_else(|panic| {
        let why = panic_text(panic.as_ref());
        tracing::error!(
            job_id = job.id,
            "nothing is said of the job that is given up, since `gave_up` panicked: {why}"
        );
        Effects::none()
    })
}
