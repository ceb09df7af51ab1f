//! Jobs between being written and ending: who holds them, until when, and whether they should stop.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};

use super::Tx;
use super::value::json;
use crate::model::{Claimed, Renewed};
use crate::operation::{Apply, Change, Claim, Renew, RequestCancel};
use crate::value::{TURN, millis, to_json, until};

impl Apply<SqliteConnection> for Claim {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(Vec<Claimed>, Change), sqlx::Error> {
        let mut claimed = take_over(self, tx).await?;
        let mut all = false;
        while claimed.len() < self.limit as usize {
            let Some(turn) = next_turn(tx, &self.held).await? else {
                all = true;
                break;
            };
            claimed.push(take(self, tx, &turn).await?);
        }
        let forgotten = forget_turns(tx, all).await?;
        let change = Change::if_any(claimed.len() as u64 + forgotten);
        Ok((claimed, change))
    }
}

/// Takes running jobs whose leases ran out. They had their turn, and hold their exclusive keys already.
async fn take_over(claim: &Claim, tx: &mut Tx<'_>) -> Result<Vec<Claimed>, sqlx::Error> {
    let expired: Vec<i64> = sqlx::query_scalar(
        "SELECT position FROM jobs WHERE status = 'running' AND lease_until_ms < ?1
             AND id NOT IN (SELECT value FROM json_each(?2))
             AND (kind NOT IN (SELECT value FROM json_each(?4)) OR cancel IS NOT NULL)
         ORDER BY position LIMIT ?3",
    )
    .bind(tx.now_ms)
    .bind(to_json(&claim.running.as_slice().into()))
    .bind(claim.limit)
    .bind(to_json(&claim.held.as_slice().into()))
    .fetch_all(&mut *tx.conn)
    .await?;
    let mut claimed = Vec::with_capacity(expired.len());
    for position in expired {
        claimed.push(hold(claim, tx, position).await?);
    }
    Ok(claimed)
}

/// Takes the job whose turn it is, and says when its key has the next one.
async fn take(claim: &Claim, tx: &mut Tx<'_>, turn: &Turn) -> Result<Claimed, sqlx::Error> {
    let claimed = hold(claim, tx, turn.position).await?;
    let sql = "INSERT INTO job_turns (key, pass) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET pass = excluded.pass";
    let next = turn.pass + TURN / turn.weight;
    sqlx::query(sql).bind(&claimed.key).bind(next).execute(&mut *tx.conn).await?;
    sqlx::query("UPDATE job_floor SET pass = ?").bind(turn.pass).execute(&mut *tx.conn).await?;
    Ok(claimed)
}

async fn hold(claim: &Claim, tx: &mut Tx<'_>, position: i64) -> Result<Claimed, sqlx::Error> {
    let sql = "UPDATE fencing SET token = MAX(token + 1, ?) RETURNING token";
    let token: i64 = sqlx::query_scalar(sql).bind(tx.now_ms).fetch_one(&mut *tx.conn).await?;
    let sql = "SELECT token = 0 FROM jobs WHERE position = ?";
    let is_first: bool = sqlx::query_scalar(sql).bind(position).fetch_one(&mut *tx.conn).await?;
    let row = sqlx::query(
        "UPDATE jobs SET status = 'running', holder = ?1, lease_until_ms = ?2 + ?3,
                attempt = attempt + 1, token = ?5
         WHERE position = ?4
         RETURNING id, kind, key, exclusive, payload, meta, attempt, token, cancel, ?2 - created_at_ms AS age_ms",
    )
    .bind(&claim.holder)
    .bind(tx.now_ms)
    .bind(millis(claim.lease))
    .bind(position)
    .bind(token)
    .fetch_one(&mut *tx.conn)
    .await?;
    claimed(&row, is_first)
}

/// A job that is next, and the pass at which its key has its turn.
struct Turn {
    position: i64,
    pass: i64,
    weight: i64,
}

/// The key with the lowest pass, and of equals the one that waits longest. A key that was away, and one that is new,
/// begins at the floor, so being away earns nothing.
async fn next_turn(tx: &mut Tx<'_>, held: &[String]) -> Result<Option<Turn>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT position, weight, MAX(COALESCE(turn.pass, job_floor.pass), job_floor.pass) AS due
         FROM job_floor CROSS JOIN jobs AS job LEFT JOIN job_turns AS turn ON turn.key = job.key
         WHERE status = 'waiting' AND not_before_ms <= ?
             AND (kind NOT IN (SELECT value FROM json_each(?)) OR cancel IS NOT NULL)
             AND NOT EXISTS (SELECT 1 FROM jobs AS other
                 WHERE other.exclusive = job.exclusive AND other.status = 'running')
             AND NOT EXISTS (SELECT 1 FROM jobs AS other
                 WHERE other.exclusive = job.exclusive AND other.status = 'waiting'
                   AND other.position < job.position)
         ORDER BY due, position LIMIT 1",
    )
    .bind(tx.now_ms)
    .bind(to_json(&held.into()))
    .fetch_optional(&mut *tx.conn)
    .await?;
    let turn = |row: SqliteRow| {
        Ok(Turn { position: row.try_get("position")?, pass: row.try_get("due")?, weight: row.try_get("weight")? })
    };
    row.map(turn).transpose()
}

/// Forgets keys without unfinished jobs: once the floor has reached them, or, where nothing is left to be claimed, at
/// once. Before that, a key could drop what it has had by ending each job before the next comes.
async fn forget_turns(tx: &mut Tx<'_>, all: bool) -> Result<u64, sqlx::Error> {
    let sql = "DELETE FROM job_turns WHERE (? OR pass <= (SELECT pass FROM job_floor))
                   AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.key = job_turns.key AND ended_at_ms IS NULL)";
    Ok(sqlx::query(sql).bind(all).execute(&mut *tx.conn).await?.rows_affected())
}

fn claimed(row: &SqliteRow, is_first: bool) -> Result<Claimed, sqlx::Error> {
    Ok(Claimed {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        key: row.try_get("key")?,
        exclusive: row.try_get("exclusive")?,
        payload: json(row, "payload")?,
        meta: json(row, "meta")?,
        attempt: row.try_get("attempt")?,
        token: row.try_get("token")?,
        is_first,
        age_ms: row.try_get("age_ms")?,
        cancel: row.try_get("cancel")?,
    })
}

/// When [`Claim`] will next find something by itself: the same conditions, without the time.
pub(crate) async fn next_job_in(pool: &SqlitePool) -> Result<Option<Duration>, sqlx::Error> {
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

impl Apply<SqliteConnection> for Renew {
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

impl Apply<SqliteConnection> for RequestCancel {
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
            Some(row) => {
                let waits: bool = row.try_get("waits")?;
                Ok((true, Change { jobs: waits, cancels: !waits, ..Change::QUIET }))
            }
            None => Ok((false, Change::default())),
        }
    }
}
