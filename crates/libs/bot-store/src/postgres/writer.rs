//! The one task of this process that writes: what waits is applied together, each in its savepoint, and answered once it is
//! durable. Among the processes of a bot, the holder of one lock writes.

use std::sync::Arc;

use bot_secrets::Secret;
use sqlx::{Connection as _, PgConnection, PgPool};

use super::options::{Server, is_collision, is_lost};
use super::value::NOW_MS;
use super::{ANSWER_MAX, Tx};
use crate::directory::Lock;
use crate::line::{BATCH_MAX, Receiver};
use crate::model::StoreError;
use crate::operation::{Change, Failed, answer};
use crate::signals::Signals;
use crate::value::repeat;

type Batch = crate::operation::Batch<PgConnection>;

/// A table lock of the bot's own schema: an advisory lock could be held by anyone with a login. It conflicts with itself
/// and lets others read; it is given back with the end of the transaction, after what that wrote is seen.
pub(super) const TAKE_TURN: &str = "LOCK TABLE one_writer IN EXCLUSIVE MODE";
/// How often a transaction is begun that collided, or whose connection had gone before it was committed.
const TRIES: u32 = 4;

/// Why a transaction did not become durable.
enum Lost {
    /// Nothing of it can have been written: it may be tried again.
    Before(StoreError),
    /// It may have been written.
    AtTheEnd(StoreError),
}

/// Holds the connection that writes, and the folder's lock.
pub(super) struct Writer {
    server: Arc<Server>,
    /// `None` after it was lost.
    conn: Option<PgConnection>,
    /// Its password is another after a rotation.
    reads: PgPool,
    signals: Arc<Signals>,
    name: String,
    lock: Lock,
}

impl Writer {
    pub(super) fn new(
        server: Arc<Server>,
        conn: PgConnection,
        reads: PgPool,
        signals: Arc<Signals>,
        lock: Lock,
    ) -> Self {
        let name = Secret::random(16).expose().to_owned();
        Self { server, conn: Some(conn), reads, signals, name, lock }
    }

    /// Unique among the bot's processes; told with what they tell each other.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Works until every sender is gone, then closes the connection and gives the folder's lock back.
    pub(super) async fn run(mut self, mut queue: Receiver<PgConnection>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.write(std::mem::take(&mut batch)).await;
        }
        if let Some(conn) = self.conn.take()
            && let Err(error) = conn.close().await
        {
            tracing::debug!(store = %self.server.place(), %error, "the connection did not close cleanly");
        }
        drop(self.lock);
    }

    async fn write(&mut self, mut batch: Batch) {
        let mut tries = 0;
        let error = loop {
            tries += 1;
            // A transaction that takes too long is dropped together with its connection.
            let lost = match tokio::time::timeout(ANSWER_MAX, self.transact(&mut batch)).await {
                Ok(Ok((change, failed))) => {
                    self.signals.committed(change);
                    return answer(batch, failed);
                }
                Ok(Err(lost)) => lost,
                Err(_) => Lost::AtTheEnd(self.server.silent()),
            };
            match lost {
                Lost::Before(error) if tries < TRIES => {
                    tracing::debug!(store = %self.server.place(), %error, "a transaction is begun again");
                }
                Lost::Before(error) | Lost::AtTheEnd(error) => break error,
            }
        };
        for pending in batch {
            pending.fail(repeat(&error));
        }
    }

    /// One transaction around the batch. The connection is kept only where it is known to be clean.
    async fn transact(&mut self, batch: &mut Batch) -> Result<(Change, Failed), Lost> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            // The server is not there: to try at once again would help nobody.
            None => self.connect().await.map_err(Lost::AtTheEnd)?,
        };
        let applied = self.begin_and_apply(&mut conn, batch).await;
        match applied {
            Ok((change, failed)) => {
                let end = if change.wrote { "COMMIT" } else { "ROLLBACK" };
                let ended = sqlx::query(end).execute(&mut conn).await;
                ended.map_err(|source| Lost::AtTheEnd(self.server.error("make a transaction durable", source)))?;
                self.conn = Some(conn);
                Ok((change, failed))
            }
            Err((doing, source)) => {
                let again = is_lost(&source) || is_collision(&source);
                if sqlx::query("ROLLBACK").execute(&mut conn).await.is_ok() {
                    self.conn = Some(conn);
                }
                let error = self.server.error(doing, source);
                Err(if again { Lost::Before(error) } else { Lost::AtTheEnd(error) })
            }
        }
    }

    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let conn = self.server.connect().await?;
        self.reads.set_connect_options(self.server.connecting()?);
        Ok(conn)
    }

    async fn begin_and_apply(
        &self,
        conn: &mut PgConnection,
        batch: &mut Batch,
    ) -> Result<(Change, Failed), (&'static str, sqlx::Error)> {
        let begin = |source| ("begin a transaction", source);
        run(conn, "BEGIN").await.map_err(begin)?;
        run(conn, TAKE_TURN).await.map_err(begin)?;
        let now_ms = sqlx::query_scalar(NOW_MS).fetch_one(&mut *conn).await.map_err(begin)?;
        let alone = batch.len() == 1;
        let (mut all, mut failed) = (Change::default(), Vec::new());
        for (index, pending) in batch.iter_mut().enumerate() {
            if !alone {
                run(conn, "SAVEPOINT one").await.map_err(begin)?;
            }
            let applied = pending.apply(&mut Tx { conn, now_ms }).await;
            let doing = pending.doing();
            if !alone {
                let keep = applied.as_ref().is_ok_and(|change| change.wrote);
                leave_savepoint(conn, keep).await.map_err(|source| (doing, source))?;
            }
            match applied {
                Ok(change) => all.merge(change),
                Err(source) if is_lost(&source) || is_collision(&source) => return Err((doing, source)),
                Err(source) => failed.push((index, self.server.error(doing, source))),
            }
        }
        self.tell(conn, all).await.map_err(begin)?;
        Ok((all, failed))
    }

    /// Has the other replicas told, if the transaction becomes durable.
    async fn tell(&self, conn: &mut PgConnection, change: Change) -> Result<(), sqlx::Error> {
        let words = super::listen::words(change);
        if change.wrote && !words.is_empty() {
            sqlx::query("SELECT pg_notify($1, $2)")
                .bind(self.server.options.channel())
                .bind(format!("{} {words}", self.name))
                .execute(conn)
                .await?;
        }
        Ok(())
    }
}

async fn run(conn: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(conn).await.map(|_| ())
}

async fn leave_savepoint(conn: &mut PgConnection, keep: bool) -> Result<(), sqlx::Error> {
    if !keep {
        run(conn, "ROLLBACK TO one").await?;
    }
    run(conn, "RELEASE one").await
}
