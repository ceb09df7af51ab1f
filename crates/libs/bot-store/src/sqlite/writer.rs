//! The one task that writes: what waits is applied together, each in its savepoint, and answered once it is durable.

use std::sync::Arc;

use sqlx::{Connection as _, SqliteConnection};

use super::Tx;
use super::value::{NOW_MS, store_error};
use crate::directory::Lock;
use crate::line::{BATCH_MAX, Receiver};
use crate::model::StoreError;
use crate::operation::{Change, Failed, answer};
use crate::signals::Signals;
use crate::value::repeat;

type Batch = crate::operation::Batch<SqliteConnection>;

/// Why a transaction did not become durable.
enum Lost {
    /// Everyone in it is told.
    All(StoreError),
    /// The database gave the whole transaction up at this write; the others can be applied again without it.
    At(usize, StoreError),
}

/// Holds the write connection, and the lock for as long as that is open.
pub(super) struct Writer {
    pub(super) name: Arc<str>,
    pub(super) conn: SqliteConnection,
    pub(super) signals: Arc<Signals>,
    pub(super) lock: Lock,
}

impl Writer {
    /// Works until every sender is gone, then closes the files and gives the lock back.
    pub(super) async fn run(mut self, mut queue: Receiver<SqliteConnection>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.write(std::mem::take(&mut batch)).await;
        }
        if let Err(error) = self.conn.close().await {
            tracing::warn!(store = %self.name, %error, "the store's files did not close cleanly");
        }
        drop(self.lock);
    }

    /// Writes the batch in one transaction. Where only less of it fits on the disk it is halved until what fits is
    /// written: the write that frees space may be among those that ask for more.
    async fn write(&mut self, batch: Batch) {
        let mut waiting = vec![batch];
        while let Some(mut batch) = waiting.pop() {
            match self.transact(&mut batch).await {
                Ok((change, failed)) => {
                    self.signals.committed(change);
                    answer(batch, failed);
                }
                Err(Lost::At(index, error)) => {
                    batch.remove(index).fail(error);
                    waiting.push(batch);
                }
                Err(Lost::All(StoreError::Full { .. })) if batch.len() > 1 => {
                    let later = batch.split_off(batch.len() / 2);
                    waiting.extend([later, batch]);
                }
                Err(Lost::All(error)) => {
                    for pending in batch {
                        pending.fail(repeat(&error));
                    }
                }
            }
        }
    }

    /// One transaction around the batch. Answers what changed, and the writes that failed alone.
    async fn transact(&mut self, batch: &mut Batch) -> Result<(Change, Failed), Lost> {
        let result = match self.begin_and_apply(batch).await {
            Ok(applied) => match self.run_sql("COMMIT").await {
                Ok(()) => return Ok(applied),
                Err(source) => Err(Lost::All(self.error("make a transaction durable", source))),
            },
            Err(lost) => Err(lost),
        };
        // Fails where the database rolled back by itself; either way nothing is left open.
        let _ = self.run_sql("ROLLBACK").await;
        result
    }

    async fn begin_and_apply(&mut self, batch: &mut Batch) -> Result<(Change, Failed), Lost> {
        let begun = self.run_sql("BEGIN IMMEDIATE").await;
        begun.map_err(|source| Lost::All(self.error("begin a transaction", source)))?;
        let now_ms = sqlx::query_scalar(NOW_MS).fetch_one(&mut self.conn).await;
        let now_ms = now_ms.map_err(|source| Lost::All(self.error("read the clock", source)))?;
        let mut all = Change::default();
        let mut failed = Vec::new();
        for (index, pending) in batch.iter_mut().enumerate() {
            let entered = self.run_sql("SAVEPOINT one").await;
            entered.map_err(|source| Lost::All(self.error("begin a savepoint", source)))?;
            let applied = pending.apply(&mut Tx { conn: &mut self.conn, now_ms }).await;
            let keep = applied.as_ref().is_ok_and(|change| change.wrote);
            let left = self.leave_savepoint(keep).await;
            match (applied, left) {
                (Ok(change), Ok(())) => all.merge(change),
                (Err(source), Ok(())) => failed.push((index, self.error(pending.doing(), source))),
                // On some errors, a full disk among them, SQLite ends the whole transaction, savepoints included.
                (Err(source), Err(_)) | (Ok(_), Err(source)) => {
                    return Err(Lost::At(index, self.error(pending.doing(), source)));
                }
            }
        }
        Ok((all, failed))
    }

    async fn leave_savepoint(&mut self, keep: bool) -> Result<(), sqlx::Error> {
        if !keep {
            self.run_sql("ROLLBACK TO one").await?;
        }
        self.run_sql("RELEASE one").await
    }

    async fn run_sql(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&mut self.conn).await.map(|_| ())
    }

    fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        store_error(&self.name, doing, source)
    }
}
