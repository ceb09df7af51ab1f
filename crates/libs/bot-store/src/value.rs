//! Between Rust and either database: JSON, durations, job states, one error for several.

use std::time::Duration;

use serde_json::Value;

use crate::model::{JobStatus, StoreError};

/// What a turn costs a key of weight 1. Divides well by small weights.
pub(crate) const TURN: i64 = 1_000_000;
/// The most rows that one pruning step deletes from each table; others commit between the steps.
pub(crate) const PRUNE_ROWS_MAX: i64 = 500;

pub(crate) fn to_json(value: &Value) -> String {
    value.to_string()
}

pub(crate) fn from_json(text: &str, column: &'static str) -> Result<Value, sqlx::Error> {
    serde_json::from_str(text)
        .map_err(|error| sqlx::Error::ColumnDecode { index: column.to_owned(), source: error.into() })
}

pub(crate) fn status(text: &str) -> Result<JobStatus, sqlx::Error> {
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
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

/// Until a time in `ms` from now; what is past is due now.
pub(crate) fn until(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The same error for another write of the same transaction. The message stays; a database error cannot be cloned.
pub(crate) fn repeat(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full { dir } => StoreError::Full { dir: dir.clone() },
        StoreError::Database { doing, source } => {
            StoreError::Database { doing, source: sqlx::Error::Io(std::io::Error::other(source.to_string())) }
        }
        StoreError::Unreachable { server, why } => StoreError::Unreachable { server: server.clone(), why: why.clone() },
        StoreError::Refused { server, why } => StoreError::Refused { server: server.clone(), why: why.clone() },
        StoreError::InUse { .. } | StoreError::Directory { .. } | StoreError::Closed => StoreError::Closed,
    }
}
