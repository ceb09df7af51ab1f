//! Writes that share a transaction: counted together, judged alone.

use bot_store::{Commit, Committed, Store, StoreError};
use serde_json::json;
use tokio::task::JoinSet;

use super::Place;
use crate::fixture::{add_jobs, bodies, job, key, sending, settled, write};

/// Adds one to a counter, as a handler would: read, compute, commit, again where it was stale. Answers how often it
/// asked.
async fn add_one(store: Store, entity: String, id: String) -> u64 {
    for asked in 1.. {
        let (count, version) = match store.state(&entity).await.unwrap() {
            Some((value, version)) => (value.as_u64().unwrap(), version),
            None => (0, 0),
        };
        let state = Some(write(&entity, version, json!(count + 1)));
        let commit = Commit { inbox: Some(settled(&id)), state, ..sending(&id) };
        match store.commit(commit).await.unwrap() {
            Committed::Done => return asked,
            answer => assert_eq!(answer, Committed::Stale),
        }
    }
    unreachable!("a commit is stale only where another one got through")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_commits_at_once_lose_no_update_and_share_transactions() {
    let place = Place::new().await;
    let store = place.open().await;
    let mut adders = JoinSet::new();
    for number in 0..200 {
        let (entity, id) = (format!("entity {}", number % 10), format!("message {number}"));
        adders.spawn(add_one(store.clone(), entity, id));
    }
    let asked: u64 = adders.join_all().await.into_iter().sum();
    for entity in 0..10 {
        assert_eq!(store.state(&format!("entity {entity}")).await.unwrap(), Some((json!(20), 20)));
    }
    let mut sent = bodies(&store).await;
    sent.sort();
    let mut expected: Vec<_> = (0..200).map(|number| format!("message {number}")).collect();
    expected.sort();
    assert_eq!(sent, expected);
    let commits = store.commits_total();
    assert!(asked >= 200);
    assert!(commits < 200, "{commits} transactions for 200 writes that were done, {asked} asked");
}

#[tokio::test]
async fn one_bad_write_does_not_undo_its_neighbours() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("taken", None)]).await;
    store.commit(Commit { inbox: Some(settled("seen")), ..Commit::default() }).await.unwrap();
    let before = store.commits_total();

    let mut writes = JoinSet::new();
    for number in 0..40 {
        let mut commit = Commit { inbox: Some(settled(&number.to_string())), ..sending(&number.to_string()) };
        match number % 4 {
            // Fails late: its message and its inbox row are written by then.
            1 => commit.jobs = vec![job("taken", None)],
            2 => commit.state = Some(write("shop", 7, json!(1))),
            3 => commit.inbox = Some(settled("seen")),
            _ => {}
        }
        let store = store.clone();
        writes.spawn(async move { (number, store.commit(commit).await) });
    }
    for (number, answer) in writes.join_all().await {
        match number % 4 {
            0 => assert_eq!(answer.unwrap(), Committed::Done),
            1 => assert!(matches!(answer, Err(StoreError::Database { doing: "commit", .. })), "{answer:?}"),
            2 => assert_eq!(answer.unwrap(), Committed::Stale),
            _ => assert_eq!(answer.unwrap(), Committed::Duplicate),
        }
        let marked = store.inbox(&key(&number.to_string())).await.unwrap().is_some();
        assert_eq!(marked, number % 4 == 0);
    }
    assert!(store.commits_total() - before < 5, "they shared a transaction");
    let mut sent: Vec<u32> = bodies(&store).await.iter().map(|body| body.parse().unwrap()).collect();
    sent.sort_unstable();
    assert_eq!(sent, (0..40).step_by(4).collect::<Vec<_>>());
}

#[tokio::test]
async fn refused_writes_cost_no_transaction() {
    let place = Place::new().await;
    let store = place.open().await;
    let commit = Commit { inbox: Some(settled("m1")), ..Commit::default() };
    store.commit(commit.clone()).await.unwrap();
    let before = store.commits_total();
    assert_eq!(store.commit(commit).await.unwrap(), Committed::Duplicate);
    store.mark_sent(vec![1, 2, 3]).await.unwrap();
    store.clear_started("never started").await.unwrap();
    assert_eq!(store.commits_total(), before);
}

#[tokio::test]
async fn closing_finishes_what_was_asked_for_and_refuses_the_rest() {
    let place = Place::new().await;
    let store = place.open().await;
    let mut writes = JoinSet::new();
    for number in 0..300 {
        let store = store.clone();
        writes.spawn(async move { store.commit(sending(&number.to_string())).await });
    }
    // Lets each of them ask, more than fit into the queue.
    tokio::task::yield_now().await;
    store.close().await;
    store.close().await;
    let answers = writes.join_all().await;
    let done = answers.iter().filter(|answer| matches!(answer, Ok(Committed::Done))).count();
    let closed = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Closed))).count();
    assert_eq!(done + closed, 300);
    assert!(done > 0);
    assert!(matches!(store.commit(sending("late")).await, Err(StoreError::Closed)));
    assert!(matches!(store.counts().await, Err(StoreError::Closed)));
    assert_eq!(bodies(&place.open().await).await.len(), done);
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_a_whole_commit_or_none() {
    let place = Place::new().await;
    let store = place.open().await;
    for number in 0..20 {
        let id = number.to_string();
        let commit = Commit { inbox: Some(settled(&id)), ..sending(&id) };
        let limit = std::time::Duration::from_micros(number * 50);
        let _ = tokio::time::timeout(limit, store.commit(commit)).await;
    }
    // A write behind all the others: what was given up has been applied by now, or never will be.
    store.set_meta("last", "one").await.unwrap();
    let sent = bodies(&store).await;
    for number in 0..20 {
        let id = number.to_string();
        let marked = store.inbox(&key(&id)).await.unwrap().is_some();
        assert_eq!(sent.contains(&id), marked, "{id}");
    }
}
