//! Reads: each sees everything that was answered before it began, whichever replica it was answered to.

use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};

use super::value::{json, number, optional, plain, string, text};
use crate::model::{Counts, InboxEntry, InboxKey, JobView, KnownJob, Outgoing, Queued, Timer};
use crate::value::{status, until};

pub(crate) async fn inbox(pool: &PgPool, key: &InboxKey) -> Result<Option<InboxEntry>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT content_hash, settled, attempt FROM inbox WHERE publisher = $1 AND id = $2 AND replay = $3",
    )
    .bind(text(&key.publisher))
    .bind(text(&key.id))
    .bind(i64::from(key.replay))
    .fetch_optional(pool)
    .await?;
    row.as_ref().map(inbox_entry).transpose()
}

/// From the columns `content_hash`, `settled` and `attempt`.
pub(super) fn inbox_entry(row: &PgRow) -> Result<InboxEntry, sqlx::Error> {
    Ok(InboxEntry {
        content_hash: string(row, "content_hash")?,
        settled: row.try_get("settled")?,
        attempt: number(row, "attempt")?,
    })
}

pub(crate) async fn state(pool: &PgPool, key: &str) -> Result<Option<(Value, u64)>, sqlx::Error> {
    let sql = "SELECT version, document FROM state WHERE key = $1";
    let row = sqlx::query(sql).bind(text(key)).fetch_optional(pool).await?;
    row.map(|row| Ok((json(&row, "document")?, number(&row, "version")?))).transpose()
}

pub(crate) async fn step(pool: &PgPool, job: &str, step: &str) -> Result<Option<Value>, sqlx::Error> {
    let sql = "SELECT value FROM job_steps WHERE job = $1 AND step = $2";
    let row = sqlx::query(sql).bind(text(job)).bind(text(step)).fetch_optional(pool).await?;
    row.map(|row| json(&row, "value")).transpose()
}

pub(crate) async fn job(pool: &PgPool, id: &str) -> Result<Option<JobView>, sqlx::Error> {
    let sql = "SELECT id, kind, status, attempt, last_error FROM jobs WHERE id = $1";
    let Some(row) = sqlx::query(sql).bind(text(id)).fetch_optional(pool).await? else { return Ok(None) };
    Ok(Some(JobView {
        id: string(&row, "id")?,
        kind: string(&row, "kind")?,
        status: status(row.try_get("status")?)?,
        attempt: number(&row, "attempt")?,
        last_error: optional(&row, "last_error")?,
    }))
}

/// The job of this id; else those whose id begins so, at most two of them.
pub(crate) async fn jobs_like(pool: &PgPool, beginning: &str) -> Result<Vec<KnownJob>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT id, kind, key, weight, status, payload, meta FROM jobs
         WHERE starts_with(id, $1) ORDER BY id = $1 DESC, position LIMIT 2",
    )
    .bind(text(beginning))
    .fetch_all(pool)
    .await?;
    let mut jobs: Vec<KnownJob> = rows.iter().map(known_job).collect::<Result<_, _>>()?;
    if jobs.first().is_some_and(|job| job.id == beginning) {
        jobs.truncate(1);
    }
    Ok(jobs)
}

fn known_job(row: &PgRow) -> Result<KnownJob, sqlx::Error> {
    Ok(KnownJob {
        id: string(row, "id")?,
        kind: string(row, "kind")?,
        key: string(row, "key")?,
        weight: number(row, "weight")?,
        status: status(row.try_get("status")?)?,
        payload: json(row, "payload")?,
        meta: json(row, "meta")?,
    })
}

pub(crate) async fn unsent(pool: &PgPool, after_seq: i64, limit: u32) -> Result<Vec<Queued>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT seq, exchange, routing_key, body, properties, priority FROM outbox
         WHERE seq > $1 ORDER BY seq LIMIT $2",
    )
    .bind(after_seq)
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?;
    rows.iter().map(queued).collect()
}

fn queued(row: &PgRow) -> Result<Queued, sqlx::Error> {
    Ok(Queued {
        seq: row.try_get("seq")?,
        message: Outgoing {
            exchange: string(row, "exchange")?,
            routing_key: string(row, "routing_key")?,
            body: row.try_get("body")?,
            properties: json(row, "properties")?,
            priority: number(row, "priority")?,
        },
    })
}

pub(crate) async fn due_timers(pool: &PgPool, limit: u32) -> Result<Vec<Timer>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT name, generation, key, data, meta FROM timers
         WHERE due_at_ms <= floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
         ORDER BY due_at_ms, generation LIMIT $1",
    )
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?;
    rows.iter().map(timer).collect()
}

fn timer(row: &PgRow) -> Result<Timer, sqlx::Error> {
    Ok(Timer {
        name: string(row, "name")?,
        generation: row.try_get("generation")?,
        key: string(row, "key")?,
        data: json(row, "data")?,
        meta: json(row, "meta")?,
    })
}

pub(crate) async fn timer_names(pool: &PgPool, prefix: &str) -> Result<Vec<String>, sqlx::Error> {
    let sql = "SELECT name FROM timers WHERE starts_with(name, $1) ORDER BY name";
    let names: Vec<String> = sqlx::query_scalar(sql).bind(text(prefix)).fetch_all(pool).await?;
    Ok(names.into_iter().map(plain).collect())
}

pub(crate) async fn next_timer_in(pool: &PgPool) -> Result<Option<Duration>, sqlx::Error> {
    let sql = "SELECT MIN(due_at_ms) - floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM timers";
    let left: Option<i64> = sqlx::query_scalar(sql).fetch_one(pool).await?;
    Ok(left.map(until))
}

pub(crate) async fn counts(pool: &PgPool) -> Result<Counts, sqlx::Error> {
    let row = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM outbox) AS outbox_unsent,
                (SELECT COUNT(*) FROM jobs WHERE status = 'waiting') AS jobs_waiting,
                (SELECT COUNT(*) FROM jobs WHERE status = 'running') AS jobs_running",
    )
    .fetch_one(pool)
    .await?;
    Ok(Counts {
        outbox_unsent: number(&row, "outbox_unsent")?,
        jobs_waiting: number(&row, "jobs_waiting")?,
        jobs_running: number(&row, "jobs_running")?,
    })
}

pub(crate) async fn meta(pool: &PgPool, name: &str) -> Result<Option<String>, sqlx::Error> {
    let sql = "SELECT value FROM meta WHERE name = $1";
    let found: Option<String> = sqlx::query_scalar(sql).bind(text(name)).fetch_optional(pool).await?;
    Ok(found.map(plain))
}
