//! What the runtime hands a bot at its birth: its folders, the machine's search path, breakers, notes for heartbeats.
use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bot_secrets::Sources;

use crate::breaker::{Breaker, BreakerOptions, BreakerState};

/// What a bot may use. Bots read no environment and no clock of their own.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    /// The bot's own folder; nobody else writes there.
    pub dir: PathBuf,
    /// The object store that all bots of a fleet share: a folder or a bucket, as `bot_clients::Objects::open` reads it.
    pub objects: String,
    /// Where the operator's files are (`repositories.yaml`, `environments.yaml`).
    pub config_dir: PathBuf,
    /// `PATH` of the process, for finding toolchains.
    pub path: String,
    /// `HOME` of the process, for finding toolchains.
    pub home: Option<PathBuf>,
    /// Further variables that say where toolchains are (`CARGO_HOME`, `RUSTUP_HOME`, …).
    pub toolchain_env: BTreeMap<String, String>,
    /// A bubblewrap that is not on the path.
    pub bwrap: Option<PathBuf>,
    /// Process-unique name of this instance.
    pub instance: String,
    /// Settings that concern one bot alone, from `LOTA_<NAME>` variables that the runtime passes on (lower case).
    pub settings: BTreeMap<String, String>,
    /// The secrets that the process was given, beside those in folders of the bot's.
    pub secrets: Sources,
    /// `constraints.max_concurrent_jobs` of the configuration.
    pub max_concurrent_jobs: usize,
    notes: Arc<Mutex<Notes>>,
}

/// What the heartbeat tells besides figures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    pub(crate) sandbox: Option<String>,
    pub(crate) sandbox_weaknesses: Vec<String>,
    pub(crate) processes_bound: Option<String>,
    /// Reasons to be degraded, by topic.
    pub(crate) degraded: BTreeMap<String, String>,
    pub(crate) breakers: Vec<Breaker>,
    pub(crate) optional: BTreeMap<&'static str, Optional>,
}

impl Notes {
    /// Optional features that are off now.
    pub(crate) fn off(&self) -> Vec<String> {
        self.optional.values().filter(|o| o.is_off()).map(|o| o.name.to_owned()).collect()
    }

    /// Why.
    pub(crate) fn off_why(&self) -> Vec<String> {
        self.optional.values().filter(|o| o.is_off()).map(Optional::why).collect()
    }
}

/// A part of a bot that it can go on without. One failure switches it off for a minute; then it is tried once, and so on.
/// Clones share it.
#[derive(Clone, Debug)]
pub struct Optional {
    name: &'static str,
    breaker: Breaker,
    failed: Arc<Mutex<String>>,
}

impl Optional {
    const OPTIONS: BreakerOptions = BreakerOptions { threshold: 1, timeout: Duration::from_secs(60) };

    fn new(name: &'static str) -> Self {
        Self { name, breaker: Breaker::new(name, Self::OPTIONS), failed: Arc::default() }
    }

    /// Does `work`, unless it is off. `Err`: why it was not done, for the log; the bot goes on without.
    pub async fn attempt<T, E: Display>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, String> {
        let Ok(permit) = self.breaker.permit() else { return Err(self.why()) };
        match work.await {
            Ok(done) => {
                permit.succeeded();
                Ok(done)
            }
            Err(e) => {
                let failed = crate::guard::clean(&e.to_string()).chars().take(300).collect();
                tracing::warn!(feature = self.name, "switched off for a while: {failed}");
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
                permit.failed();
                Err(self.why())
            }
        }
    }

    fn is_off(&self) -> bool {
        self.breaker.state() != BreakerState::Closed
    }

    fn why(&self) -> String {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        format!("goes on without {}: {failed}", self.name)
    }
}

impl Tools {
    fn with<T>(&self, f: impl FnOnce(&mut Notes) -> T) -> T {
        f(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Names what confines the commands this bot runs, which attacks it does not hold, and what bounds the number of their
    /// processes; shown in its heartbeat.
    pub fn sandbox_is(&self, kind: &str, weaknesses: Vec<&str>, processes_bound: impl Display) {
        self.with(|n| {
            n.sandbox = Some(kind.to_owned());
            n.processes_bound = Some(processes_bound.to_string());
            n.sandbox_weaknesses = weaknesses.into_iter().map(str::to_owned).collect();
        });
    }

    /// Something this bot should have is missing: it goes on, and its heartbeat says so. `None` ends it.
    pub fn degraded(&self, topic: &str, reason: Option<String>) {
        self.with(|n| match reason {
            Some(reason) => {
                n.degraded.insert(topic.to_owned(), reason);
            }
            None => {
                n.degraded.remove(topic);
            }
        });
    }

    /// A circuit breaker around something outside; its state is in the heartbeat.
    pub fn breaker(&self, name: &str, options: BreakerOptions) -> Breaker {
        let breaker = Breaker::new(name, options);
        self.with(|n| n.breakers.push(breaker.clone()));
        breaker
    }

    /// An optional feature of the contract; while it is off, the heartbeat says so.
    pub fn optional(&self, name: &'static str) -> Optional {
        self.with(|n| n.optional.entry(name).or_insert_with(|| Optional::new(name)).clone())
    }

    /// A folder below the bot's own.
    pub fn subdir(&self, name: &str) -> PathBuf {
        Path::new(&self.dir).join(name)
    }

    pub(crate) fn notes(&self) -> Notes {
        self.with(|n| n.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::ready};

    use super::*;

    #[tokio::test]
    async fn what_failed_once_is_not_tried_at_once() {
        let cache = Optional::new("cache");
        assert_eq!(cache.attempt(ready(Ok::<_, Infallible>(1))).await, Ok(1));
        assert!(!cache.is_off());
        let why = Err("goes on without cache: no such host".to_owned());
        assert_eq!(cache.attempt(ready(Err::<u8, _>("no such host"))).await, why);
        assert!(cache.is_off());
        assert_eq!(cache.attempt(ready(Ok::<_, Infallible>(2))).await, why);
    }
}
