//! Opening: lock, connections, migrations, and the jobs that a dead process left behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqlSafeStr as _, SqliteConnection};

use super::Database;
use super::value::store_error;
use super::writer::Writer;
use crate::directory;
use crate::line::Line;
use crate::model::StoreError;
use crate::signals::Signals;

/// A reader costs a thread and a page cache; what they do takes microseconds.
const READERS_MAX: u32 = 3;
const READER_IDLE: Duration = Duration::from_mins(1);
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What the write-ahead log shrinks back to after a burst.
const LOG_BYTES_KEPT: u32 = 8 * 1024 * 1024;

/// Opens or creates the store and takes its lock.
pub(crate) async fn open(dir: PathBuf, max_page_count: Option<u32>) -> Result<Database, StoreError> {
    let name: Arc<str> = dir.display().to_string().into();
    let failed = |doing: &'static str| {
        let name = Arc::clone(&name);
        move |source| store_error(&name, doing, source)
    };
    let taking = tokio::task::spawn_blocking(move || directory::take_with_database(&dir));
    let (lock, database) = taking.await.map_err(|_| StoreError::Closed)??;

    let connecting = write_options(&database, max_page_count);
    let mut conn = connecting.connect().await.map_err(failed("open its database"))?;
    migrate(&mut conn).await.map_err(failed("bring its tables up to date"))?;
    let returned = return_running_jobs(&mut conn).await.map_err(failed("hand back interrupted jobs"))?;
    if returned > 0 {
        tracing::info!(store = %name, jobs = returned, "jobs that the process before was running wait again");
    }

    let reads = SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .idle_timeout(READER_IDLE)
        .test_before_acquire(false)
        .connect_lazy_with(read_options(&database));
    let signals = Arc::new(Signals::default());
    let writer = Writer { name: Arc::clone(&name), conn, signals: Arc::clone(&signals), lock };
    let writes = Line::start(Arc::clone(&name), |queue| writer.run(queue));
    Ok(Database { name, reads, writes, signals })
}

fn write_options(database: &Path, max_page_count: Option<u32>) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(database)
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL would lose the last commits when the power fails.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("journal_size_limit", LOG_BYTES_KEPT.to_string())
        .disable_statement_logging();
    match max_page_count {
        Some(pages) => options.pragma("max_page_count", pages.to_string()),
        None => options,
    }
}

fn read_options(database: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(database)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
}

async fn migrate(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let migrations = [
        (1, "store", include_str!("../../migrations/sqlite/0001_store.sql")),
        (2, "refusals", include_str!("../../migrations/sqlite/0002_refusals.sql")),
        (3, "turns", include_str!("../../migrations/sqlite/0003_turns.sql")),
        (4, "tokens", include_str!("../../migrations/sqlite/0004_tokens.sql")),
    ]
    .map(|(version, name, sql)| Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false));
    let outcome = Migrator::with_migrations(migrations.into()).run(conn).await;
    outcome.map_err(|error| match error {
        // Unwrapped, so that a full disk is told as such.
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => source,
        other => sqlx::Error::Migrate(Box::new(other)),
    })
}

/// This process alone holds the store, so whoever ran these jobs is gone. Their attempt stays counted, or a job that
/// kills its bot would be tried for ever.
async fn return_running_jobs(conn: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE jobs SET status = 'waiting', holder = NULL, lease_until_ms = NULL WHERE status = 'running'",
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No test can cut the power, so this one holds the settings that survive it.
    #[tokio::test]
    async fn a_commit_is_answered_when_it_is_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (_lock, database) = directory::take_with_database(dir.path()).unwrap();
        let mut conn = write_options(&database, None).connect().await.unwrap();
        let settings = [("journal_mode", "wal"), ("synchronous", "2"), ("foreign_keys", "1")];
        for (name, expected) in settings {
            let sql = sqlx::AssertSqlSafe(format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}"));
            let found: String = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
            assert_eq!(found, expected, "{name}");
        }
    }
}
