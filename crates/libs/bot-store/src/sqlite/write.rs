//! What the writer is asked to do: the trait of a single write, and its place in the queue with its answer.

use std::future::Future;
use std::pin::Pin;

use sqlx::SqliteConnection;
use tokio::sync::oneshot;

use crate::model::StoreError;

/// What a write may use: the one write connection inside a savepoint, and the transaction's time.
pub(super) struct Tx<'c> {
    pub(super) conn: &'c mut SqliteConnection,
    /// The database's clock at the start of the transaction.
    pub(super) now_ms: i64,
}

/// What a write changed. The default, nothing, is rolled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) wrote: bool,
    pub(super) outbox: bool,
    pub(super) jobs: bool,
    pub(super) timers: bool,
}

impl Change {
    /// Rows changed that nobody waits for.
    pub(super) const QUIET: Self = Self { wrote: true, outbox: false, jobs: false, timers: false };

    /// For writes that may find nothing to do.
    pub(super) fn if_any(rows: u64) -> Self {
        Self { wrote: rows > 0, ..Self::default() }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.wrote |= other.wrote;
        self.outbox |= other.outbox;
        self.jobs |= other.jobs;
        self.timers |= other.timers;
    }
}

/// One write. It may be applied more than once: a transaction that the database gave up is built again.
pub(super) trait Write: Send + Sync + 'static {
    /// What the caller learns.
    type Answer: Send + 'static;
    /// Completes "the store failed to …".
    const DOING: &'static str;

    /// Does it inside a savepoint, which is undone on an error and where nothing changed.
    fn apply(&self, tx: &mut Tx<'_>) -> impl Future<Output = Result<(Self::Answer, Change), sqlx::Error>> + Send;
}

type Applied<'a> = Pin<Box<dyn Future<Output = Result<Change, sqlx::Error>> + Send + 'a>>;

/// A [`Write`] of any kind, waiting together with the place its answer goes to.
pub(super) trait Queue: Send {
    /// Applies the write and keeps its answer.
    fn apply<'a>(&'a mut self, tx: &'a mut Tx<'_>) -> Applied<'a>;

    /// Completes "the store failed to …".
    fn doing(&self) -> &'static str;

    /// The transaction is durable: hands the answer over.
    fn succeed(self: Box<Self>);

    /// Nothing of this was written.
    fn fail(self: Box<Self>, error: StoreError);
}

/// A write, its answer once it has one, and who waits for it.
pub(super) struct Pending<W: Write> {
    write: W,
    answer: Option<W::Answer>,
    reply: oneshot::Sender<Result<W::Answer, StoreError>>,
}

impl<W: Write> Pending<W> {
    pub(super) fn new(write: W, reply: oneshot::Sender<Result<W::Answer, StoreError>>) -> Self {
        Self { write, answer: None, reply }
    }
}

impl<W: Write> Queue for Pending<W> {
    fn apply<'a>(&'a mut self, tx: &'a mut Tx<'_>) -> Applied<'a> {
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
