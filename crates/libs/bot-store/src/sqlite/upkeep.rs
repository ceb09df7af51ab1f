//! The smaller writes: what became of messages, start marks, settings, and throwing old rows away.

use std::time::Duration;

use super::value::{millis, to_json};
use super::write::{Change, Tx, Write};
use crate::model::Outgoing;

/// The most rows that one pruning step deletes from each table; others commit between the steps.
const PRUNE_ROWS_MAX: i64 = 500;

/// Adds a message at the end of the outbox.
pub(super) async fn insert_outgoing(tx: &mut Tx<'_>, message: &Outgoing) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO outbox (exchange, routing_key, priority, properties, body) VALUES (?, ?, ?, ?, ?)")
        .bind(&message.exchange)
        .bind(&message.routing_key)
        .bind(message.priority)
        .bind(to_json(&message.properties))
        .bind(&message.body[..])
        .execute(&mut *tx.conn)
        .await?;
    Ok(())
}

async fn delete_outgoing(tx: &mut Tx<'_>, seq: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query("DELETE FROM outbox WHERE seq = ?").bind(seq).execute(&mut *tx.conn).await?;
    Ok(done.rows_affected())
}

/// Messages that the broker has.
pub(super) struct MarkSent {
    pub(super) seqs: Vec<i64>,
}

impl Write for MarkSent {
    type Answer = ();
    const DOING: &'static str = "forget sent messages";

    async fn apply(&self, tx: &mut Tx<'_>) -> Result<((), Change), sqlx::Error> {
        let mut rows = 0;
        for seq in &self.seqs {
            rows += delete_outgoing(tx, *seq).await?;
        }
        Ok(((), Change::if_any(rows)))
    }
}

/// A message that cannot be delivered, and what is said about it.
pub(super) struct RemoveOutgoing {
    pub(super) seq: i64,
    pub(super) instead: Vec<Outgoing>,
}

impl Write for RemoveOutgoing {
    type Answer = ();
    const DOING: &'static str = "replace an undeliverable message";

    async fn apply(&self, tx: &mut Tx<'_>) -> Result<((), Change), sqlx::Error> {
        // Gone already: sent after all, or replaced by an earlier call. A dead letter would be one too many.
        if delete_outgoing(tx, self.seq).await? == 0 {
            return Ok(((), Change::default()));
        }
        for message in &self.instead {
            insert_outgoing(tx, message).await?;
        }
        Ok(((), Change { outbox: !self.instead.is_empty(), ..Change::QUIET }))
    }
}

/// Work on a redelivered message begins.
pub(super) struct MarkStarted {
    pub(super) body_hash: String,
}

impl Write for MarkStarted {
    type Answer = u32;
    const DOING: &'static str = "note that a message is started";

    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(u32, Change), sqlx::Error> {
        let starts = sqlx::query_scalar(
            "INSERT INTO started (body_hash, starts, last_at_ms) VALUES (?, 1, ?)
             ON CONFLICT (body_hash) DO UPDATE SET starts = starts + 1, last_at_ms = excluded.last_at_ms
             RETURNING starts",
        )
        .bind(&self.body_hash)
        .bind(tx.now_ms)
        .fetch_one(&mut *tx.conn)
        .await?;
        Ok((starts, Change::QUIET))
    }
}

/// Work on a message had an outcome.
pub(super) struct ClearStarted {
    pub(super) body_hash: String,
}

impl Write for ClearStarted {
    type Answer = ();
    const DOING: &'static str = "forget that a message was started";

    async fn apply(&self, tx: &mut Tx<'_>) -> Result<((), Change), sqlx::Error> {
        let sql = "DELETE FROM started WHERE body_hash = ?";
        let done = sqlx::query(sql).bind(&self.body_hash).execute(&mut *tx.conn).await?;
        Ok(((), Change::if_any(done.rows_affected())))
    }
}

/// A small setting of the bot.
pub(super) struct SetMeta {
    pub(super) name: String,
    pub(super) value: String,
}

impl Write for SetMeta {
    type Answer = ();
    const DOING: &'static str = "keep a setting";

    async fn apply(&self, tx: &mut Tx<'_>) -> Result<((), Change), sqlx::Error> {
        let sql = "INSERT INTO meta (name, value) VALUES (?, ?)
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(sql).bind(&self.name).bind(&self.value).execute(&mut *tx.conn).await?;
        Ok(((), Change::QUIET))
    }
}

/// One step of throwing old rows away.
pub(super) struct Prune {
    pub(super) inbox_older_than: Duration,
    pub(super) ended_jobs_older_than: Duration,
}

impl Write for Prune {
    type Answer = u64;
    const DOING: &'static str = "throw old rows away";

    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(u64, Change), sqlx::Error> {
        let inbox_before = tx.now_ms - millis(self.inbox_older_than);
        let jobs_before = tx.now_ms - millis(self.ended_jobs_older_than);
        let steps = [
            (
                "DELETE FROM inbox WHERE (publisher, id, replay) IN
                     (SELECT publisher, id, replay FROM inbox WHERE seen_at_ms < ? ORDER BY seen_at_ms LIMIT ?)",
                inbox_before,
            ),
            (
                "DELETE FROM started WHERE body_hash IN
                     (SELECT body_hash FROM started WHERE last_at_ms < ? ORDER BY last_at_ms LIMIT ?)",
                inbox_before,
            ),
            (
                "DELETE FROM jobs WHERE position IN
                     (SELECT position FROM jobs WHERE ended_at_ms < ? ORDER BY ended_at_ms LIMIT ?)",
                jobs_before,
            ),
        ];
        let mut rows = 0;
        for (sql, before) in steps {
            let done = sqlx::query(sql).bind(before).bind(PRUNE_ROWS_MAX).execute(&mut *tx.conn).await?;
            rows += done.rows_affected();
        }
        Ok((rows, Change::if_any(rows)))
    }
}
