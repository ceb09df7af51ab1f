//! Start marks, settings, and throwing away what is old.

use std::time::Duration;

use bot_store::Commit;
use serde_json::json;

use super::Place;
use crate::fixture::{HOUR, add_jobs, claim, done, held, ids, job, key, next_millisecond, sending, settled};

#[tokio::test]
async fn starts_without_an_outcome_are_counted_over_restarts() {
    let place = Place::new().await;
    let store = place.open().await;
    assert_eq!(store.mark_started("body").await.unwrap(), 1);
    assert_eq!(store.mark_started("body").await.unwrap(), 2);
    assert_eq!(store.mark_started("other").await.unwrap(), 1);
    store.close().await;

    let store = place.open().await;
    assert_eq!(store.mark_started("body").await.unwrap(), 3);
    store.clear_started("body").await.unwrap();
    assert_eq!(store.mark_started("body").await.unwrap(), 1);
}

#[tokio::test]
async fn a_setting_is_the_last_one_written() {
    let place = Place::new().await;
    let store = place.open().await;
    assert_eq!(store.meta("paused").await.unwrap(), None);
    store.set_meta("paused", "no").await.unwrap();
    store.set_meta("paused", "yes").await.unwrap();
    store.close().await;
    assert_eq!(place.open().await.meta("paused").await.unwrap().as_deref(), Some("yes"));
}

#[tokio::test]
async fn pruning_takes_the_old_and_leaves_the_young() {
    let place = Place::new().await;
    let store = place.open().await;
    store.commit(Commit { inbox: Some(settled("m1")), ..sending("a") }).await.unwrap();
    store.mark_started("body").await.unwrap();
    add_jobs(&store, vec![job("ended", None), job("running", None), job("waiting", None)]).await;
    let claimed = claim(&store, 2).await;
    assert_eq!(ids(&claimed), ["ended", "running"]);
    for held_job in &claimed {
        let step = Some(("upload".to_owned(), json!(1)));
        store.commit(Commit { guard: held(held_job), step, ..Commit::default() }).await.unwrap();
    }
    store.commit(done(&claimed[0])).await.unwrap();
    next_millisecond().await;

    assert_eq!(store.prune(HOUR, HOUR).await.unwrap(), 0);
    assert!(store.inbox(&key("m1")).await.unwrap().is_some());
    assert_eq!(store.prune(HOUR, Duration::ZERO).await.unwrap(), 1);
    assert!(store.job("ended").await.unwrap().is_none());
    assert_eq!(store.step("ended", "upload").await.unwrap(), None, "its steps go with a job");
    assert_eq!(store.prune(Duration::ZERO, HOUR).await.unwrap(), 2);
    assert!(store.inbox(&key("m1")).await.unwrap().is_none());
    assert_eq!(store.mark_started("body").await.unwrap(), 1);

    assert!(store.job("waiting").await.unwrap().is_some());
    assert_eq!(store.step("running", "upload").await.unwrap(), Some(json!(1)));
    assert_eq!(store.counts().await.unwrap().outbox_unsent, 1);
}

#[tokio::test]
async fn pruning_much_takes_several_transactions() {
    let place = Place::new().await;
    let store = place.open().await;
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..1_200 {
        let store = store.clone();
        let commit = Commit { inbox: Some(settled(&number.to_string())), ..Commit::default() };
        writes.spawn(async move { store.commit(commit).await.unwrap() });
    }
    writes.join_all().await;
    next_millisecond().await;
    let before = store.commits_total();
    assert_eq!(store.prune(Duration::ZERO, Duration::ZERO).await.unwrap(), 1_200);
    assert_eq!(store.commits_total() - before, 3, "at most 500 rows each");
}
