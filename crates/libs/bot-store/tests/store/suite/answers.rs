//! What a commit answers, in which order it decides, and that anything but `Done` changes nothing.

use std::time::Duration;

use bot_store::{Commit, Committed, Guard, InboxEntry, InboxKey, InboxMark, JobOutcome, JobStatus, Store, StoreError};
use serde_json::json;

use super::Place;
use crate::fixture::{add_jobs, bodies, claim, ending, held, job, key, sending, setting, settled, timer, write};

#[tokio::test]
async fn done_writes_everything_it_names() {
    let place = Place::new().await;
    let store = place.open().await;
    let commit = Commit {
        inbox: Some(settled("m1")),
        state: Some(write("shop", 0, json!({ "builds": 1 }))),
        jobs: vec![job("j1", None)],
        set_timers: vec![timer("t1", Duration::ZERO)],
        ..sending("hello")
    };
    assert_eq!(store.commit(commit).await.unwrap(), Committed::Done);
    let entry = InboxEntry { content_hash: "one".to_owned(), settled: true, attempt: 1 };
    assert_eq!(store.inbox(&key("m1")).await.unwrap(), Some(entry));
    assert_eq!(store.state("shop").await.unwrap(), Some((json!({ "builds": 1 }), 1)));
    let queued = store.unsent(0, 10).await.unwrap();
    assert_eq!(queued.len(), 1);
    assert_eq!(queued[0].message, crate::fixture::message("hello"));
    assert_eq!(store.job("j1").await.unwrap().unwrap().status, JobStatus::Waiting);
    assert_eq!(store.due_timers(10).await.unwrap()[0].data, json!({ "of": "t1" }));
}

#[tokio::test]
async fn duplicate_where_the_message_is_settled() {
    let place = Place::new().await;
    let store = place.open().await;
    let commit = |body| Commit { inbox: Some(settled("m1")), ..sending(body) };
    assert_eq!(store.commit(commit("first")).await.unwrap(), Committed::Done);
    assert_eq!(store.commit(commit("second")).await.unwrap(), Committed::Duplicate);
    assert_eq!(bodies(&store).await, ["first"]);
}

#[tokio::test]
async fn conflict_where_the_key_has_other_content() {
    let place = Place::new().await;
    let store = place.open().await;
    let mark = |id: &str, settled, content: &str| InboxMark {
        key: key(id),
        content_hash: content.to_owned(),
        attempt: 1,
        settled,
        counts: true,
    };
    for (id, is_settled) in [("m1", true), ("m2", false)] {
        let first = Commit { inbox: Some(mark(id, is_settled, "one")), ..Commit::default() };
        assert_eq!(store.commit(first).await.unwrap(), Committed::Done);
        let other = Commit { inbox: Some(mark(id, true, "two")), ..sending("other") };
        assert_eq!(store.commit(other).await.unwrap(), Committed::Conflict);
        assert_eq!(store.inbox(&key(id)).await.unwrap().unwrap().content_hash, "one");
    }
    assert_eq!(bodies(&store).await, [""; 0]);
}

#[tokio::test]
async fn old_attempt_where_a_later_one_is_expected() {
    let place = Place::new().await;
    let store = place.open().await;
    let attempt = |attempt, is_settled, body| Commit {
        inbox: Some(InboxMark { attempt, settled: is_settled, ..settled("m1") }),
        ..sending(body)
    };
    assert_eq!(store.commit(attempt(1, false, "retry")).await.unwrap(), Committed::Done);
    let entry = store.inbox(&key("m1")).await.unwrap().unwrap();
    assert_eq!((entry.settled, entry.attempt), (false, 2));
    assert_eq!(store.commit(attempt(1, false, "again")).await.unwrap(), Committed::OldAttempt);
    assert_eq!(store.commit(attempt(1, true, "late")).await.unwrap(), Committed::OldAttempt);
    assert_eq!(store.commit(attempt(2, true, "done")).await.unwrap(), Committed::Done);
    let entry = store.inbox(&key("m1")).await.unwrap().unwrap();
    assert_eq!((entry.settled, entry.attempt), (true, 2));
    assert_eq!(bodies(&store).await, ["retry", "done"]);
}

#[tokio::test]
async fn what_is_put_off_stays_the_same_attempt_however_often() {
    let place = Place::new().await;
    let store = place.open().await;
    let off =
        |body| Commit { inbox: Some(InboxMark { settled: false, counts: false, ..settled("m1") }), ..sending(body) };
    for body in ["once", "twice", "thrice"] {
        assert_eq!(store.commit(off(body)).await.unwrap(), Committed::Done);
        let entry = store.inbox(&key("m1")).await.unwrap().unwrap();
        assert_eq!((entry.settled, entry.attempt), (false, 1));
    }
    let done = Commit { inbox: Some(settled("m1")), ..sending("done") };
    assert_eq!(store.commit(done.clone()).await.unwrap(), Committed::Done);
    assert_eq!(store.commit(done).await.unwrap(), Committed::Duplicate);
    assert_eq!(bodies(&store).await, ["once", "twice", "thrice", "done"]);
}

#[tokio::test]
async fn publisher_and_replay_are_part_of_whose_message_it_is() {
    let place = Place::new().await;
    let store = place.open().await;
    let keys =
        [key("m1"), InboxKey { replay: 1, ..key("m1") }, InboxKey { publisher: "lint-bot".to_owned(), ..key("m1") }];
    for key in keys {
        let mark = InboxMark { key, ..settled("m1") };
        let commit = Commit { inbox: Some(mark), ..Commit::default() };
        assert_eq!(store.commit(commit.clone()).await.unwrap(), Committed::Done);
        assert_eq!(store.commit(commit).await.unwrap(), Committed::Duplicate);
    }
}

#[tokio::test]
async fn stale_where_the_state_has_another_version() {
    let place = Place::new().await;
    let store = place.open().await;
    let commit = |version, body| Commit { state: Some(write("shop", version, json!(body))), ..sending(body) };
    assert_eq!(store.commit(commit(1, "too new")).await.unwrap(), Committed::Stale);
    assert_eq!(store.commit(commit(0, "first")).await.unwrap(), Committed::Done);
    assert_eq!(store.commit(commit(0, "lost update")).await.unwrap(), Committed::Stale);
    assert_eq!(store.commit(commit(1, "second")).await.unwrap(), Committed::Done);
    assert_eq!(store.state("shop").await.unwrap(), Some((json!("second"), 2)));
    assert_eq!(bodies(&store).await, ["first", "second"]);
}

/// A commit against which everything speaks, and then one thing less each time.
#[tokio::test]
async fn the_order_of_the_checks_decides_the_answer() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("j1", None)]).await;
    let held_job = claim(&store, 1).await.remove(0);
    let before = Commit {
        guard: held(&held_job),
        inbox: Some(settled("m1")),
        state: Some(write("shop", 0, json!(1))),
        step: Some(("upload".to_owned(), json!("receipt"))),
        ..Commit::default()
    };
    assert_eq!(store.commit(before.clone()).await.unwrap(), Committed::Done);

    let mut commit = before;
    commit.outbox = sending("never").outbox;
    commit.guard = Guard::Job { id: "j1".to_owned(), token: held_job.token + 1 };
    assert_eq!(store.commit(commit.clone()).await.unwrap(), Committed::Fenced);
    commit.guard = held(&held_job);
    assert_eq!(store.commit(commit.clone()).await.unwrap(), Committed::StepDone);
    commit.step = None;
    assert_eq!(store.commit(commit.clone()).await.unwrap(), Committed::Duplicate);
    commit.inbox = None;
    assert_eq!(store.commit(commit.clone()).await.unwrap(), Committed::Stale);
    assert_eq!(bodies(&store).await, [""; 0]);
    commit.state = None;
    assert_eq!(store.commit(commit).await.unwrap(), Committed::Done);
    assert_eq!(bodies(&store).await, ["never"]);
}

#[tokio::test]
async fn a_refused_commit_leaves_the_timer_it_was_guarded_by() {
    let place = Place::new().await;
    let store = place.open().await;
    store.commit(setting(vec![timer("t1", Duration::ZERO)])).await.unwrap();
    let due = store.due_timers(1).await.unwrap().remove(0);
    let guard = Guard::Timer { name: due.name, generation: due.generation };
    let stale = Commit { guard: guard.clone(), state: Some(write("shop", 7, json!(1))), ..Commit::default() };
    assert_eq!(store.commit(stale).await.unwrap(), Committed::Stale);
    assert_eq!(store.due_timers(1).await.unwrap().len(), 1);
    let fresh = Commit { guard, state: Some(write("shop", 0, json!(1))), ..Commit::default() };
    assert_eq!(store.commit(fresh).await.unwrap(), Committed::Done);
    assert_eq!(store.due_timers(1).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_step_or_an_end_without_its_job_is_refused_aloud() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("j1", None)]).await;
    let held_job = claim(&store, 1).await.remove(0);
    let end = ending(&held_job, JobOutcome::Ended(JobStatus::Done));
    let step = Some(("upload".to_owned(), json!(1)));
    refused(&store, Commit { guard: Guard::None, ..end }).await;
    refused(&store, Commit { step, ..sending("never") }).await;
    refused(&store, ending(&held_job, JobOutcome::Ended(JobStatus::Waiting))).await;
    assert_eq!(bodies(&store).await, [""; 0]);
    assert_eq!(store.job("j1").await.unwrap().unwrap().status, JobStatus::Running);
}

async fn refused(store: &Store, commit: Commit) {
    let error = store.commit(commit).await.unwrap_err();
    assert!(matches!(error, StoreError::Database { doing: "commit", .. }), "{error}");
}
