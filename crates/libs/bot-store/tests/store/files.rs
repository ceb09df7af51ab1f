//! The directory and its files: private, held by one, and refused where they cannot be.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bot_store::{Committed, JobStatus, Store, StoreError};
use tempfile::tempdir;

use crate::fixture::{add_jobs, claim, done, job, open, options};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

async fn why_refused(dir: &Path) -> String {
    match Store::open(options(dir)).await {
        Err(StoreError::Directory { why, .. }) => why,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[tokio::test]
async fn everything_it_creates_is_private() {
    let dir = tempdir().unwrap();
    let place = dir.path().join("deeper/bot");
    let store = open(&place).await;
    store.set_meta("a", "b").await.unwrap();
    assert_eq!(store.meta("a").await.unwrap().as_deref(), Some("b"));
    assert_eq!(mode(&place), 0o700);
    let files: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 4, "database, log, index and lock: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn an_empty_directory_or_an_open_store_is_made_private() {
    let dir = tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    open(dir.path()).await.close().await;
    assert_eq!(mode(dir.path()), 0o700);

    let database = dir.path().join("store.db");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&database, Permissions::from_mode(0o644)).unwrap();
    open(dir.path()).await.close().await;
    assert_eq!((mode(dir.path()), mode(&database)), (0o700, 0o600));
}

#[tokio::test]
async fn a_directory_of_others_is_left_alone() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("something"), "else").unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
    assert!(why_refused(dir.path()).await.contains("everyone may write there"));
    assert_eq!(mode(dir.path()), 0o1777);

    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    open(dir.path()).await.close().await;
    assert_eq!(mode(dir.path()), 0o755);
    let file = dir.path().join("something");
    assert!(why_refused(&file).await.contains("not a directory"));
}

#[tokio::test]
async fn a_store_is_open_once_and_can_be_opened_again_after_it_was_closed() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).await;
    match Store::open(options(dir.path())).await {
        Err(StoreError::InUse { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("expected InUse, found {other:?}"),
    }
    store.close().await;
    let again = open(dir.path()).await;
    again.close().await;
    assert!(!dir.path().join("store.db-wal").exists(), "closed in order, nothing is left in the log");
}

#[tokio::test]
async fn jobs_that_ran_when_their_process_died_wait_again_with_their_attempt_counted() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).await;
    add_jobs(&store, vec![job("j1", Some("production"))]).await;
    let dead = claim(&store, 1).await.remove(0);
    store.close().await;

    let store = open(dir.path()).await;
    let view = store.job("j1").await.unwrap().unwrap();
    assert_eq!((view.status, view.attempt), (JobStatus::Waiting, 1));
    assert_eq!(store.commit(done(&dead)).await.unwrap(), Committed::Fenced);
    let taken = claim(&store, 1).await.remove(0);
    assert_eq!((taken.attempt, taken.is_first), (2, false));
    assert!(taken.token > dead.token, "{} after {}", taken.token, dead.token);
}
