//! A job's context without a runtime: steps, lines and effects are kept in memory and can be looked at.
use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bot_core::{Bot, Cause, Claim, Effect, Fail, JobCx, JobPort, Stop};
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// What a job did through its context. Hand the same one to a second [`JobRecord::cx`] to run a job again as after
/// a crash: its steps are still there.
#[derive(Default)]
pub struct JobRecord {
    inner: Mutex<Inner>,
    cancelled: CancellationToken,
}

#[derive(Default)]
struct Inner {
    steps: BTreeMap<String, Value>,
    effects: Vec<Effect>,
    lines: Vec<String>,
    progress: Vec<(u8, String)>,
    stop: Option<Stop>,
    /// Absent: the machine's.
    now: Option<DateTime<Utc>>,
    attempts: u32,
    /// After so many commits every further one fails: a crash between two steps.
    commits_left: Option<u32>,
}

impl JobRecord {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A context for the next attempt.
    pub fn cx<B: Bot>(self: &Arc<Self>) -> JobCx<B> {
        let attempt = {
            let mut inner = self.inner.lock().unwrap();
            inner.attempts += 1;
            inner.attempts
        };
        let cause =
            Cause { correlation_id: "correlation-1".into(), causation_id: "message-1".into(), ..Cause::default() };
        let started = self.now();
        let claim = Claim { attempt, token: i64::from(attempt), is_first: attempt == 1 };
        JobCx::new("job-1".into(), claim, cause, started, self.cancelled.clone(), self.clone())
    }

    /// Effects committed by steps, in order.
    pub fn effects(&self) -> Vec<Effect> {
        self.inner.lock().unwrap().effects.clone()
    }
    /// The types of the events said by steps, in order.
    pub fn said(&self) -> Vec<&'static str> {
        let said = self.effects().into_iter().filter_map(|e| match e {
            Effect::Say { event_type, .. } => Some(event_type),
            _ => None,
        });
        said.collect()
    }
    /// Lines of output.
    pub fn lines(&self) -> Vec<String> {
        self.inner.lock().unwrap().lines.clone()
    }
    /// From now on it is this time.
    pub fn set_now(&self, now: DateTime<Utc>) {
        self.inner.lock().unwrap().now = Some(now);
    }
    /// Tells the job to stop.
    pub fn stop_job(&self, why: Stop) {
        self.inner.lock().unwrap().stop = Some(why);
        self.cancelled.cancel();
    }
    /// Lets `commits` more steps through; every later one fails as if the process had died.
    pub fn crash_after(&self, commits: u32) {
        self.inner.lock().unwrap().commits_left = Some(commits);
    }
    /// Lets every step through again.
    pub fn no_more_crashes(&self) {
        self.inner.lock().unwrap().commits_left = None;
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl JobPort for JobRecord {
    fn commit<'a>(&'a self, step: &'a str, effects: Vec<Effect>, value: Value) -> Boxed<'a, Result<(), Fail>> {
        Box::pin(async move {
            let mut inner = self.inner.lock().unwrap();
            match &mut inner.commits_left {
                Some(0) => return Err(Fail::LeaseLost),
                Some(n) => *n -= 1,
                None => {}
            }
            if !inner.steps.contains_key(step) {
                inner.steps.insert(step.to_owned(), value);
                inner.effects.extend(effects);
            }
            Ok(())
        })
    }
    fn recall<'a>(&'a self, step: &'a str) -> Boxed<'a, Result<Option<Value>, Fail>> {
        Box::pin(async move { Ok(self.inner.lock().unwrap().steps.get(step).cloned()) })
    }
    fn line(&self, line: &str) {
        self.inner.lock().unwrap().lines.push(line.to_owned());
    }
    fn progress(&self, percent: u8, what: &str) {
        self.inner.lock().unwrap().progress.push((percent, what.to_owned()));
    }
    fn now(&self) -> DateTime<Utc> {
        self.inner.lock().unwrap().now.unwrap_or_else(Utc::now)
    }
    fn stop(&self) -> Option<Stop> {
        self.inner.lock().unwrap().stop.clone()
    }
}
