//! One [`Commit`]: what it depends on, in the order that decides the answer, then what it writes.

use sqlx::SqliteConnection;

use super::Tx;
use super::read::inbox_entry;
use super::upkeep::insert_outgoing;
use crate::model::{Commit, Committed, Guard, InboxMark, JobOutcome, NewJob, NewTimer, StateWrite};
use crate::operation::{Apply, Change, check_shape};
use crate::value::{millis, to_json};

impl Apply<SqliteConnection> for Commit {
    async fn apply(&self, tx: &mut Tx<'_>) -> Result<(Committed, Change), sqlx::Error> {
        check_shape(self)?;
        if let Some(refused) = check(self, tx).await? {
            return Ok((refused, Change::default()));
        }
        if let Some(mark) = &self.inbox {
            write_inbox(mark, tx).await?;
        }
        if let Some(state) = &self.state {
            write_state(state, tx).await?;
        }
        for message in &self.outbox {
            insert_outgoing(tx, message).await?;
        }
        for job in &self.jobs {
            insert_job(tx, job).await?;
        }
        write_timers(self, tx).await?;
        if let Guard::Job { id, .. } = &self.guard {
            write_held_job(self, tx, id).await?;
        }
        Ok((Committed::Done, Change::of(self)))
    }
}

async fn check(commit: &Commit, tx: &mut Tx<'_>) -> Result<Option<Committed>, sqlx::Error> {
    if !guard_holds(&commit.guard, tx).await? {
        return Ok(Some(Committed::Fenced));
    }
    if let (Guard::Job { id, .. }, Some((step, _))) = (&commit.guard, &commit.step) {
        let sql = "SELECT EXISTS (SELECT 1 FROM job_steps WHERE job = ? AND step = ?)";
        if sqlx::query_scalar(sql).bind(id).bind(step).fetch_one(&mut *tx.conn).await? {
            return Ok(Some(Committed::StepDone));
        }
    }
    if let Some(mark) = &commit.inbox
        && let Some(refused) = check_inbox(mark, tx).await?
    {
        return Ok(Some(refused));
    }
    if let Some(state) = &commit.state {
        let sql = "SELECT version FROM state WHERE key = ?";
        let version: Option<i64> = sqlx::query_scalar(sql).bind(&state.key).fetch_optional(&mut *tx.conn).await?;
        if version.unwrap_or(0) as u64 != state.expected_version {
            return Ok(Some(Committed::Stale));
        }
    }
    Ok(None)
}

/// A timer that is guarded on is deleted here; the savepoint brings it back where the commit is refused later.
async fn guard_holds(guard: &Guard, tx: &mut Tx<'_>) -> Result<bool, sqlx::Error> {
    match guard {
        Guard::None => Ok(true),
        Guard::Job { id, token } => {
            let sql = "SELECT EXISTS (SELECT 1 FROM jobs WHERE id = ? AND token = ? AND status = 'running')";
            sqlx::query_scalar(sql).bind(id).bind(token).fetch_one(&mut *tx.conn).await
        }
        Guard::Timer { name, generation } => {
            let sql = "DELETE FROM timers WHERE generation = ? AND name = ?";
            let deleted = sqlx::query(sql).bind(generation).bind(name).execute(&mut *tx.conn).await?;
            Ok(deleted.rows_affected() > 0)
        }
    }
}

async fn check_inbox(mark: &InboxMark, tx: &mut Tx<'_>) -> Result<Option<Committed>, sqlx::Error> {
    let row =
        sqlx::query("SELECT content_hash, settled, attempt FROM inbox WHERE publisher = ? AND id = ? AND replay = ?")
            .bind(&mark.key.publisher)
            .bind(&mark.key.id)
            .bind(mark.key.replay)
            .fetch_optional(&mut *tx.conn)
            .await?;
    let Some(row) = row else { return Ok(None) };
    let entry = inbox_entry(&row)?;
    Ok(if entry.content_hash != mark.content_hash {
        Some(Committed::Conflict)
    } else if entry.settled {
        Some(Committed::Duplicate)
    } else if entry.attempt > mark.attempt {
        Some(Committed::OldAttempt)
    } else {
        None
    })
}

async fn write_inbox(mark: &InboxMark, tx: &mut Tx<'_>) -> Result<(), sqlx::Error> {
    let again = !mark.settled && mark.counts;
    let attempt = mark.attempt.saturating_add(u32::from(again));
    sqlx::query(
        "INSERT INTO inbox (publisher, id, replay, content_hash, settled, attempt, seen_at_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (publisher, id, replay) DO UPDATE
         SET settled = excluded.settled, attempt = excluded.attempt, seen_at_ms = excluded.seen_at_ms",
    )
    .bind(&mark.key.publisher)
    .bind(&mark.key.id)
    .bind(mark.key.replay)
    .bind(&mark.content_hash)
    .bind(mark.settled)
    .bind(attempt)
    .bind(tx.now_ms)
    .execute(&mut *tx.conn)
    .await?;
    Ok(())
}

async fn write_state(state: &StateWrite, tx: &mut Tx<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO state (key, version, document) VALUES (?, ?, ?)
         ON CONFLICT (key) DO UPDATE SET version = excluded.version, document = excluded.document",
    )
    .bind(&state.key)
    .bind(state.expected_version.saturating_add(1) as i64)
    .bind(to_json(&state.value))
    .execute(&mut *tx.conn)
    .await?;
    Ok(())
}

async fn insert_job(tx: &mut Tx<'_>, job: &NewJob) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO jobs (id, kind, key, exclusive, weight, status, created_at_ms, not_before_ms, payload, meta)
         VALUES (?, ?, ?, ?, ?, 'waiting', ?, ?, ?, ?)",
    )
    .bind(&job.id)
    .bind(&job.kind)
    .bind(&job.key)
    .bind(job.exclusive.as_deref())
    .bind(job.weight.max(1))
    .bind(tx.now_ms)
    .bind(tx.now_ms)
    .bind(to_json(&job.payload))
    .bind(to_json(&job.meta))
    .execute(&mut *tx.conn)
    .await?;
    Ok(())
}

/// Clears before it wakes and sets, so that a name in several lists ends up as it was set.
async fn write_timers(commit: &Commit, tx: &mut Tx<'_>) -> Result<(), sqlx::Error> {
    for name in &commit.clear_timers {
        sqlx::query("DELETE FROM timers WHERE name = ?").bind(name).execute(&mut *tx.conn).await?;
    }
    for name in &commit.wake_timers {
        let sql = "UPDATE timers SET due_at_ms = MIN(due_at_ms, ?) WHERE name = ?";
        sqlx::query(sql).bind(tx.now_ms).bind(name).execute(&mut *tx.conn).await?;
    }
    for timer in &commit.set_timers {
        insert_timer(tx, timer).await?;
    }
    Ok(())
}

/// REPLACE deletes the row of that name and inserts another, so a replaced timer has a new generation.
async fn insert_timer(tx: &mut Tx<'_>, timer: &NewTimer) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT OR REPLACE INTO timers (name, key, due_at_ms, data, meta) VALUES (?, ?, ?, ?, ?)")
        .bind(&timer.name)
        .bind(&timer.key)
        .bind(tx.now_ms + millis(timer.after))
        .bind(to_json(&timer.data))
        .bind(to_json(&timer.meta))
        .execute(&mut *tx.conn)
        .await?;
    Ok(())
}

async fn write_held_job(commit: &Commit, tx: &mut Tx<'_>, id: &str) -> Result<(), sqlx::Error> {
    if let Some((step, value)) = &commit.step {
        let sql = "INSERT INTO job_steps (job, step, value) VALUES (?, ?, ?)";
        sqlx::query(sql).bind(id).bind(step).bind(to_json(value)).execute(&mut *tx.conn).await?;
    }
    let update = match commit.job_end.as_ref().map(|end| &end.outcome) {
        None => return Ok(()),
        Some(JobOutcome::Ended(status)) => sqlx::query(
            "UPDATE jobs SET status = ?, ended_at_ms = ?, holder = NULL, lease_until_ms = NULL WHERE id = ?",
        )
        .bind(status.as_str())
        .bind(tx.now_ms),
        Some(JobOutcome::Again { after, error, counts }) => sqlx::query(
            "UPDATE jobs SET status = 'waiting', not_before_ms = ?, last_error = ?, attempt = attempt - ?,
                    holder = NULL, lease_until_ms = NULL WHERE id = ?",
        )
        .bind(tx.now_ms + millis(*after))
        .bind(error)
        .bind(i64::from(!counts)),
    };
    update.bind(id).execute(&mut *tx.conn).await?;
    Ok(())
}
