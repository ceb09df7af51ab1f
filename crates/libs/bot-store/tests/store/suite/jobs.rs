//! Jobs: who may hold one, in which order, for how long, and that whoever lost one can write nothing.

use std::time::Duration;

use bot_store::{Commit, Committed, JobOutcome, JobStatus, Renewed};
use serde_json::json;

use super::Place;
use crate::fixture::{
    HOUR, LEASE, add_jobs, again, bodies, claim, done, ending, held, ids, job, next_millisecond, sending,
};

#[tokio::test]
async fn the_oldest_jobs_are_claimed_first_and_each_once() {
    let place = Place::new().await;
    let store = place.open().await;
    // Ids in falling order: the age decides, not the id.
    add_jobs(&store, vec![job("c", None), job("b", None)]).await;
    add_jobs(&store, vec![job("a", None)]).await;
    let first = claim(&store, 2).await;
    assert_eq!(ids(&first), ["c", "b"]);
    assert_eq!((first[0].attempt, first[0].is_first), (1, true));
    assert!(first[0].token < first[1].token, "one order of tokens for all jobs");
    assert_eq!((&first[0].payload, &first[0].meta), (&json!({ "of": "c" }), &json!({ "hop": 1 })));
    assert!((0..60_000).contains(&first[0].age_ms));
    assert_eq!(ids(&claim(&store, 2).await), ["a"]);
    assert_eq!(ids(&claim(&store, 2).await), [""; 0]);
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.jobs_waiting, counts.jobs_running), (0, 3));
}

#[tokio::test]
async fn jobs_with_one_exclusive_key_run_one_at_a_time_by_age() {
    let place = Place::new().await;
    let store = place.open().await;
    let production = Some("production");
    add_jobs(&store, vec![job("p1", production), job("p2", production), job("s1", Some("staging"))]).await;
    add_jobs(&store, vec![job("free1", None), job("free2", None)]).await;
    let claimed = claim(&store, 10).await;
    assert_eq!(ids(&claimed), ["p1", "s1", "free1", "free2"]);
    assert_eq!(ids(&claim(&store, 10).await), [""; 0]);
    store.commit(done(&claimed[0])).await.unwrap();
    assert_eq!(ids(&claim(&store, 10).await), ["p2"]);
}

/// Otherwise an older deployment that is tried again would end up on top of a newer one.
#[tokio::test]
async fn a_job_does_not_pass_an_older_one_of_its_exclusive_key_that_waits_for_its_next_attempt() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("old", Some("production")), job("new", Some("production"))]).await;
    let old = claim(&store, 10).await.remove(0);
    store.commit(ending(&old, again(HOUR, true))).await.unwrap();
    assert_eq!(ids(&claim(&store, 10).await), [""; 0]);
    let left = store.next_job_in().await.unwrap().unwrap();
    assert!(left > HOUR / 2 && left <= HOUR, "{left:?}");
}

#[tokio::test]
async fn a_job_tried_again_waits_for_its_time_and_counts_its_attempts() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("j1", None)]).await;
    let first = claim(&store, 1).await.remove(0);
    store.commit(ending(&first, again(Duration::ZERO, true))).await.unwrap();
    let view = store.job("j1").await.unwrap().unwrap();
    assert_eq!((view.status, view.attempt), (JobStatus::Waiting, 1));
    assert_eq!(view.last_error.as_deref(), Some("the host did not answer"));

    let second = claim(&store, 1).await.remove(0);
    assert_eq!((second.attempt, second.is_first), (2, false));
    store.commit(ending(&second, again(Duration::ZERO, false))).await.unwrap();
    let third = claim(&store, 1).await.remove(0);
    assert_eq!((third.attempt, third.is_first), (2, false), "an orderly hand-back is not an attempt");
    assert!(first.token < second.token && second.token < third.token);
    store.commit(ending(&third, again(HOUR, true))).await.unwrap();
    assert_eq!(ids(&claim(&store, 1).await), [""; 0]);
}

#[tokio::test]
async fn every_end_is_kept_and_is_final() {
    let place = Place::new().await;
    let store = place.open().await;
    let ends = [JobStatus::Done, JobStatus::Failed, JobStatus::Cancelled, JobStatus::TimedOut];
    for status in ends {
        add_jobs(&store, vec![job(status.as_str(), None)]).await;
        let held_job = claim(&store, 1).await.remove(0);
        let end = ending(&held_job, JobOutcome::Ended(status));
        assert_eq!(store.commit(end.clone()).await.unwrap(), Committed::Done);
        assert_eq!(store.job(status.as_str()).await.unwrap().unwrap().status, status);
        assert_eq!(store.commit(end).await.unwrap(), Committed::Fenced);
        assert!(!store.request_cancel(status.as_str(), "too late").await.unwrap());
    }
    assert!(store.job("unknown").await.unwrap().is_none());
    assert_eq!(store.next_job_in().await.unwrap(), None);
}

#[tokio::test]
async fn whoever_gave_a_job_back_can_write_nothing_more_of_it() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("j1", None)]).await;
    let old = claim(&store, 1).await.remove(0);
    store.commit(ending(&old, again(Duration::ZERO, true))).await.unwrap();
    // Once while the job waits under the same token, once after another took it.
    for _ in 0..2 {
        let progress = Commit { guard: held(&old), ..sending("stray") };
        let step = Some(("upload".to_owned(), json!("stray")));
        assert_eq!(store.commit(progress.clone()).await.unwrap(), Committed::Fenced);
        assert_eq!(store.commit(Commit { step, ..progress }).await.unwrap(), Committed::Fenced);
        assert_eq!(store.commit(done(&old)).await.unwrap(), Committed::Fenced);
        assert_eq!(store.renew("j1", old.token, LEASE).await.unwrap(), Renewed::Lost);
        claim(&store, 1).await;
    }
    assert_eq!(bodies(&store).await, [""; 0]);
    assert_eq!(store.step("j1", "upload").await.unwrap(), None);
    assert_eq!(store.job("j1").await.unwrap().unwrap().status, JobStatus::Running);
}

#[tokio::test]
async fn an_expired_lease_is_taken_over_and_a_renewed_one_is_not() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("j1", Some("production")), job("j2", Some("production"))]).await;
    let old = store.claim("a", Duration::ZERO, 1, &[], &[]).await.unwrap().remove(0);
    assert_eq!(store.renew("j1", old.token, LEASE).await.unwrap(), Renewed::Held { cancel: None });
    next_millisecond().await;
    assert_eq!(ids(&claim(&store, 10).await), [""; 0]);

    assert_eq!(store.renew("j1", old.token, Duration::ZERO).await.unwrap(), Renewed::Held { cancel: None });
    next_millisecond().await;
    assert_eq!(store.next_job_in().await.unwrap(), Some(Duration::ZERO));
    let by_itself = store.claim("a", LEASE, 10, &["j1".to_owned()], &[]).await.unwrap();
    assert_eq!(ids(&by_itself), [""; 0], "who still runs it takes it from nobody");
    let taken = claim(&store, 10).await;
    assert_eq!(ids(&taken), ["j1"], "it still holds its exclusive key");
    assert_eq!(taken[0].attempt, 2);
    assert!(taken[0].token > old.token, "{} after {}", taken[0].token, old.token);
    assert_eq!(store.commit(done(&old)).await.unwrap(), Committed::Fenced);
    assert_eq!(store.commit(done(&taken[0])).await.unwrap(), Committed::Done);
}

#[tokio::test]
async fn a_running_job_learns_with_its_lease_that_it_should_stop() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("j1", None)]).await;
    let running = claim(&store, 1).await.remove(0);
    assert!(store.request_cancel("j1", "superseded").await.unwrap());
    assert!(store.request_cancel("j1", "another reason").await.unwrap());
    let renewed = store.renew("j1", running.token, LEASE).await.unwrap();
    assert_eq!(renewed, Renewed::Held { cancel: Some("superseded".to_owned()) });
    assert!(!store.request_cancel("unknown", "x").await.unwrap());
}

#[tokio::test]
async fn a_cancelled_job_that_waits_is_due_at_once() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("j1", None)]).await;
    let first = claim(&store, 1).await.remove(0);
    store.commit(ending(&first, again(HOUR, true))).await.unwrap();
    assert_eq!(ids(&claim(&store, 1).await), [""; 0]);
    assert!(store.request_cancel("j1", "superseded").await.unwrap());
    let claimed = claim(&store, 1).await;
    assert_eq!(claimed[0].cancel.as_deref(), Some("superseded"));
}

#[tokio::test]
async fn a_step_is_done_once_over_all_attempts() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("j1", None), job("j2", None)]).await;
    let step = |value: &str| Some(("upload".to_owned(), json!(value)));
    let first = claim(&store, 1).await.remove(0);
    let upload = Commit { guard: held(&first), step: step("receipt 1"), ..sending("uploaded") };
    assert_eq!(store.commit(upload).await.unwrap(), Committed::Done);
    store.commit(ending(&first, again(Duration::ZERO, true))).await.unwrap();

    let both = claim(&store, 2).await;
    let upload = Commit { guard: held(&both[0]), step: step("receipt 2"), ..sending("uploaded twice") };
    assert_eq!(store.commit(upload).await.unwrap(), Committed::StepDone);
    assert_eq!(store.step("j1", "upload").await.unwrap(), Some(json!("receipt 1")));
    let other = Commit { guard: held(&both[1]), step: step("receipt 3"), ..Commit::default() };
    assert_eq!(store.commit(other).await.unwrap(), Committed::Done, "steps belong to their job");
    assert_eq!(bodies(&store).await, ["uploaded"]);
}

#[tokio::test]
async fn a_wake_up_for_jobs_is_kept_until_someone_waits() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("j1", Some("production")), job("j2", Some("production"))]).await;
    store.jobs_changed().notified().await;
    assert_eq!(store.next_job_in().await.unwrap(), Some(Duration::ZERO));
    let first = claim(&store, 2).await.remove(0);
    // The end of one frees the next.
    store.commit(done(&first)).await.unwrap();
    store.jobs_changed().notified().await;
    assert_eq!(ids(&claim(&store, 2).await), ["j2"]);
}

#[tokio::test]
async fn a_job_is_found_by_the_beginning_of_its_id() {
    let place = Place::new().await;
    let store = place.open().await;
    add_jobs(&store, vec![job("abc-1", None), job("abc-10", None), job("abc-2", None)]).await;
    let held = claim(&store, 1).await;
    store.commit(done(&held[0])).await.unwrap();
    let found = async |beginning: &str| {
        let jobs = store.jobs_like(beginning).await.unwrap();
        jobs.into_iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(found("abc-1").await, ["abc-1"], "its own id, before those that go on");
    assert_eq!(found("abc-2").await, ["abc-2"]);
    assert_eq!(found("abc").await.len(), 2, "two are enough");
    assert_eq!((found("b").await.len(), found("abc_1").await.len(), found("%").await.len()), (0, 0, 0));
    let known = store.jobs_like("abc-1").await.unwrap().remove(0);
    assert_eq!((known.status, known.key.as_str(), known.weight), (JobStatus::Done, "shop", 1));
    assert_eq!((known.payload, known.meta), (json!({"of": "abc-1"}), json!({"hop": 1})));
}

#[tokio::test]
async fn a_kind_that_is_held_is_not_claimed_but_to_be_stopped() {
    let place = Place::new().await;
    let store = place.open().await;
    let other = bot_store::NewJob { kind: "collect".to_owned(), ..job("j2", None) };
    add_jobs(&store, vec![job("j1", None), other, job("j3", None)]).await;
    let held = ["deploy".to_owned()];
    let claimed = store.claim("a", LEASE, 10, &[], &held).await.unwrap();
    assert_eq!(ids(&claimed), ["j2"]);
    assert!(store.request_cancel("j3", "not needed").await.unwrap());
    assert_eq!(ids(&store.claim("a", Duration::ZERO, 10, &[], &held).await.unwrap()), ["j3"]);
    next_millisecond().await;
    assert_eq!(ids(&claim(&store, 10).await), ["j3", "j1"]);
}
