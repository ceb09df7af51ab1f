//! The store on `SQLite`, in a directory of the bot's own (0700, files 0600), WAL, `synchronous=FULL`. One process holds
//! it. The SQL lives in the modules below.

mod claim;
mod commit;
mod open;
mod read;
mod upkeep;
mod value;
mod writer;

use std::sync::Arc;

use sqlx::{SqliteConnection, SqlitePool};

use crate::line::Line;
use crate::model::StoreError;
use crate::signals::Signals;

pub(crate) use claim::next_job_in;
pub(crate) use open::open;
pub(crate) use read::*;

type Tx<'c> = crate::operation::Tx<'c, SqliteConnection>;

/// An open store: one writer and a pool of readers.
#[derive(Debug)]
pub(crate) struct Database {
    name: Arc<str>,
    pub(crate) reads: SqlitePool,
    pub(crate) writes: Line<SqliteConnection>,
    pub(crate) signals: Arc<Signals>,
}

impl Database {
    pub(crate) async fn close(&self) {
        self.writes.close();
        self.reads.close().await;
        self.writes.ended().await;
    }

    pub(crate) fn read<T>(&self, doing: &'static str, outcome: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        outcome.map_err(|error| value::store_error(&self.name, doing, error))
    }
}
