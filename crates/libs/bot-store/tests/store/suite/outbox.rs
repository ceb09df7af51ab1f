//! The outbox: in order, kept until confirmed, never twice under one number.

use bot_store::Commit;

use super::Place;
use crate::fixture::{bodies, message, sending};

#[tokio::test]
async fn unsent_messages_come_in_order_and_page_by_page() {
    let place = Place::new().await;
    let store = place.open().await;
    let outbox = ["a", "b", "c"].map(message).to_vec();
    store.commit(Commit { outbox, ..Commit::default() }).await.unwrap();
    store.commit(sending("d")).await.unwrap();
    let first = store.unsent(0, 3).await.unwrap();
    assert!(first.is_sorted_by(|one, next| one.seq < next.seq));
    let rest = store.unsent(first[2].seq, 3).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].message, message("d"));
    assert_eq!(store.counts().await.unwrap().outbox_unsent, 4);
}

#[tokio::test]
async fn messages_survive_a_restart_until_they_are_confirmed() {
    let place = Place::new().await;
    let store = place.open().await;
    for body in ["a", "b", "c"] {
        store.commit(sending(body)).await.unwrap();
    }
    store.close().await;

    let store = place.open().await;
    let queued = store.unsent(0, 10).await.unwrap();
    store.mark_sent(vec![queued[0].seq, queued[2].seq]).await.unwrap();
    assert_eq!(bodies(&store).await, ["b"]);
    store.close().await;
    assert_eq!(bodies(&place.open().await).await, ["b"]);
}

/// Otherwise a confirmation that comes late, from before a restart, would delete a message that was never sent.
#[tokio::test]
async fn a_number_is_never_given_twice() {
    let place = Place::new().await;
    let store = place.open().await;
    store.commit(sending("a")).await.unwrap();
    let old = store.unsent(0, 1).await.unwrap()[0].seq;
    store.mark_sent(vec![old]).await.unwrap();
    store.close().await;

    let store = place.open().await;
    store.commit(sending("b")).await.unwrap();
    store.mark_sent(vec![old]).await.unwrap();
    assert_eq!(bodies(&store).await, ["b"]);
}

#[tokio::test]
async fn an_undeliverable_message_is_replaced_once() {
    let place = Place::new().await;
    let store = place.open().await;
    store.commit(sending("a")).await.unwrap();
    store.outbox_changed().notified().await;
    let seq = store.unsent(0, 1).await.unwrap()[0].seq;
    store.remove_outgoing(seq, vec![message("dead letter of a")]).await.unwrap();
    store.outbox_changed().notified().await;
    store.remove_outgoing(seq, vec![message("one too many")]).await.unwrap();
    assert_eq!(bodies(&store).await, ["dead letter of a"]);
    let last = store.unsent(0, 1).await.unwrap()[0].seq;
    store.remove_outgoing(last, Vec::new()).await.unwrap();
    assert_eq!(store.counts().await.unwrap().outbox_unsent, 0);
}
