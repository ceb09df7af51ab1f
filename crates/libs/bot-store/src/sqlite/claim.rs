//! Jobs between being written and ending: who holds them, until when, and whether they should stop.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqlitePool};

use super::value::{json, millis, to_json, until};
use super::write::{Change, Tx, Write};
use crate::model::{Claimed, Renewed};

/// Takes free jobs.
pub(super) struct Claim {
    pub(super) holder: String,
    pub(super) lease: Duration,
    pub(super) limit: u32,
    /// Jobs that the holder still runs, whose leases it may have failed to renew.
    pub(super) running: Vec<String>,
}

impl Write for Claim {
    type Answer = Vec<Claimed>;
    const DOING: &'static str = "claim jobs";

    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(Self::Answer, Change), sqlx::Error> {
        // A running job whose lease ran out already holds its exclusive key, so only waiting ones are compared.
        let rows = sqlx::query(
            "UPDATE jobs SET status = 'running', holder = ?1, lease_until_ms = ?2 + ?3,
                    attempt = attempt + 1, token = token + 1
             WHERE position IN (
                 SELECT position FROM jobs AS job WHERE status = 'waiting' AND not_before_ms <= ?2
                     AND NOT EXISTS (SELECT 1 FROM jobs AS other
                         WHERE other.exclusive = job.exclusive AND other.status = 'running')
                     AND NOT EXISTS (SELECT 1 FROM jobs AS other
                         WHERE other.exclusive = job.exclusive AND other.status = 'waiting'
                           AND other.position < job.position)
                 UNION ALL
                 SELECT position FROM jobs WHERE status = 'running' AND lease_until_ms < ?2
                     AND id NOT IN (SELECT value FROM json_each(?5))
                 ORDER BY position LIMIT ?4)
             RETURNING position, id, kind, key, exclusive, payload, meta, attempt, token, cancel,
                 ?2 - created_at_ms AS age_ms",
        )
        .bind(&self.holder)
        .bind(tx.now_ms)
        .bind(millis(self.lease))
        .bind(self.limit)
        .bind(to_json(&self.running.as_slice().into()))
        .fetch_all(&mut *tx.conn)
        .await?;
        // RETURNING promises no order.
        let mut claimed = rows.iter().map(claimed).collect::<Result<Vec<_>, _>>()?;
        claimed.sort_by_key(|(position, _)| *position);
        let change = Change::if_any(claimed.len() as u64);
        Ok((claimed.into_iter().map(|(_, job)| job).collect(), change))
    }
}

fn claimed(row: &SqliteRow) -> Result<(i64, Claimed), sqlx::Error> {
    let job = Claimed {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        key: row.try_get("key")?,
        exclusive: row.try_get("exclusive")?,
        payload: json(row, "payload")?,
        meta: json(row, "meta")?,
        attempt: row.try_get("attempt")?,
        token: row.try_get("token")?,
        age_ms: row.try_get("age_ms")?,
        cancel: row.try_get("cancel")?,
    };
    Ok((row.try_get("position")?, job))
}

/// When [`Claim`] will next find something by itself: the same conditions, without the time.
pub(super) async fn next_job_in(pool: &SqlitePool) -> Result<Option<Duration>, sqlx::Error> {
    let left: Option<i64> = sqlx::query_scalar(
        "SELECT MIN(free_at_ms) - CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER) FROM (
             SELECT not_before_ms AS free_at_ms FROM jobs AS job WHERE status = 'waiting'
                 AND NOT EXISTS (SELECT 1 FROM jobs AS other
                     WHERE other.exclusive = job.exclusive AND other.status = 'running')
                 AND NOT EXISTS (SELECT 1 FROM jobs AS other
                     WHERE other.exclusive = job.exclusive AND other.status = 'waiting'
                       AND other.position < job.position)
             UNION ALL
             SELECT lease_until_ms + 1 FROM jobs WHERE status = 'running')",
    )
    .fetch_one(pool)
    .await?;
    Ok(left.map(until))
}

/// Holds a job for longer.
pub(super) struct Renew {
    pub(super) job: String,
    pub(super) token: i64,
    pub(super) lease: Duration,
}

impl Write for Renew {
    type Answer = Renewed;
    const DOING: &'static str = "renew a lease";

    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(Renewed, Change), sqlx::Error> {
        let row = sqlx::query(
            "UPDATE jobs SET lease_until_ms = ? WHERE id = ? AND token = ? AND status = 'running'
             RETURNING cancel",
        )
        .bind(tx.now_ms + millis(self.lease))
        .bind(&self.job)
        .bind(self.token)
        .fetch_optional(&mut *tx.conn)
        .await?;
        match row {
            Some(row) => Ok((Renewed::Held { cancel: row.try_get("cancel")? }, Change::QUIET)),
            None => Ok((Renewed::Lost, Change::default())),
        }
    }
}

/// Asks for a job to be stopped.
pub(super) struct RequestCancel {
    pub(super) job: String,
    pub(super) reason: String,
}

impl Write for RequestCancel {
    type Answer = bool;
    const DOING: &'static str = "ask for a job to be stopped";

    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(bool, Change), sqlx::Error> {
        let row = sqlx::query(
            "UPDATE jobs SET cancel = COALESCE(cancel, ?),
                    not_before_ms = CASE status WHEN 'waiting' THEN MIN(not_before_ms, ?) ELSE not_before_ms END
             WHERE id = ? AND status IN ('waiting', 'running') RETURNING status = 'waiting' AS waits",
        )
        .bind(&self.reason)
        .bind(tx.now_ms)
        .bind(&self.job)
        .fetch_optional(&mut *tx.conn)
        .await?;
        match row {
            Some(row) => Ok((true, Change { jobs: row.try_get("waits")?, ..Change::QUIET })),
            None => Ok((false, Change::default())),
        }
    }
}
