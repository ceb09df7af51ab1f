//! The suite in a schema of PostgreSQL.

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
use sqlx::{Connection as _, PgConnection};

use crate::fixture::Schema;

/// Where a test's store is.
struct Place(Schema);

impl Place {
    /// Of random commits that are tried; each connects many times.
    const CASES: u32 = 4;

    async fn new() -> Self {
        Self(Schema::new().await)
    }

    async fn open(&self) -> Store {
        self.0.open().await
    }

    /// The keys that have taken turns.
    async fn turns(&self) -> Vec<String> {
        let mut conn = PgConnection::connect(&self.0.admin_url()).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("SELECT key FROM {}.job_turns ORDER BY key", self.0.name));
        sqlx::query_scalar(sql).fetch_all(&mut conn).await.unwrap()
    }
}
