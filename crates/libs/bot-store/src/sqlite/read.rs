//! Reads: each sees everything that was answered before it began.

use std::time::Duration;

use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqlitePool};

use super::value::{json, status};
use crate::model::{Counts, InboxEntry, InboxKey, JobView, KnownJob, Outgoing, Queued, Timer};
use crate::value::until;

pub(crate) async fn inbox(pool: &SqlitePool, key: &InboxKey) -> Result<Option<InboxEntry>, sqlx::Error> {
    let row =
        sqlx::query("SELECT content_hash, settled, attempt FROM inbox WHERE publisher = ? AND id = ? AND replay = ?")
            .bind(&key.publisher)
            .bind(&key.id)
            .bind(key.replay)
            .fetch_optional(pool)
            .await?;
    row.as_ref().map(inbox_entry).transpose()
}

/// From the columns `content_hash`, `settled` and `attempt`.
pub(super) fn inbox_entry(row: &SqliteRow) -> Result<InboxEntry, sqlx::Error> {
    Ok(InboxEntry {
        content_hash: row.try_get("content_hash")?,
        settled: row.try_get("settled")?,
        attempt: row.try_get("attempt")?,
    })
}

pub(crate) async fn state(pool: &SqlitePool, key: &str) -> Result<Option<(Value, u64)>, sqlx::Error> {
    let row = sqlx::query("SELECT version, document FROM state WHERE key = ?").bind(key).fetch_optional(pool).await?;
    let Some(row) = row else { return Ok(None) };
    let version: i64 = row.try_get("version")?;
    Ok(Some((json(&row, "document")?, version as u64)))
}

pub(crate) async fn step(pool: &SqlitePool, job: &str, step: &str) -> Result<Option<Value>, sqlx::Error> {
    let row = sqlx::query("SELECT value FROM job_steps WHERE job = ? AND step = ?")
        .bind(job)
        .bind(step)
        .fetch_optional(pool)
        .await?;
    row.map(|row| json(&row, "value")).transpose()
}

pub(crate) async fn job(pool: &SqlitePool, id: &str) -> Result<Option<JobView>, sqlx::Error> {
    let row = sqlx::query("SELECT id, kind, status, attempt, last_error FROM jobs WHERE id = ?")
        .bind(id)
        .fetch_optional(pool)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(JobView {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        status: status(&row)?,
        attempt: row.try_get("attempt")?,
        last_error: row.try_get("last_error")?,
    }))
}

/// The job of this id; else those whose id begins so, at most two of them.
pub(crate) async fn jobs_like(pool: &SqlitePool, beginning: &str) -> Result<Vec<KnownJob>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT id, kind, key, weight, status, payload, meta FROM jobs
         WHERE substr(id, 1, length(?1)) = ?1 ORDER BY id = ?1 DESC, position LIMIT 2",
    )
    .bind(beginning)
    .fetch_all(pool)
    .await?;
    let mut jobs: Vec<KnownJob> = rows.iter().map(known_job).collect::<Result<_, _>>()?;
    if jobs.first().is_some_and(|job| job.id == beginning) {
        jobs.truncate(1);
    }
    Ok(jobs)
}

fn known_job(row: &SqliteRow) -> Result<KnownJob, sqlx::Error> {
    Ok(KnownJob {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        key: row.try_get("key")?,
        weight: row.try_get("weight")?,
        status: status(row)?,
        payload: json(row, "payload")?,
        meta: json(row, "meta")?,
    })
}

pub(crate) async fn unsent(pool: &SqlitePool, after_seq: i64, limit: u32) -> Result<Vec<Queued>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT seq, exchange, routing_key, body, properties, priority FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?",
    )
    .bind(after_seq)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    rows.iter().map(queued).collect()
}

fn queued(row: &SqliteRow) -> Result<Queued, sqlx::Error> {
    Ok(Queued {
        seq: row.try_get("seq")?,
        message: Outgoing {
            exchange: row.try_get("exchange")?,
            routing_key: row.try_get("routing_key")?,
            body: row.try_get("body")?,
            properties: json(row, "properties")?,
            priority: row.try_get("priority")?,
        },
    })
}

pub(crate) async fn due_timers(pool: &SqlitePool, limit: u32) -> Result<Vec<Timer>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT name, generation, key, data, meta FROM timers
         WHERE due_at_ms <= (SELECT CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER))
         ORDER BY due_at_ms, generation LIMIT ?",
    )
    .bind(limit)
    .fetch_all(pool)
    .await?;
    rows.iter().map(timer).collect()
}

fn timer(row: &SqliteRow) -> Result<Timer, sqlx::Error> {
    Ok(Timer {
        name: row.try_get("name")?,
        generation: row.try_get("generation")?,
        key: row.try_get("key")?,
        data: json(row, "data")?,
        meta: json(row, "meta")?,
    })
}

pub(crate) async fn timer_names(pool: &SqlitePool, prefix: &str) -> Result<Vec<String>, sqlx::Error> {
    let sql = "SELECT name FROM timers WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name";
    sqlx::query_scalar(sql).bind(prefix).fetch_all(pool).await
}

pub(crate) async fn next_timer_in(pool: &SqlitePool) -> Result<Option<Duration>, sqlx::Error> {
    let left: Option<i64> =
        sqlx::query_scalar("SELECT MIN(due_at_ms) - CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER) FROM timers")
            .fetch_one(pool)
            .await?;
    Ok(left.map(until))
}

pub(crate) async fn counts(pool: &SqlitePool) -> Result<Counts, sqlx::Error> {
    let row = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM outbox) AS outbox_unsent,
                (SELECT COUNT(*) FROM jobs WHERE status = 'waiting') AS jobs_waiting,
                (SELECT COUNT(*) FROM jobs WHERE status = 'running') AS jobs_running",
    )
    .fetch_one(pool)
    .await?;
    let count = |column: &str| row.try_get::<i64, _>(column).map(|count| count as u64);
    Ok(Counts {
        outbox_unsent: count("outbox_unsent")?,
        jobs_waiting: count("jobs_waiting")?,
        jobs_running: count("jobs_running")?,
    })
}

pub(crate) async fn meta(pool: &SqlitePool, name: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT value FROM meta WHERE name = ?").bind(name).fetch_optional(pool).await
}
