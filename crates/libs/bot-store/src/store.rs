//! The store as a bot sees it, whichever database is behind it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use sqlx::{PgConnection, SqliteConnection};
use tokio::sync::Notify;

use crate::model::{
    Claimed, Commit, Committed, Counts, InboxEntry, InboxKey, JobView, KnownJob, Outgoing, Queued, Renewed, StoreError,
    Timer,
};
use crate::operation::{
    Apply, Claim, ClearStarted, Lead, MarkSent, MarkStarted, Prune, RemoveOutgoing, Renew, RequestCancel, SetMeta,
};
use crate::postgres::{self, PostgresOptions};
use crate::signals::Signals;
use crate::sqlite;

/// Where a store is.
#[derive(Clone, Debug)]
pub enum StoreOptions {
    /// In a directory of its own, for one process.
    Sqlite {
        /// It. It is created where it is missing.
        dir: PathBuf,
        /// The most pages (of 4 KiB) that the database may have; `None`: as many as the disk holds.
        max_page_count: Option<u32>,
    },
    /// In a schema of its own of a PostgreSQL database, for all replicas of the bot.
    Postgres(PostgresOptions),
}

/// The setting that [`Store::try_room`] writes.
const ROOM_ROW: &str = "store.room";

#[derive(Clone, Debug)]
enum Backend {
    Sqlite(Arc<sqlite::Database>),
    Postgres(Arc<postgres::Database>),
}

/// A bot's store. Clones are cheap and share one writer and one pool of readers.
///
/// Writes that arrive while a transaction is being made durable share the next one; each is answered after that
/// transaction is on disk. A write whose future is dropped may still happen; so may one over a network that fails.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Backend,
}

impl Store {
    /// Opens or creates the store. In `SQLite` jobs that a dead process left running wait again; in PostgreSQL they are
    /// taken over when their leases run out, since another replica may run them. The attempt they were in stays counted.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where a process (this one included) has the directory open already;
    /// [`StoreError::Unreachable`] and [`StoreError::Refused`] from PostgreSQL.
    pub async fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let backend = match options {
            StoreOptions::Sqlite { dir, max_page_count } => {
                Backend::Sqlite(Arc::new(sqlite::open(dir, max_page_count).await?))
            }
            StoreOptions::Postgres(options) => Backend::Postgres(Arc::new(postgres::open(options).await?)),
        };
        Ok(Self { backend })
    }

    /// Whether other processes may work on the same store.
    pub fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// Finishes what was already asked for, closes the files or connections and gives the lock back. Later calls fail with
    /// [`StoreError::Closed`].
    pub async fn close(&self) {
        match &self.backend {
            Backend::Sqlite(db) => db.close().await,
            Backend::Postgres(db) => db.close().await,
        }
    }

    /// What the inbox knows of a message.
    pub async fn inbox(&self, key: &InboxKey) -> Result<Option<InboxEntry>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("read the inbox", sqlite::inbox(&db.reads, key).await),
            Backend::Postgres(db) => db.read("read the inbox", postgres::inbox(&db.reads, key)).await,
        }
    }

    /// An entity's document and its version (from 1).
    pub async fn state(&self, key: &str) -> Result<Option<(Value, u64)>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("read a state", sqlite::state(&db.reads, key).await),
            Backend::Postgres(db) => db.read("read a state", postgres::state(&db.reads, key)).await,
        }
    }

    /// What a step of a job left, where it was done.
    pub async fn step(&self, job: &str, step: &str) -> Result<Option<Value>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("read a job's step", sqlite::step(&db.reads, job, step).await),
            Backend::Postgres(db) => db.read("read a job's step", postgres::step(&db.reads, job, step)).await,
        }
    }

    /// A job as people see it.
    pub async fn job(&self, id: &str) -> Result<Option<JobView>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("read a job", sqlite::job(&db.reads, id).await),
            Backend::Postgres(db) => db.read("read a job", postgres::job(&db.reads, id)).await,
        }
    }

    /// The job of this id; else those whose id begins so, of which two are enough to know that there are several.
    pub async fn jobs_like(&self, beginning: &str) -> Result<Vec<KnownJob>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("look for a job", sqlite::jobs_like(&db.reads, beginning).await),
            Backend::Postgres(db) => db.read("look for a job", postgres::jobs_like(&db.reads, beginning)).await,
        }
    }

    /// Unconfirmed messages with a place above `after_seq`, oldest first.
    pub async fn unsent(&self, after_seq: i64, limit: u32) -> Result<Vec<Queued>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("read the outbox", sqlite::unsent(&db.reads, after_seq, limit).await),
            Backend::Postgres(db) => db.read("read the outbox", postgres::unsent(&db.reads, after_seq, limit)).await,
        }
    }

    /// Timers whose time has come, longest due first. They stay until a commit clears them.
    pub async fn due_timers(&self, limit: u32) -> Result<Vec<Timer>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("read the timers", sqlite::due_timers(&db.reads, limit).await),
            Backend::Postgres(db) => db.read("read the timers", postgres::due_timers(&db.reads, limit)).await,
        }
    }

    /// Names of the timers that are set and begin so.
    pub async fn timer_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("read the timers", sqlite::timer_names(&db.reads, prefix).await),
            Backend::Postgres(db) => db.read("read the timers", postgres::timer_names(&db.reads, prefix)).await,
        }
    }

    /// How long until the next timer is due; zero where one is, `None` without timers.
    pub async fn next_timer_in(&self) -> Result<Option<Duration>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("read the timers", sqlite::next_timer_in(&db.reads).await),
            Backend::Postgres(db) => db.read("read the timers", postgres::next_timer_in(&db.reads)).await,
        }
    }

    /// How long until [`claim`](Self::claim) finds a job without any commit in between: zero where it would now,
    /// `None` where only a commit can change that.
    pub async fn next_job_in(&self) -> Result<Option<Duration>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("read the jobs", sqlite::next_job_in(&db.reads).await),
            Backend::Postgres(db) => db.read("read the jobs", postgres::next_job_in(&db.reads)).await,
        }
    }

    /// How much is waiting.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("count what waits", sqlite::counts(&db.reads).await),
            Backend::Postgres(db) => db.read("count what waits", postgres::counts(&db.reads)).await,
        }
    }

    /// A setting that [`set_meta`](Self::set_meta) wrote.
    pub async fn meta(&self, name: &str) -> Result<Option<String>, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.read("read a setting", sqlite::meta(&db.reads, name).await),
            Backend::Postgres(db) => db.read("read a setting", postgres::meta(&db.reads, name)).await,
        }
    }

    /// Makes everything in `commit` durable together, or changes nothing and says why.
    pub async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        self.write(commit).await
    }

    /// Takes up to `limit` jobs for `holder`, oldest first, and none of the kinds `held` but those that are to be stopped. Each
    /// counts an attempt and gets a token above all that were given before, to whichever job.
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
        self.write(Claim { holder: holder.to_owned(), lease, limit, running, held }).await
    }

    /// Holds a job for another `lease` from now.
    pub async fn renew(&self, job: &str, token: i64, lease: Duration) -> Result<Renewed, StoreError> {
        self.write(Renew { job: job.to_owned(), token, lease }).await
    }

    /// Asks that a job be stopped; the first reason stays. A waiting job becomes due at once, so that its bot can
    /// say that it was cancelled. `false`: there is no such job, or it has ended.
    pub async fn request_cancel(&self, job: &str, reason: &str) -> Result<bool, StoreError> {
        self.write(RequestCancel { job: job.to_owned(), reason: reason.to_owned() }).await
    }

    /// Forgets messages that the broker confirmed.
    pub async fn mark_sent(&self, seqs: Vec<i64>) -> Result<(), StoreError> {
        self.write(MarkSent { seqs }).await
    }

    /// Puts `instead` in the place of an undeliverable message. Does nothing where that is gone already.
    pub async fn remove_outgoing(&self, seq: i64, instead: Vec<Outgoing>) -> Result<(), StoreError> {
        self.write(RemoveOutgoing { seq, instead }).await
    }

    /// Notes, before a redelivered message is looked at, that work on it starts. Answers how often it was started
    /// without an outcome, this time included.
    pub async fn mark_started(&self, body_hash: &str) -> Result<u32, StoreError> {
        self.write(MarkStarted { body_hash: body_hash.to_owned() }).await
    }

    /// The message has an outcome.
    pub async fn clear_started(&self, body_hash: &str) -> Result<(), StoreError> {
        self.write(ClearStarted { body_hash: body_hash.to_owned() }).await
    }

    /// Keeps a small setting of the bot.
    pub async fn set_meta(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.write(SetMeta { name: name.to_owned(), instead_of: None, value: value.to_owned() }).await.map(|_| ())
    }

    /// Keeps a small setting of the bot where it is still `before`. `false`: it is another, and stays.
    pub async fn replace_meta(&self, name: &str, before: &str, value: &str) -> Result<bool, StoreError> {
        let instead_of = Some(before.to_owned());
        self.write(SetMeta { name: name.to_owned(), instead_of, value: value.to_owned() }).await
    }

    /// Whether `who` leads in `what` for `length` from now: what one of several replicas does for all. Whoever leads may
    /// lead on; for no time at all, it gives the lead back. Who alone has the store always leads.
    pub async fn lead(&self, what: &str, who: &str, length: Duration) -> Result<bool, StoreError> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(true),
            Backend::Postgres(db) => db.writes.write(Lead { what: what.to_owned(), who: who.to_owned(), length }).await,
        }
    }

    /// Writes `bytes` and takes them away again: whether the store has room for so much now.
    pub async fn try_room(&self, bytes: usize) -> Result<(), StoreError> {
        self.set_meta(ROOM_ROW, &"x".repeat(bytes)).await?;
        self.set_meta(ROOM_ROW, "").await
    }

    /// Deletes inbox rows and start marks untouched for `inbox_older_than`, and jobs that ended more than
    /// `ended_jobs_older_than` ago with their steps. Works in bounded batches, so that commits pass in between.
    /// Answers how many rows went, steps not counted.
    pub async fn prune(&self, inbox_older_than: Duration, ended_jobs_older_than: Duration) -> Result<u64, StoreError> {
        let mut total = 0;
        loop {
            let went = self.write(Prune { inbox_older_than, ended_jobs_older_than }).await?;
            total += went;
            if went == 0 {
                return Ok(total);
            }
        }
    }

    /// Woken after each commit that wrote messages. One wake-up is kept while nobody waits.
    pub fn outbox_changed(&self) -> &Notify {
        &self.signals().outbox
    }

    /// Woken after each commit that may have made a job free. One wake-up is kept while nobody waits.
    pub fn jobs_changed(&self) -> &Notify {
        &self.signals().jobs
    }

    /// Woken after each commit that set or cleared timers. One wake-up is kept while nobody waits.
    pub fn timers_changed(&self) -> &Notify {
        &self.signals().timers
    }

    /// Woken after someone asked that a running job be stopped. One wake-up is kept while nobody waits.
    pub fn cancels_changed(&self) -> &Notify {
        &self.signals().cancels
    }

    /// Transactions made durable since the store was opened; a metric. Fewer than the writes, since those share.
    pub fn commits_total(&self) -> u64 {
        self.signals().commits.load(Ordering::Relaxed)
    }

    async fn write<W: Apply<SqliteConnection> + Apply<PgConnection>>(&self, write: W) -> Result<W::Answer, StoreError> {
        match &self.backend {
            Backend::Sqlite(db) => db.writes.write(write).await,
            Backend::Postgres(db) => db.writes.write(write).await,
        }
    }

    fn signals(&self) -> &Signals {
        match &self.backend {
            Backend::Sqlite(db) => &db.signals,
            Backend::Postgres(db) => &db.signals,
        }
    }
}
