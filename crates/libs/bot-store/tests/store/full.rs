//! A store without space: it says so, keeps what it has, and goes on when there is space again.

use std::path::Path;

use bot_store::{Commit, Committed, Outgoing, Store, StoreError, StoreOptions};
use tempfile::tempdir;
use tokio::task::JoinSet;

use crate::fixture::{bodies, key, message, open, sending, settled};

const PAGES: u32 = 96;

async fn open_small(dir: &Path) -> Store {
    let options = StoreOptions::Sqlite { dir: dir.to_owned(), max_page_count: Some(PAGES) };
    Store::open(options).await.unwrap()
}

fn large(id: &str, bytes: usize) -> Commit {
    let outbox = vec![Outgoing { body: vec![b'x'; bytes], ..message(id) }];
    Commit { inbox: Some(settled(id)), outbox, ..Commit::default() }
}

/// Fills the store and answers how many messages went in.
async fn fill(store: &Store) -> usize {
    for number in 0..1_000 {
        match store.commit(large(&number.to_string(), 8_000)).await {
            Ok(answer) => assert_eq!(answer, Committed::Done),
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error}");
                assert!(store.inbox(&key(&number.to_string())).await.unwrap().is_none());
                return number;
            }
        }
    }
    panic!("the page limit does not hold");
}

#[tokio::test]
async fn a_full_store_says_so_and_works_again_once_messages_are_sent() {
    let dir = tempdir().unwrap();
    let store = open_small(dir.path()).await;
    let written = fill(&store).await;
    assert!(written > 5);
    assert!(matches!(store.commit(large("again", 8_000)).await, Err(StoreError::Full { .. })));
    assert!(matches!(store.try_room(8_000).await, Err(StoreError::Full { .. })));
    let queued = store.unsent(0, u32::MAX).await.unwrap();
    assert_eq!(queued.len(), written, "what was done before stays");
    store.mark_sent(queued.iter().take(3).map(|row| row.seq).collect()).await.unwrap();
    store.try_room(8_000).await.unwrap();
    assert_eq!(store.commit(large("again", 8_000)).await.unwrap(), Committed::Done);
}

#[tokio::test]
async fn a_full_store_works_again_with_a_higher_limit() {
    let dir = tempdir().unwrap();
    let store = open_small(dir.path()).await;
    let written = fill(&store).await;
    store.close().await;
    let store = open(dir.path()).await;
    assert_eq!(store.commit(large("again", 200_000)).await.unwrap(), Committed::Done);
    assert_eq!(store.counts().await.unwrap().outbox_unsent, written as u64 + 1);
}

/// `SQLite` answers a full disk by giving up the whole transaction; those who fit must not suffer for it.
#[tokio::test]
async fn a_write_that_does_not_fit_does_not_undo_its_neighbours() {
    let dir = tempdir().unwrap();
    let store = open_small(dir.path()).await;
    let before = store.commits_total();
    let mut writes = JoinSet::new();
    for number in 0..12 {
        let id = number.to_string();
        let too_large = number % 3 == 1;
        let commit =
            if too_large { large(&id, 1_000_000) } else { Commit { inbox: Some(settled(&id)), ..sending(&id) } };
        let store = store.clone();
        writes.spawn(async move { (id, too_large, store.commit(commit).await) });
    }
    for (id, too_large, answer) in writes.join_all().await {
        if too_large {
            assert!(matches!(answer, Err(StoreError::Full { .. })), "{answer:?}");
        } else {
            assert_eq!(answer.unwrap(), Committed::Done);
        }
        assert_eq!(store.inbox(&key(&id)).await.unwrap().is_some(), !too_large);
    }
    assert_eq!(bodies(&store).await, ["0", "2", "3", "5", "6", "8", "9", "11"]);
    assert!(store.commits_total() - before < 4, "they shared a transaction");
}
