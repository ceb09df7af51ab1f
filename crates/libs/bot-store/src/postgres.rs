//! The store in PostgreSQL: a schema of the bot's own, which all its replicas share. Whoever writes holds one lock of the
//! schema for the length of a transaction, so writes are applied one after the other as in `SQLite`, and every answer is
//! the same. The SQL lives in the modules below.

mod apply;
mod claim;
mod commit;
mod listen;
mod open;
mod options;
mod read;
mod upkeep;
mod value;
mod writer;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio::task::JoinHandle;

use crate::line::Line;
use crate::model::StoreError;
use crate::signals::Signals;

pub use apply::{StoreLogin, apply_stores};
pub(crate) use claim::next_job_in;
pub(crate) use open::open;
pub use options::PostgresOptions;
use options::Server;
pub(crate) use read::*;

type Tx<'c> = crate::operation::Tx<'c, PgConnection>;

/// The longest that a read or a transaction may take, the network included.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// An open store: one connection that writes, one that listens, and a pool of readers.
#[derive(Debug)]
pub(crate) struct Database {
    server: Arc<Server>,
    pub(crate) reads: PgPool,
    pub(crate) writes: Line<PgConnection>,
    pub(crate) signals: Arc<Signals>,
    listener: JoinHandle<()>,
}

impl Database {
    pub(crate) async fn close(&self) {
        self.writes.close();
        self.listener.abort();
        self.writes.ended().await;
        // A listener that is gone gives its connection back late, and nobody has to wait for that.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.reads.close()).await;
    }

    pub(crate) async fn read<T>(
        &self,
        doing: &'static str,
        reading: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        // It may have to connect, and the password may be another by now.
        if self.reads.num_idle() == 0 {
            self.reads.set_connect_options(self.server.connecting()?);
        }
        match tokio::time::timeout(ANSWER_MAX, reading).await {
            Ok(outcome) => outcome.map_err(|error| self.server.error(doing, error)),
            Err(_) => Err(self.server.silent()),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
