//! Between Rust and `SQLite`: JSON, durations, job states and errors.

use std::time::Duration;

use serde_json::Value;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::model::{JobStatus, StoreError};

/// The database's clock. `subsec` is a fraction; rounding gives back its whole milliseconds.
pub(super) const NOW_MS: &str = "SELECT CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER)";

const SQLITE_FULL: i32 = 13;
/// No space for the index of the write-ahead log: a full disk under another name.
const SQLITE_IOERR_SHMSIZE: i32 = 4874;

pub(super) fn to_json(value: &Value) -> String {
    value.to_string()
}

pub(super) fn json(row: &SqliteRow, column: &'static str) -> Result<Value, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text)
        .map_err(|error| sqlx::Error::ColumnDecode { index: column.to_owned(), source: error.into() })
}

pub(super) fn status(row: &SqliteRow) -> Result<JobStatus, sqlx::Error> {
    let text: &str = row.try_get("status")?;
    [
        JobStatus::Waiting,
        JobStatus::Running,
        JobStatus::Done,
        JobStatus::Failed,
        JobStatus::Cancelled,
        JobStatus::TimedOut,
    ]
    .into_iter()
    .find(|status| status.as_str() == text)
    .ok_or_else(|| sqlx::Error::ColumnDecode {
        index: "status".to_owned(),
        source: format!("expected a job's status, found {text:?}").into(),
    })
}

/// Whole milliseconds, capped so that adding a clock's time cannot overflow.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

/// Until a time in `ms` from now; what is past is due now.
pub(super) fn until(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// A write that asks for something impossible: a mistake of the caller, not of the database.
pub(super) fn misuse(what: &str) -> sqlx::Error {
    sqlx::Error::InvalidArgument(what.to_owned())
}

fn is_full(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).and_then(|code| code.parse().ok());
    code.is_some_and(|code: i32| code & 0xff == SQLITE_FULL || code == SQLITE_IOERR_SHMSIZE)
}

pub(super) fn store_error(name: &str, doing: &'static str, source: sqlx::Error) -> StoreError {
    match source {
        sqlx::Error::PoolClosed => StoreError::Closed,
        source if is_full(&source) => StoreError::Full { dir: name.to_owned() },
        source => StoreError::Database { doing, source },
    }
}

/// The same error for another write of the same transaction. The message stays; a database error cannot be cloned.
pub(super) fn repeat(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full { dir } => StoreError::Full { dir: dir.clone() },
        StoreError::Database { doing, source } => {
            StoreError::Database { doing, source: sqlx::Error::Io(std::io::Error::other(source.to_string())) }
        }
        _ => StoreError::Closed,
    }
}
