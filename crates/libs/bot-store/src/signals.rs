//! What a durable transaction wakes in this process, whichever process it was of.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::operation::Change;

/// Who waits for what, and how much was written.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub(crate) outbox: Notify,
    pub(crate) jobs: Notify,
    pub(crate) timers: Notify,
    pub(crate) cancels: Notify,
    pub(crate) commits: AtomicU64,
}

impl Signals {
    /// A transaction of this process is durable.
    pub(crate) fn committed(&self, change: Change) {
        if change.wrote {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        self.wake(change);
    }

    /// Wakes those whom a change concerns.
    pub(crate) fn wake(&self, change: Change) {
        let all = [
            (change.outbox, &self.outbox),
            (change.jobs, &self.jobs),
            (change.timers, &self.timers),
            (change.cancels, &self.cancels),
        ];
        for (_, notify) in all.into_iter().filter(|(changed, _)| *changed) {
            notify.notify_one();
        }
    }
}
