//! Between Rust and `SQLite`: its clock, its columns and its errors.

use serde_json::Value;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::model::{JobStatus, StoreError};
use crate::value::{from_json, status as status_of};

/// The database's clock. `subsec` is a fraction; rounding gives back its whole milliseconds.
pub(super) const NOW_MS: &str = "SELECT CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER)";

const SQLITE_FULL: i32 = 13;
/// No space for the index of the write-ahead log: a full disk under another name.
const SQLITE_IOERR_SHMSIZE: i32 = 4874;

pub(super) fn json(row: &SqliteRow, column: &'static str) -> Result<Value, sqlx::Error> {
    from_json(row.try_get(column)?, column)
}

pub(super) fn status(row: &SqliteRow) -> Result<JobStatus, sqlx::Error> {
    status_of(row.try_get("status")?)
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
