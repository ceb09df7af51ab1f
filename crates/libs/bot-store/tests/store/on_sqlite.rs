//! The suite in a directory.

#[path = "suite/answers.rs"]
mod answers;
#[path = "suite/group.rs"]
mod group;
#[path = "suite/jobs.rs"]
mod jobs;
#[path = "suite/model.rs"]
mod model;
#[path = "suite/outbox.rs"]
mod outbox;
#[path = "suite/timers.rs"]
mod timers;
#[path = "suite/turns.rs"]
mod turns;
#[path = "suite/upkeep.rs"]
mod upkeep;

use bot_store::Store;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use tempfile::TempDir;

/// Where a test's store is.
struct Place(TempDir);

impl Place {
    /// Of random commits that are tried.
    const CASES: u32 = 40;

    async fn new() -> Self {
        std::future::ready(Self(tempfile::tempdir().unwrap())).await
    }

    /// The store, opened by a process that has it alone.
    async fn open(&self) -> Store {
        crate::fixture::open(self.0.path()).await
    }

    /// The keys that have taken turns.
    async fn turns(&self) -> Vec<String> {
        let options = SqliteConnectOptions::new().filename(self.0.path().join("store.db")).read_only(true);
        let mut conn: SqliteConnection = options.connect().await.unwrap();
        sqlx::query_scalar("SELECT key FROM job_turns ORDER BY key").fetch_all(&mut conn).await.unwrap()
    }
}
