//! The smaller writes: what became of messages, start marks, settings, and throwing old rows away.

use sqlx::SqliteConnection;

use super::Tx;
use crate::model::Outgoing;
use crate::operation::{Apply, Change, ClearStarted, MarkSent, MarkStarted, Prune, RemoveOutgoing, SetMeta};
use crate::value::{PRUNE_ROWS_MAX, millis, to_json};

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

impl Apply<SqliteConnection> for MarkSent {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<((), Change), sqlx::Error> {
        let mut rows = 0;
        for seq in &self.seqs {
            rows += delete_outgoing(tx, *seq).await?;
        }
        Ok(((), Change::if_any(rows)))
    }
}

impl Apply<SqliteConnection> for RemoveOutgoing {
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

impl Apply<SqliteConnection> for MarkStarted {
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

impl Apply<SqliteConnection> for ClearStarted {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<((), Change), sqlx::Error> {
        let sql = "DELETE FROM started WHERE body_hash = ?";
        let done = sqlx::query(sql).bind(&self.body_hash).execute(&mut *tx.conn).await?;
        Ok(((), Change::if_any(done.rows_affected())))
    }
}

impl Apply<SqliteConnection> for SetMeta {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(bool, Change), sqlx::Error> {
        let query = match &self.instead_of {
            None => sqlx::query(
                "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            ),
            Some(_) => sqlx::query("UPDATE meta SET value = ?2 WHERE name = ?1 AND value = ?3"),
        };
        let bound = query.bind(&self.name).bind(&self.value);
        let bound = match &self.instead_of {
            None => bound,
            Some(before) => bound.bind(before),
        };
        let written = bound.execute(&mut *tx.conn).await?.rows_affected();
        Ok((written > 0, Change::if_any(written)))
    }
}

impl Apply<SqliteConnection> for Prune {
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
