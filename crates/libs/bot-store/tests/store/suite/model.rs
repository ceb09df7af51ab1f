//! Random commits, confirmations, crashes and restarts against a few lines of memory that say what must hold.

use std::collections::BTreeMap;

use bot_store::{Commit, Committed, InboxEntry, InboxMark, Store};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::Place;
use crate::fixture::{bodies, key, message};

#[derive(Clone, Debug)]
struct Delivery {
    id: u8,
    content: u8,
    attempt: u32,
    settled: bool,
    messages: usize,
}

#[derive(Clone, Debug)]
enum Action {
    /// A delivery is handled and its commit answered.
    Deliver(Delivery),
    /// The broker confirms this many of the oldest messages.
    Confirm(usize),
    /// Closed in order and opened again.
    Restart,
    /// Gone while a commit is on its way, after the runtime turned this many times; opened again.
    Crash(Delivery, usize),
}

fn delivery() -> impl Strategy<Value = Delivery> {
    (0..4_u8, 0..8_u8, 1..4_u32, any::<bool>(), 0..3_usize).prop_map(|(id, content, attempt, settled, messages)| {
        // Other content under the same id is rare.
        Delivery { id, content: content / 7, attempt, settled, messages }
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => delivery().prop_map(Action::Deliver),
        2 => (0..4_usize).prop_map(Action::Confirm),
        1 => Just(Action::Restart),
        2 => (delivery(), 0..60_usize).prop_map(|(delivery, turns)| Action::Crash(delivery, turns)),
    ]
}

/// What must be in the store.
#[derive(Clone, Debug, Default, PartialEq)]
struct Memory {
    inbox: BTreeMap<u8, InboxEntry>,
    outbox: Vec<String>,
}

impl Memory {
    fn commit(&mut self, delivery: &Delivery, bodies: &[String]) -> Committed {
        let content_hash = delivery.content.to_string();
        if let Some(known) = self.inbox.get(&delivery.id) {
            if known.content_hash != content_hash {
                return Committed::Conflict;
            }
            if known.settled {
                return Committed::Duplicate;
            }
            if known.attempt > delivery.attempt {
                return Committed::OldAttempt;
            }
        }
        let attempt = delivery.attempt + u32::from(!delivery.settled);
        self.inbox.insert(delivery.id, InboxEntry { content_hash, settled: delivery.settled, attempt });
        self.outbox.extend_from_slice(bodies);
        Committed::Done
    }
}

fn commit(delivery: &Delivery, bodies: &[String]) -> Commit {
    let inbox = Some(InboxMark {
        key: key(&delivery.id.to_string()),
        content_hash: delivery.content.to_string(),
        attempt: delivery.attempt,
        settled: delivery.settled,
        counts: true,
    });
    Commit { inbox, outbox: bodies.iter().map(|body| message(body)).collect(), ..Commit::default() }
}

async fn found(store: &Store) -> Memory {
    let mut memory = Memory { outbox: bodies(store).await, ..Memory::default() };
    for id in 0..4 {
        if let Some(entry) = store.inbox(&key(&id.to_string())).await.unwrap() {
            memory.inbox.insert(id, entry);
        }
    }
    memory
}

/// A process with the store open; dropping it is the crash.
struct Process {
    runtime: Runtime,
    store: Store,
}

impl Process {
    fn start(place: &Place) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let store = runtime.block_on(place.open());
        Self { runtime, store }
    }

    fn crash_during(self, commit: Commit, turns: usize) {
        let Self { runtime, store } = self;
        runtime.block_on(async move {
            tokio::spawn(async move { store.commit(commit).await });
            for _ in 0..turns {
                tokio::task::yield_now().await;
                // The database works on a thread of its own.
                std::thread::yield_now();
            }
        });
    }
}

fn run(actions: Vec<Action>) -> Result<(), TestCaseError> {
    let place = Builder::new_current_thread().enable_all().build().unwrap().block_on(Place::new());
    let mut process = Process::start(&place);
    let mut memory = Memory::default();
    for (number, action) in actions.into_iter().enumerate() {
        let new_bodies = |delivery: &Delivery| -> Vec<String> {
            (0..delivery.messages).map(|message| format!("{number}.{message}")).collect()
        };
        let store = process.store.clone();
        match action {
            Action::Deliver(delivery) => {
                let bodies = new_bodies(&delivery);
                let answer = process.runtime.block_on(store.commit(commit(&delivery, &bodies))).unwrap();
                prop_assert_eq!(answer, memory.commit(&delivery, &bodies));
            }
            Action::Confirm(count) => process.runtime.block_on(async {
                let queued = store.unsent(0, count as u32).await.unwrap();
                memory.outbox.drain(..queued.len());
                store.mark_sent(queued.into_iter().map(|row| row.seq).collect()).await.unwrap();
            }),
            Action::Restart => {
                process.runtime.block_on(store.close());
                process = Process::start(&place);
            }
            Action::Crash(delivery, turns) => {
                let bodies = new_bodies(&delivery);
                drop(store);
                process.crash_during(commit(&delivery, &bodies), turns);
                process = Process::start(&place);
                let mut with = memory.clone();
                with.commit(&delivery, &bodies);
                let found = process.runtime.block_on(found(&process.store));
                let whole = found == memory || found == with;
                prop_assert!(whole, "{:?} is neither {:?} nor {:?}", found, memory, with);
                memory = found;
            }
        }
        prop_assert_eq!(&process.runtime.block_on(found(&process.store)), &memory);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: Place::CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_message_is_settled_once_and_the_outbox_holds_what_was_committed(actions in vec(action(), 1..40)) {
        run(actions)?;
    }
}
