//! The store on `SQLite`: opening, closing and the public operations. The SQL lives in the modules below.

mod claim;
mod commit;
mod directory;
mod open;
mod read;
mod upkeep;
mod value;
mod write;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::Value;
use sqlx::SqlitePool;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::model::{
    Claimed, Commit, Committed, InboxEntry, InboxKey, JobView, KnownJob, Outgoing, Queued, Renewed, StoreError, Timer,
};
use write::{Pending, Queue, Write};

/// Where a store is and how large it may get.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// A directory of this store's own. It is created where it is missing.
    pub dir: PathBuf,
    /// The most pages (of 4 KiB) that the database may have; `None`: as many as the disk holds.
    pub max_page_count: Option<u32>,
}

/// The setting that [`Store::try_room`] writes.
const ROOM_ROW: &str = "store.room";

/// How much is waiting in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that the broker has not confirmed.
    pub outbox_unsent: u64,
    /// Jobs that nobody holds, due or not.
    pub jobs_waiting: u64,
    /// Jobs that someone holds.
    pub jobs_running: u64,
}

/// What a durable transaction wakes, and what it is counted by.
#[derive(Debug, Default)]
struct Signals {
    outbox: Notify,
    jobs: Notify,
    timers: Notify,
    commits: AtomicU64,
}

type Sender = mpsc::Sender<Box<dyn Queue>>;

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    reads: SqlitePool,
    /// `None` once the store is closed.
    queue: std::sync::Mutex<Option<Sender>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    signals: Arc<Signals>,
}

/// A bot's store. Clones are cheap and share one writer and one pool of readers.
///
/// Writes that arrive while a transaction is being made durable share the next one; each is answered after that
/// transaction is on disk. A write whose future is dropped may still happen.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Store {
    /// Opens or creates the store and takes its lock. Jobs that a dead process left running wait again; the
    /// attempt they were in stays counted.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where a process (this one included) has it open already.
    pub async fn open(options: StoreOptions) -> Result<Self, StoreError> {
        open::open(options).await
    }

    /// Finishes what was already asked for, closes the files and gives the lock back. Later calls fail with
    /// [`StoreError::Closed`].
    pub async fn close(&self) {
        drop(self.shared.take_queue());
        self.shared.reads.close().await;
        // Held while waiting, so that a second caller returns only when the files are closed as well.
        let mut writer = self.shared.writer.lock().await;
        if let Some(task) = writer.as_mut() {
            if let Err(error) = task.await {
                tracing::error!(store = %self.shared.name, %error, "the store's writer did not end well");
            }
            *writer = None;
        }
    }

    /// What the inbox knows of a message.
    pub async fn inbox(&self, key: &InboxKey) -> Result<Option<InboxEntry>, StoreError> {
        self.read("read the inbox", read::inbox(&self.shared.reads, key).await)
    }

    /// An entity's document and its version (from 1).
    pub async fn state(&self, key: &str) -> Result<Option<(Value, u64)>, StoreError> {
        self.read("read a state", read::state(&self.shared.reads, key).await)
    }

    /// What a step of a job left, where it was done.
    pub async fn step(&self, job: &str, step: &str) -> Result<Option<Value>, StoreError> {
        self.read("read a job's step", read::step(&self.shared.reads, job, step).await)
    }

    /// A job as people see it.
    pub async fn job(&self, id: &str) -> Result<Option<JobView>, StoreError> {
        self.read("read a job", read::job(&self.shared.reads, id).await)
    }

    /// The job of this id; else those whose id begins so, of which two are enough to know that there are several.
    pub async fn jobs_like(&self, beginning: &str) -> Result<Vec<KnownJob>, StoreError> {
        self.read("look for a job", read::jobs_like(&self.shared.reads, beginning).await)
    }

    /// Unconfirmed messages with a place above `after_seq`, oldest first.
    pub async fn unsent(&self, after_seq: i64, limit: u32) -> Result<Vec<Queued>, StoreError> {
        self.read("read the outbox", read::unsent(&self.shared.reads, after_seq, limit).await)
    }

    /// Timers whose time has come, longest due first. They stay until a commit clears them.
    pub async fn due_timers(&self, limit: u32) -> Result<Vec<Timer>, StoreError> {
        self.read("read the timers", read::due_timers(&self.shared.reads, limit).await)
    }

    /// Names of the timers that are set and begin so.
    pub async fn timer_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.read("read the timers", read::timer_names(&self.shared.reads, prefix).await)
    }

    /// How long until the next timer is due; zero where one is, `None` without timers.
    pub async fn next_timer_in(&self) -> Result<Option<Duration>, StoreError> {
        self.read("read the timers", read::next_timer_in(&self.shared.reads).await)
    }

    /// How long until [`claim`](Self::claim) finds a job without any commit in between: zero where it would now,
    /// `None` where only a commit can change that.
    pub async fn next_job_in(&self) -> Result<Option<Duration>, StoreError> {
        self.read("read the jobs", claim::next_job_in(&self.shared.reads).await)
    }

    /// How much is waiting.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.read("count what waits", read::counts(&self.shared.reads).await)
    }

    /// A setting that [`set_meta`](Self::set_meta) wrote.
    pub async fn meta(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.read("read a setting", read::meta(&self.shared.reads, name).await)
    }

    /// Makes everything in `commit` durable together, or changes nothing and says why.
    pub async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        self.write(commit).await
    }

    /// Takes up to `limit` jobs for `holder`, oldest first, and none of the kinds `held` but those that are to be stopped. Each counts an attempt and gets a
    /// higher token.
    ///
    /// A job is free when it waits and its time has come, or when its lease ran out and it is none of `running`: those that
    /// the caller still runs. Jobs with the same exclusive
    /// key go strictly by age: none passes an older one, even while that one waits for its next attempt.
    pub async fn claim(
        &self,
        holder: &str,
        lease: Duration,
        limit: u32,
        running: &[String],
        held: &[String],
    ) -> Result<Vec<Claimed>, StoreError> {
        let (running, held) = (running.into(), held.into());
        self.write(claim::Claim { holder: holder.to_owned(), lease, limit, running, held }).await
    }

    /// Holds a job for another `lease` from now.
    pub async fn renew(&self, job: &str, token: i64, lease: Duration) -> Result<Renewed, StoreError> {
        self.write(claim::Renew { job: job.to_owned(), token, lease }).await
    }

    /// Asks that a job be stopped; the first reason stays. A waiting job becomes due at once, so that its bot can
    /// say that it was cancelled. `false`: there is no such job, or it has ended.
    pub async fn request_cancel(&self, job: &str, reason: &str) -> Result<bool, StoreError> {
        self.write(claim::RequestCancel { job: job.to_owned(), reason: reason.to_owned() }).await
    }

    /// Forgets messages that the broker confirmed.
    pub async fn mark_sent(&self, seqs: Vec<i64>) -> Result<(), StoreError> {
        self.write(upkeep::MarkSent { seqs }).await
    }

    /// Puts `instead` in the place of an undeliverable message. Does nothing where that is gone already.
    pub async fn remove_outgoing(&self, seq: i64, instead: Vec<Outgoing>) -> Result<(), StoreError> {
        self.write(upkeep::RemoveOutgoing { seq, instead }).await
    }

    /// Notes, before a redelivered message is looked at, that work on it starts. Answers how often it was started
    /// without an outcome, this time included.
    pub async fn mark_started(&self, body_hash: &str) -> Result<u32, StoreError> {
        self.write(upkeep::MarkStarted { body_hash: body_hash.to_owned() }).await
    }

    /// The message has an outcome.
    pub async fn clear_started(&self, body_hash: &str) -> Result<(), StoreError> {
        self.write(upkeep::ClearStarted { body_hash: body_hash.to_owned() }).await
    }

    /// Keeps a small setting of the bot.
    pub async fn set_meta(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.write(upkeep::SetMeta { name: name.to_owned(), value: value.to_owned() }).await
    }

    /// Writes `bytes` and takes them away again: whether the store has room for so much now.
    pub async fn try_room(&self, bytes: usize) -> Result<(), StoreError> {
        self.write(upkeep::SetMeta { name: ROOM_ROW.to_owned(), value: "x".repeat(bytes) }).await?;
        self.write(upkeep::SetMeta { name: ROOM_ROW.to_owned(), value: String::new() }).await
    }

    /// Deletes inbox rows and start marks untouched for `inbox_older_than`, and jobs that ended more than
    /// `ended_jobs_older_than` ago with their steps. Works in bounded batches, so that commits pass in between.
    /// Answers how many rows went, steps not counted.
    pub async fn prune(&self, inbox_older_than: Duration, ended_jobs_older_than: Duration) -> Result<u64, StoreError> {
        let mut total = 0;
        loop {
            let went = self.write(upkeep::Prune { inbox_older_than, ended_jobs_older_than }).await?;
            total += went;
            if went == 0 {
                return Ok(total);
            }
        }
    }

    /// Woken after each commit that wrote messages. One wake-up is kept while nobody waits.
    pub fn outbox_changed(&self) -> &Notify {
        &self.shared.signals.outbox
    }

    /// Woken after each commit that may have made a job free. One wake-up is kept while nobody waits.
    pub fn jobs_changed(&self) -> &Notify {
        &self.shared.signals.jobs
    }

    /// Woken after each commit that set or cleared timers. One wake-up is kept while nobody waits.
    pub fn timers_changed(&self) -> &Notify {
        &self.shared.signals.timers
    }

    /// Transactions made durable since the store was opened; a metric. Fewer than the writes, since those share.
    pub fn commits_total(&self) -> u64 {
        self.shared.signals.commits.load(Ordering::Relaxed)
    }

    async fn write<W: Write>(&self, write: W) -> Result<W::Answer, StoreError> {
        let queue = self.shared.queue()?;
        let (reply, answer) = oneshot::channel();
        queue.send(Box::new(Pending::new(write, reply))).await.map_err(|_| StoreError::Closed)?;
        // Not kept while waiting for the answer: the writer ends when the last sender is gone.
        drop(queue);
        answer.await.map_err(|_| StoreError::Closed)?
    }

    fn read<T>(&self, doing: &'static str, outcome: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        outcome.map_err(|error| value::store_error(&self.shared.name, doing, error))
    }
}

impl Shared {
    fn queue(&self) -> Result<Sender, StoreError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.clone().ok_or(StoreError::Closed)
    }

    fn take_queue(&self) -> Option<Sender> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
