//! What goes into a store and what comes out: plain data, the same for every database.
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whose message: the proven publisher, the message's id, and which replay of it (0: the first).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InboxKey {
    /// Slug of the publisher that the exchange proves.
    pub publisher: String,
    /// `id` of the envelope.
    pub id: String,
    /// Raised by one for each replay that an operator orders.
    pub replay: u32,
}

/// What the inbox remembers of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxEntry {
    /// Hash over type and payload.
    pub content_hash: String,
    /// Whether it is settled; otherwise it waits for its next attempt.
    pub settled: bool,
    /// The attempt that is expected next (1: the first).
    pub attempt: u32,
}

/// What a commit writes into the inbox.
#[derive(Clone, Debug)]
pub struct InboxMark {
    /// Whose message.
    pub key: InboxKey,
    /// Hash over type and payload.
    pub content_hash: String,
    /// The attempt that this delivery was.
    pub attempt: u32,
    /// Settled, or to be tried again.
    pub settled: bool,
    /// If it is to be tried again: whether that is the next attempt (the stored one becomes `attempt + 1`) or, as this one
    /// was only put off, the same.
    pub counts: bool,
}

/// What a commit writes into an entity's state.
#[derive(Clone, Debug)]
pub struct StateWrite {
    /// The entity.
    pub key: String,
    /// The version that was read; 0 where there was none.
    pub expected_version: u64,
    /// The new document.
    pub value: Value,
}

/// A message on its way to the broker. `properties` is opaque to the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Where it is published to.
    pub exchange: String,
    /// With which key.
    pub routing_key: String,
    /// The bytes.
    pub body: Vec<u8>,
    /// Properties and headers.
    pub properties: Value,
    /// AMQP priority; higher goes first.
    pub priority: u8,
}

/// An outbox row that was not yet confirmed.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Its place; rises with time.
    pub seq: i64,
    /// The message.
    pub message: Outgoing,
}

/// A job to be run.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id, a `UUIDv7`.
    pub id: String,
    /// Which of the bot's jobs.
    pub kind: String,
    /// The entity it is about.
    pub key: String,
    /// No two jobs with the same exclusive key run at a time; oldest first.
    pub exclusive: Option<String>,
    /// How many of its key's jobs are claimed for one of a key of weight 1, while both wait. At least 1.
    pub weight: u32,
    /// What it needs to know.
    pub payload: Value,
    /// Correlation, causation, hop and trace context; opaque to the store.
    pub meta: Value,
}

/// A timer to be set; a timer of the same name is replaced.
#[derive(Clone, Debug)]
pub struct NewTimer {
    /// Unique in the bot.
    pub name: String,
    /// The entity whose state it is handled with.
    pub key: String,
    /// From now.
    pub after: Duration,
    /// What it needs to know.
    pub data: Value,
    /// Correlation, causation, hop and trace context; opaque to the store.
    pub meta: Value,
}

/// A timer that is due. It stays until a commit clears it by [`Guard::Timer`].
#[derive(Clone, Debug)]
pub struct Timer {
    /// Unique in the bot.
    pub name: String,
    /// Rises each time the name is set; a commit guards on it.
    pub generation: i64,
    /// The entity.
    pub key: String,
    /// What it needs to know.
    pub data: Value,
    /// Opaque to the store.
    pub meta: Value,
}

/// On what a commit depends, besides the state's version.
#[derive(Clone, Debug, Default)]
pub enum Guard {
    /// Nothing.
    #[default]
    None,
    /// The job is still held under this fencing token.
    Job {
        /// The job.
        id: String,
        /// Its token.
        token: i64,
    },
    /// The timer is still set; the commit clears it.
    Timer {
        /// The timer.
        name: String,
        /// Which setting of it.
        generation: i64,
    },
}

/// How a job's attempt ended.
#[derive(Clone, Debug)]
pub enum JobOutcome {
    /// It did what it was for, or gave up and said so.
    Ended(JobStatus),
    /// It is tried again after a while. `counts`: whether this was one of its attempts.
    Again {
        /// From now.
        after: Duration,
        /// Kept for people.
        error: String,
        /// `false` where the job was handed back in order (a graceful stop).
        counts: bool,
    },
}

/// What a commit does to the job it is guarded by.
#[derive(Clone, Debug)]
pub struct JobEnd {
    /// How the attempt ended.
    pub outcome: JobOutcome,
}

/// Everything that changes together, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// On what it depends.
    pub guard: Guard,
    /// The inbox.
    pub inbox: Option<InboxMark>,
    /// One entity's state.
    pub state: Option<StateWrite>,
    /// Messages to be sent.
    pub outbox: Vec<Outgoing>,
    /// Jobs to be run.
    pub jobs: Vec<NewJob>,
    /// Timers to be set.
    pub set_timers: Vec<NewTimer>,
    /// Timers to be cleared, by name.
    pub clear_timers: Vec<String>,
    /// Timers that become due now, by name; what is not set stays so.
    pub wake_timers: Vec<String>,
    /// A step of the guarded job: done once over all attempts. The value can be read back.
    pub step: Option<(String, Value)>,
    /// The end of the guarded job's attempt.
    pub job_end: Option<JobEnd>,
}

/// What became of a commit. Anything but `Done` changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is durable.
    Done,
    /// Another commit changed the state in between: read again, run again.
    Stale,
    /// The inbox has this message settled.
    Duplicate,
    /// The inbox has this key with other content.
    Conflict,
    /// A later attempt of this message is already expected.
    OldAttempt,
    /// The job was taken over, or the timer was set anew.
    Fenced,
    /// The step was done by an earlier attempt.
    StepDone,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Not taken.
    Waiting,
    /// Taken, under a lease.
    Running,
    /// Did what it was for.
    Done,
    /// Gave up, or was told that the answer is no.
    Failed,
    /// Someone stopped it.
    Cancelled,
    /// It took too long.
    TimedOut,
}

impl JobStatus {
    /// As in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }
}

/// A job that this process now holds.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Its id.
    pub id: String,
    /// Which of the bot's jobs.
    pub kind: String,
    /// The entity it is about.
    pub key: String,
    /// The key it excludes others by.
    pub exclusive: Option<String>,
    /// What it needs to know.
    pub payload: Value,
    /// Opaque to the store.
    pub meta: Value,
    /// 1 for the first.
    pub attempt: u32,
    /// Rises with every claim of any job of the store; every write of the job carries it.
    pub token: i64,
    /// Nobody has claimed the job before.
    pub is_first: bool,
    /// Milliseconds since it was created.
    pub age_ms: i64,
    /// Someone asked to stop it before it was taken.
    pub cancel: Option<String>,
}

/// What renewing a lease found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// Still ours; `cancel` says that someone asked to stop it, and why.
    Held {
        /// The reason.
        cancel: Option<String>,
    },
    /// Not ours any more.
    Lost,
}

/// A job with all that it was started with.
#[derive(Clone, Debug)]
pub struct KnownJob {
    /// Its id.
    pub id: String,
    /// Which of the bot's jobs.
    pub kind: String,
    /// The entity it is about.
    pub key: String,
    /// As in [`NewJob`].
    pub weight: u32,
    /// Where it is.
    pub status: JobStatus,
    /// What it needs to know.
    pub payload: Value,
    /// Opaque to the store.
    pub meta: Value,
}

/// A job as people see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobView {
    /// Its id.
    pub id: String,
    /// Which of the bot's jobs.
    pub kind: String,
    /// Where it is.
    pub status: JobStatus,
    /// How often it was taken.
    pub attempt: u32,
    /// What went wrong last.
    pub last_error: Option<String>,
}

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

/// The store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error(
        "the store in {dir} is in use by process {pid}: one process holds this folder; stop that one, or start this one with another folder, and with LOTA_STORE_URL where both are to be replicas of one bot"
    )]
    InUse {
        /// Its directory.
        dir: String,
        /// The holder, as far as the lock file says.
        pid: String,
    },
    /// No space, or the page limit is reached.
    #[error("the store in {dir} is full: free space there; nothing was written")]
    Full {
        /// Its directory, or its server.
        dir: String,
    },
    /// The directory cannot be used.
    #[error("the store's directory {dir} cannot be used: {why}")]
    Directory {
        /// It.
        dir: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The database said no.
    #[error("the store failed to {doing}: {source}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: sqlx::Error,
    },
    /// The server does not answer, or the connection to it was lost.
    #[error("the store's PostgreSQL at {server} cannot be reached: {why}")]
    Unreachable {
        /// Host, port and database.
        server: String,
        /// What happened.
        why: String,
    },
    /// The server answers, and does not let this bot in.
    #[error("the store's PostgreSQL at {server} refuses this bot: {why}")]
    Refused {
        /// Host, port and database.
        server: String,
        /// What it said, and what to do.
        why: String,
    },
    /// The store was closed.
    #[error("the store is closed: the bot is stopping")]
    Closed,
}
