//! Timers: due in time, replaced by name, cleared once, and still there after a restart.

use std::time::Duration;

use bot_store::{Commit, Committed, Guard, Timer};

use super::Place;
use crate::fixture::{HOUR, bodies, sending, setting, timer};

fn guard(timer: &Timer) -> Guard {
    Guard::Timer { name: timer.name.clone(), generation: timer.generation }
}

#[tokio::test]
async fn only_timers_whose_time_has_come_are_due() {
    let place = Place::new().await;
    let store = place.open().await;
    assert_eq!(store.next_timer_in().await.unwrap(), None);
    store.commit(setting(vec![timer("later", HOUR)])).await.unwrap();
    store.timers_changed().notified().await;
    let left = store.next_timer_in().await.unwrap().unwrap();
    assert!(left > HOUR / 2 && left <= HOUR, "{left:?}");
    assert_eq!(store.due_timers(10).await.unwrap().len(), 0);

    store.commit(setting(vec![timer("now", Duration::ZERO)])).await.unwrap();
    assert_eq!(store.next_timer_in().await.unwrap(), Some(Duration::ZERO));
    let due = store.due_timers(10).await.unwrap();
    assert_eq!(due.iter().map(|timer| timer.name.as_str()).collect::<Vec<_>>(), ["now"]);
}

#[tokio::test]
async fn a_due_timer_stays_until_a_commit_clears_it_and_is_handled_once() {
    let place = Place::new().await;
    let store = place.open().await;
    store.commit(setting(vec![timer("expiry", Duration::ZERO)])).await.unwrap();
    let due = store.due_timers(10).await.unwrap().remove(0);
    store.close().await;

    let store = place.open().await;
    assert_eq!(store.due_timers(10).await.unwrap()[0].generation, due.generation);
    let handled = |body| Commit { guard: guard(&due), ..sending(body) };
    assert_eq!(store.commit(handled("expired")).await.unwrap(), Committed::Done);
    assert_eq!(store.commit(handled("expired twice")).await.unwrap(), Committed::Fenced);
    assert_eq!(store.due_timers(10).await.unwrap().len(), 0);
    assert_eq!(bodies(&store).await, ["expired"]);
}

#[tokio::test]
async fn a_timer_set_anew_replaces_the_old_one_and_fences_who_still_handles_that() {
    let place = Place::new().await;
    let store = place.open().await;
    store.commit(setting(vec![timer("expiry", Duration::ZERO)])).await.unwrap();
    let old = store.due_timers(10).await.unwrap().remove(0);
    store.commit(setting(vec![timer("expiry", HOUR)])).await.unwrap();
    assert_eq!(store.due_timers(10).await.unwrap().len(), 0);
    let stray = Commit { guard: guard(&old), ..sending("expired") };
    assert_eq!(store.commit(stray).await.unwrap(), Committed::Fenced);
    assert!(store.next_timer_in().await.unwrap().is_some(), "the new one stands");
    assert_eq!(bodies(&store).await, [""; 0]);
}

#[tokio::test]
async fn the_generation_rises_even_after_a_timer_was_cleared() {
    let place = Place::new().await;
    let store = place.open().await;
    store.commit(setting(vec![timer("expiry", Duration::ZERO)])).await.unwrap();
    let old = store.due_timers(10).await.unwrap().remove(0);
    let clear = Commit { clear_timers: vec!["expiry".to_owned()], ..Commit::default() };
    store.commit(clear).await.unwrap();
    assert_eq!(store.next_timer_in().await.unwrap(), None);
    store.commit(setting(vec![timer("expiry", Duration::ZERO)])).await.unwrap();
    assert!(store.due_timers(10).await.unwrap()[0].generation > old.generation);
}

#[tokio::test]
async fn a_commit_may_set_again_the_timer_it_handles_or_clears() {
    let place = Place::new().await;
    let store = place.open().await;
    store.commit(setting(vec![timer("remind", Duration::ZERO)])).await.unwrap();
    let due = store.due_timers(10).await.unwrap().remove(0);
    let again = Commit { guard: guard(&due), ..setting(vec![timer("remind", HOUR)]) };
    assert_eq!(store.commit(again).await.unwrap(), Committed::Done);
    let both = Commit { clear_timers: vec!["remind".to_owned()], ..setting(vec![timer("remind", Duration::ZERO)]) };
    assert_eq!(store.commit(both).await.unwrap(), Committed::Done);
    assert_eq!(store.due_timers(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_timer_that_is_woken_is_due_as_it_was_set() {
    let place = Place::new().await;
    let store = place.open().await;
    store.commit(setting(vec![timer("approval", HOUR), timer("other", HOUR)])).await.unwrap();
    store.timers_changed().notified().await;
    let wake = |name: &str| Commit { wake_timers: vec![name.to_owned()], ..Commit::default() };
    store.commit(wake("nobody")).await.unwrap();
    assert_eq!(store.due_timers(10).await.unwrap().len(), 0, "what is not set is not made");
    store.commit(wake("approval")).await.unwrap();
    store.timers_changed().notified().await;
    let due = store.due_timers(10).await.unwrap();
    assert_eq!(due.iter().map(|timer| timer.name.as_str()).collect::<Vec<_>>(), ["approval"]);
    let handled = Commit { guard: guard(&due[0]), ..sending("granted") };
    assert_eq!(store.commit(handled).await.unwrap(), Committed::Done, "it is the timer that was set");
}
