//! Which delivery is next: the most urgent of what is here, one at a time for each entity. What was delivered before (the
//! process may have died of it) goes alone, after a durable mark.
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bot_messages::Priority;
use bot_store::StoreError;
use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    inbox::{CRASHES_MAX, Message},
    letters::Letter,
    shared::Shared,
};
use crate::{
    bus::{Delivery, Intake},
    contract::Bot,
    crash::crash_point,
    hash,
};

/// Deliveries the broker hands over before one is settled.
pub(crate) const PREFETCH: u16 = 64;
const HANDLED_AT_A_TIME: usize = 16;
const STORE_PAUSE: Duration = Duration::from_millis(500);

type Read = Result<Message, Box<Letter>>;

struct Waiting {
    delivery: Delivery,
    read: Read,
}

impl Waiting {
    fn priority(&self) -> Priority {
        self.read.as_ref().map_or(Priority::default(), |m| m.envelope.priority)
    }
    /// Of the entity that is to be handled: what is put off keeps nobody from it.
    fn key(&self) -> Option<&str> {
        self.read.as_ref().ok().filter(|m| m.not_before.is_none()).map(|m| m.key.as_str())
    }
}

/// What a finished task says: the entity it was about, and whether the store held.
type Finished = (Option<String>, Result<(), StoreError>);

struct Dispatch<B: Bot> {
    shared: Arc<Shared<B>>,
    waiting: VecDeque<Waiting>,
    suspects: VecDeque<Delivery>,
    busy: BTreeSet<String>,
    tasks: JoinSet<Finished>,
    /// A suspect is being handled, alone.
    alone: bool,
}

/// Runs until cancelled; then gives back what waits and finishes what runs.
pub(crate) async fn dispatch<B: Bot>(
    shared: Arc<Shared<B>>,
    mut deliveries: mpsc::Receiver<Delivery>,
    mut intake: watch::Receiver<Intake>,
    cancelled: CancellationToken,
) {
    let mut d = Dispatch {
        shared,
        waiting: VecDeque::new(),
        suspects: VecDeque::new(),
        busy: BTreeSet::new(),
        tasks: JoinSet::new(),
        alone: false,
    };
    loop {
        d.start_what_can();
        tokio::select! {
            () = cancelled.cancelled() => break,
            Some(delivery) = deliveries.recv() => {
                let open = *intake.borrow();
                d.place(delivery, open).await;
            }
            Some(done) = d.tasks.join_next(), if !d.tasks.is_empty() => d.finished(done).await,
            Ok(()) = intake.changed() => {
                let closed = *intake.borrow_and_update() == Intake::Closed;
                if closed {
                    d.give_back_waiting().await;
                }
            }
        }
    }
    deliveries.close();
    d.suspects.extend(std::iter::from_fn(|| deliveries.try_recv().ok()));
    d.give_back_waiting().await;
    while let Some(done) = d.tasks.join_next().await {
        d.finished(done).await;
    }
}

impl<B: Bot> Dispatch<B> {
    async fn place(&mut self, delivery: Delivery, intake: Intake) {
        if intake == Intake::Closed {
            delivery.give_back().await;
        } else if delivery.redelivered {
            self.suspects.push_back(delivery);
        } else {
            let read = self.shared.read(&delivery).and_then(|message| self.shared.admit(&delivery, message));
            self.waiting.push_back(Waiting { delivery, read });
        }
    }

    fn start_what_can(&mut self) {
        // With the intake closed, what waits is about to be given back.
        if self.alone || *self.shared.intake.borrow() == Intake::Closed {
            return;
        }
        if !self.suspects.is_empty() {
            // Those that run are finished first; until then nothing new begins.
            if self.tasks.is_empty()
                && let Some(delivery) = self.suspects.pop_front()
            {
                self.alone = true;
                self.tasks.spawn(suspect(self.shared.clone(), delivery));
            }
            return;
        }
        while self.tasks.len() < HANDLED_AT_A_TIME {
            let Some(next) = self.next() else { return };
            let key = next.key().map(ToOwned::to_owned);
            if let Some(key) = &key {
                self.busy.insert(key.clone());
            }
            let shared = self.shared.clone();
            self.tasks.spawn(async move { (key, shared.settle(&next.delivery, next.read).await) });
        }
    }

    /// The most urgent whose entity is free; among equals the one that came first.
    fn next(&mut self) -> Option<Waiting> {
        let free = |w: &&Waiting| w.key().is_none_or(|k| !self.busy.contains(k));
        let urgent = self.waiting.iter().filter(free).map(Waiting::priority).max()?;
        let index = self.waiting.iter().position(|w| free(&w) && w.priority() == urgent)?;
        self.waiting.remove(index)
    }

    async fn finished(&mut self, done: Result<Finished, tokio::task::JoinError>) {
        self.alone = false;
        match done {
            Ok((key, result)) => {
                if let Some(key) = key {
                    self.busy.remove(&key);
                }
                if result.is_err() {
                    // The delivery was given back and will come again: not in a loop without a breath.
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
            Err(e) => {
                // The runtime itself panicked; which entity it was about is not known, so none stays busy.
                tracing::error!("a delivery's task ended: {e}");
                self.busy.clear();
            }
        }
    }

    /// All at once: while a session breaks, each may take as long as the broker may.
    async fn give_back_waiting(&mut self) {
        let waiting: Vec<Delivery> =
            self.waiting.drain(..).map(|w| w.delivery).chain(self.suspects.drain(..)).collect();
        join_all(waiting.iter().map(Delivery::give_back)).await;
    }
}

async fn suspect<B: Bot>(shared: Arc<Shared<B>>, delivery: Delivery) -> Finished {
    let body_hash = hash::full(&[&delivery.body]);
    let starts = match shared.store.mark_started(&body_hash).await {
        Ok(starts) => starts,
        Err(e) => {
            shared.store_failed(&e);
            delivery.give_back().await;
            return (None, Err(e));
        }
    };
    crash_point("suspect: marked");
    let read = if starts > CRASHES_MAX {
        Err(shared.crash_letter(&delivery, starts - 1))
    } else {
        shared.read(&delivery).and_then(|message| shared.admit(&delivery, message))
    };
    let result = shared.settle(&delivery, read).await;
    // Also where the store failed: the message did not end the process.
    let cleared = shared.store.clear_started(&body_hash).await;
    crash_point("suspect: cleared");
    (None, result.and(cleared))
}
