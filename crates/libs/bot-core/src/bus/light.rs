//! Records that may be lost (heartbeats, log lines) on their way out: bounded, the oldest dropped and counted.
use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bot_store::Outgoing;
use tokio::sync::Notify;

const RECORDS_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Light {
    queue: Mutex<VecDeque<Outgoing>>,
    filled: Notify,
    dropped: AtomicU64,
}

impl Light {
    pub(super) fn push(&self, message: Outgoing) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= RECORDS_MAX {
            queue.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        queue.push_back(message);
        drop(queue);
        self.filled.notify_one();
    }

    pub(super) async fn pop(&self) -> Outgoing {
        loop {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(message) = next {
                return message;
            }
            self.filled.notified().await;
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
