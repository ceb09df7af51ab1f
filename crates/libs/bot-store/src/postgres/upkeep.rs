//! The smaller writes: what became of messages, start marks, settings, and throwing old rows away.

use sqlx::PgConnection;

use super::Tx;
use super::value::text;
use crate::model::Outgoing;
use crate::operation::{Apply, Change, ClearStarted, Lead, MarkSent, MarkStarted, Prune, RemoveOutgoing, SetMeta};
use crate::value::{PRUNE_ROWS_MAX, millis, to_json};

/// Adds a message at the end of the outbox.
pub(super) async fn insert_outgoing(tx: &mut Tx<'_>, message: &Outgoing) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO outbox (exchange, routing_key, priority, properties, body) VALUES ($1, $2, $3, $4, $5)")
        .bind(text(&message.exchange))
        .bind(text(&message.routing_key))
        .bind(i64::from(message.priority))
        .bind(to_json(&message.properties))
        .bind(&message.body[..])
        .execute(&mut *tx.conn)
        .await?;
    Ok(())
}

async fn delete_outgoing(tx: &mut Tx<'_>, seq: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query("DELETE FROM outbox WHERE seq = $1").bind(seq).execute(&mut *tx.conn).await?;
    Ok(done.rows_affected())
}

impl Apply<PgConnection> for MarkSent {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<((), Change), sqlx::Error> {
        let mut rows = 0;
        for seq in &self.seqs {
            rows += delete_outgoing(tx, *seq).await?;
        }
        Ok(((), Change::if_any(rows)))
    }
}

impl Apply<PgConnection> for RemoveOutgoing {
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

impl Apply<PgConnection> for MarkStarted {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(u32, Change), sqlx::Error> {
        let starts: i64 = sqlx::query_scalar(
            "INSERT INTO started (body_hash, starts, last_at_ms) VALUES ($1, 1, $2)
             ON CONFLICT (body_hash) DO UPDATE SET starts = started.starts + 1, last_at_ms = excluded.last_at_ms
             RETURNING starts",
        )
        .bind(text(&self.body_hash))
        .bind(tx.now_ms)
        .fetch_one(&mut *tx.conn)
        .await?;
        Ok((u32::try_from(starts).unwrap_or(u32::MAX), Change::QUIET))
    }
}

impl Apply<PgConnection> for ClearStarted {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<((), Change), sqlx::Error> {
        let sql = "DELETE FROM started WHERE body_hash = $1";
        let done = sqlx::query(sql).bind(text(&self.body_hash)).execute(&mut *tx.conn).await?;
        Ok(((), Change::if_any(done.rows_affected())))
    }
}

impl Apply<PgConnection> for SetMeta {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(bool, Change), sqlx::Error> {
        let query = match &self.instead_of {
            None => sqlx::query(
                "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            ),
            Some(_) => sqlx::query("UPDATE meta SET value = $2 WHERE name = $1 AND value = $3"),
        };
        let bound = query.bind(text(&self.name)).bind(text(&self.value));
        let bound = match &self.instead_of {
            None => bound,
            Some(before) => bound.bind(text(before)),
        };
        let written = bound.execute(&mut *tx.conn).await?.rows_affected();
        Ok((written > 0, Change::if_any(written)))
    }
}

impl Apply<PgConnection> for Lead {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(bool, Change), sqlx::Error> {
        let done = sqlx::query(
            "INSERT INTO leads (what, who, until_ms) VALUES ($1, $2, $3)
             ON CONFLICT (what) DO UPDATE SET who = excluded.who, until_ms = excluded.until_ms
             WHERE leads.who = excluded.who OR leads.until_ms <= $4",
        )
        .bind(text(&self.what))
        .bind(text(&self.who))
        .bind(tx.now_ms + millis(self.length))
        .bind(tx.now_ms)
        .execute(&mut *tx.conn)
        .await?;
        Ok((done.rows_affected() > 0, Change::if_any(done.rows_affected())))
    }
}

impl Apply<PgConnection> for Prune {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(u64, Change), sqlx::Error> {
        let inbox_before = tx.now_ms - millis(self.inbox_older_than);
        let jobs_before = tx.now_ms - millis(self.ended_jobs_older_than);
        let steps = [
            (
                "DELETE FROM inbox WHERE (publisher, id, replay) IN
                     (SELECT publisher, id, replay FROM inbox WHERE seen_at_ms < $1 ORDER BY seen_at_ms LIMIT $2)",
                inbox_before,
            ),
            (
                "DELETE FROM started WHERE body_hash IN
                     (SELECT body_hash FROM started WHERE last_at_ms < $1 ORDER BY last_at_ms LIMIT $2)",
                inbox_before,
            ),
            (
                "DELETE FROM jobs WHERE position IN
                     (SELECT position FROM jobs WHERE ended_at_ms < $1 ORDER BY ended_at_ms LIMIT $2)",
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
