//! Opening: the folder's lock, the first connection, migrations, the tasks.

use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, SqlSafeStr as _};

use super::options::{PostgresOptions, Server};
use super::writer::Writer;
use super::{Database, listen};
use crate::directory;
use crate::line::Line;
use crate::model::StoreError;
use crate::signals::Signals;

/// Readers and the one that listens.
const CONNECTIONS_MAX: u32 = 4;
const ACQUIRE_MAX: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_mins(1);

/// Connects, brings the tables up to date, and takes the lock of the process's folder.
pub(crate) async fn open(options: PostgresOptions) -> Result<Database, StoreError> {
    let dir = options.dir();
    let lock = tokio::task::spawn_blocking(move || directory::take(&dir)).await.map_err(|_| StoreError::Closed)??;
    let server = Arc::new(Server { options });
    let mut conn = server.connect().await?;
    migrate(&mut conn).await.map_err(|error| server.error("bring its tables up to date", error))?;

    let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_MAX).idle_timeout(IDLE);
    let reads = pool.connect_lazy_with(server.connecting()?);
    let signals = Arc::new(Signals::default());
    let writer = Writer::new(Arc::clone(&server), conn, reads.clone(), Arc::clone(&signals), lock);
    let own = writer.name().to_owned();
    let listening = listen::listen(Arc::clone(&server), reads.clone(), Arc::clone(&signals), own);
    let listener = tokio::spawn(listening);
    let writes = Line::start(Arc::clone(server.place()), |queue| writer.run(queue));
    Ok(Database { server, reads, writes, signals, listener })
}

/// In one transaction, under the lock that every write takes: replicas may start at the same time.
async fn migrate(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Fails where another replica makes it at this moment, and then it is there.
    let making = sqlx::query("CREATE TABLE IF NOT EXISTS one_writer ()").execute(&mut *conn).await;
    let mut tx = conn.begin().await?;
    sqlx::query(super::writer::TAKE_TURN).execute(&mut *tx).await.map_err(|error| making.err().unwrap_or(error))?;
    let migrations = [
        (1, "store", include_str!("../../migrations/postgres/0001_store.sql")),
        (2, "tokens", include_str!("../../migrations/postgres/0002_tokens.sql")),
    ]
    .map(|(version, name, sql)| Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false));
    let mut migrator = Migrator::with_migrations(migrations.into());
    // Its own lock is one of the whole database, which any other bot could hold.
    migrator.set_locking(false);
    migrator.run(&mut *tx).await.map_err(|error| match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => source,
        other => sqlx::Error::Migrate(Box::new(other)),
    })?;
    tx.commit().await
}
