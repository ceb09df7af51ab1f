//! The writes that a store is asked for, as data; and their place in the queue to the one task that writes. What each does
//! in a database is said beside that database's other SQL.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::model::{Claimed, Commit, Committed, Outgoing, Renewed, StoreError};

/// What a write may use: the one write connection inside a savepoint, and the transaction's time.
pub(crate) struct Tx<'c, C> {
    pub(crate) conn: &'c mut C,
    /// The database's clock at the start of the transaction.
    pub(crate) now_ms: i64,
}

/// What a write changed. The default, nothing, is rolled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) wrote: bool,
    pub(crate) outbox: bool,
    pub(crate) jobs: bool,
    pub(crate) timers: bool,
    pub(crate) cancels: bool,
}

impl Change {
    /// Rows changed that nobody waits for.
    pub(crate) const QUIET: Self = Self { wrote: true, outbox: false, jobs: false, timers: false, cancels: false };

    /// For writes that may find nothing to do.
    pub(crate) fn if_any(rows: u64) -> Self {
        Self { wrote: rows > 0, ..Self::default() }
    }

    /// What a commit that was done changed.
    pub(crate) fn of(commit: &Commit) -> Self {
        let guarded_timer = matches!(commit.guard, crate::model::Guard::Timer { .. });
        Self {
            wrote: true,
            outbox: !commit.outbox.is_empty(),
            // An ended job also frees its exclusive key for the next.
            jobs: !commit.jobs.is_empty() || commit.job_end.is_some(),
            timers: guarded_timer
                || !(commit.set_timers.is_empty() && commit.clear_timers.is_empty() && commit.wake_timers.is_empty()),
            cancels: false,
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.wrote |= other.wrote;
        self.outbox |= other.outbox;
        self.jobs |= other.jobs;
        self.timers |= other.timers;
        self.cancels |= other.cancels;
    }
}

/// One write.
pub(crate) trait Operation: Send + Sync + 'static {
    /// What the caller learns.
    type Answer: Send + 'static;
    /// Completes "the store failed to …".
    const DOING: &'static str;
}

/// How a write is done over a connection of kind `C`. It may be done more than once: a transaction that the database gave
/// up is built again.
pub(crate) trait Apply<C>: Operation {
    /// Does it inside a savepoint, which is undone on an error and where nothing changed.
    fn apply(&self, tx: &mut Tx<'_, C>) -> impl Future<Output = Result<(Self::Answer, Change), sqlx::Error>> + Send;
}

type Applied<'a> = Pin<Box<dyn Future<Output = Result<Change, sqlx::Error>> + Send + 'a>>;

/// A write of any kind, waiting together with the place its answer goes to.
pub(crate) trait Queue<C>: Send {
    /// Applies the write and keeps its answer.
    fn apply<'a>(&'a mut self, tx: &'a mut Tx<'_, C>) -> Applied<'a>;

    /// Completes "the store failed to …".
    fn doing(&self) -> &'static str;

    /// The transaction is durable: hands the answer over.
    fn succeed(self: Box<Self>);

    /// Nothing of this was written, as far as is known.
    fn fail(self: Box<Self>, error: StoreError);
}

/// Writes that share a transaction.
pub(crate) type Batch<C> = Vec<Box<dyn Queue<C>>>;

/// Writes that failed alone, by their place in the batch, rising.
pub(crate) type Failed = Vec<(usize, StoreError)>;

/// Tells each write of a durable transaction what became of it.
pub(crate) fn answer<C>(batch: Batch<C>, failed: Failed) {
    let mut failed = failed.into_iter().peekable();
    for (index, pending) in batch.into_iter().enumerate() {
        match failed.next_if(|(at, _)| *at == index) {
            Some((_, error)) => pending.fail(error),
            None => pending.succeed(),
        }
    }
}

/// A write, its answer once it has one, and who waits for it.
pub(crate) struct Pending<W: Operation> {
    write: W,
    answer: Option<W::Answer>,
    reply: oneshot::Sender<Result<W::Answer, StoreError>>,
}

impl<W: Operation> Pending<W> {
    pub(crate) fn new(write: W, reply: oneshot::Sender<Result<W::Answer, StoreError>>) -> Self {
        Self { write, answer: None, reply }
    }
}

impl<C: Send, W: Apply<C>> Queue<C> for Pending<W> {
    fn apply<'a>(&'a mut self, tx: &'a mut Tx<'_, C>) -> Applied<'a> {
        Box::pin(async move {
            let (answer, change) = self.write.apply(tx).await?;
            self.answer = Some(answer);
            Ok(change)
        })
    }

    fn doing(&self) -> &'static str {
        W::DOING
    }

    fn succeed(self: Box<Self>) {
        // A caller that went away has nothing to be told; its write stands.
        if let Some(answer) = self.answer {
            let _ = self.reply.send(Ok(answer));
        }
    }

    fn fail(self: Box<Self>, error: StoreError) {
        let _ = self.reply.send(Err(error));
    }
}

impl Operation for Commit {
    type Answer = Committed;
    const DOING: &'static str = "commit";
}

/// Takes free jobs: first those whose lease ran out, then key by key in turn.
pub(crate) struct Claim {
    pub(crate) holder: String,
    pub(crate) lease: Duration,
    pub(crate) limit: u32,
    /// Jobs that the holder still runs, whose leases it may have failed to renew.
    pub(crate) running: Vec<String>,
    /// Kinds of which none is taken, but what someone wants to be stopped.
    pub(crate) held: Vec<String>,
}

impl Operation for Claim {
    type Answer = Vec<Claimed>;
    const DOING: &'static str = "claim jobs";
}

/// Holds a job for longer.
pub(crate) struct Renew {
    pub(crate) job: String,
    pub(crate) token: i64,
    pub(crate) lease: Duration,
}

impl Operation for Renew {
    type Answer = Renewed;
    const DOING: &'static str = "renew a lease";
}

/// Asks for a job to be stopped.
pub(crate) struct RequestCancel {
    pub(crate) job: String,
    pub(crate) reason: String,
}

impl Operation for RequestCancel {
    type Answer = bool;
    const DOING: &'static str = "ask for a job to be stopped";
}

/// Messages that the broker has.
pub(crate) struct MarkSent {
    pub(crate) seqs: Vec<i64>,
}

impl Operation for MarkSent {
    type Answer = ();
    const DOING: &'static str = "forget sent messages";
}

/// A message that cannot be delivered, and what is said about it.
pub(crate) struct RemoveOutgoing {
    pub(crate) seq: i64,
    pub(crate) instead: Vec<Outgoing>,
}

impl Operation for RemoveOutgoing {
    type Answer = ();
    const DOING: &'static str = "replace an undeliverable message";
}

/// Work on a redelivered message begins.
pub(crate) struct MarkStarted {
    pub(crate) body_hash: String,
}

impl Operation for MarkStarted {
    type Answer = u32;
    const DOING: &'static str = "note that a message is started";
}

/// Work on a message had an outcome.
pub(crate) struct ClearStarted {
    pub(crate) body_hash: String,
}

impl Operation for ClearStarted {
    type Answer = ();
    const DOING: &'static str = "forget that a message was started";
}

/// A small setting of the bot.
pub(crate) struct SetMeta {
    pub(crate) name: String,
    /// Written only where this is there.
    pub(crate) instead_of: Option<String>,
    pub(crate) value: String,
}

impl Operation for SetMeta {
    type Answer = bool;
    const DOING: &'static str = "keep a setting";
}

/// What one of several replicas does for all, and which.
pub(crate) struct Lead {
    pub(crate) what: String,
    pub(crate) who: String,
    pub(crate) length: Duration,
}

impl Operation for Lead {
    type Answer = bool;
    const DOING: &'static str = "settle who leads";
}

/// One step of throwing old rows away.
pub(crate) struct Prune {
    pub(crate) inbox_older_than: Duration,
    pub(crate) ended_jobs_older_than: Duration,
}

impl Operation for Prune {
    type Answer = u64;
    const DOING: &'static str = "throw old rows away";
}

/// What no runtime should ask for is said, not silently left out.
pub(crate) fn check_shape(commit: &Commit) -> Result<(), sqlx::Error> {
    use crate::model::{Guard, JobEnd, JobOutcome, JobStatus};
    let misuse = |what: &str| Err(sqlx::Error::InvalidArgument(what.to_owned()));
    let held = matches!(commit.guard, Guard::Job { .. });
    if !held && (commit.step.is_some() || commit.job_end.is_some()) {
        return misuse("a commit with a job's step or end needs the guard of that job");
    }
    let Some(JobEnd { outcome: JobOutcome::Ended(status) }) = &commit.job_end else {
        return Ok(());
    };
    if matches!(status, JobStatus::Waiting | JobStatus::Running) {
        return misuse("a job cannot end as waiting or running: JobOutcome::Again hands it back");
    }
    Ok(())
}
