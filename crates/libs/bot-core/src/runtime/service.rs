//! The durable side of a service's context: it says things through the outbox and observes taps.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bot_messages::{Code, Tap, keys};
use bot_store::Commit;
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::sync::mpsc;

use super::shared::Shared;
use crate::{
    bus::{CAUSATION_ID, Delivery},
    clock,
    contract::Bot,
    effects::{Effect, Fail},
    job::Boxed,
    meta::Cause,
    service::{Observed, ServicePort},
};

/// Observations a slow reader may leave lying before the broker is held back.
const OBSERVED_WAITING: usize = 256;

pub(crate) struct Port<B: Bot> {
    pub(crate) shared: Arc<Shared<B>>,
    /// What each tap delivers, until someone observes it.
    pub(crate) taps: Mutex<BTreeMap<Tap, mpsc::Receiver<Delivery>>>,
}

impl<B: Bot> ServicePort for Port<B> {
    fn commit<'a>(&'a self, key: &'a str, effects: Vec<Effect>) -> Boxed<'a, Result<(), Fail>> {
        Box::pin(async move {
            let cause = Cause { correlation_id: key.to_owned(), ..Cause::default() };
            let mut commit = Commit::default();
            self.shared
                .speaker
                .write(effects, &cause, clock::now(), &mut commit)
                .map_err(|why| Fail::reject(Code::Rejected, anyhow::anyhow!(why)))?;
            self.shared.commit(commit).await.map(|_| ()).map_err(Fail::retry)
        })
    }

    fn state<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<Option<Value>, Fail>> {
        Box::pin(async move {
            let stored = self.shared.store.state(key).await.map_err(Fail::retry)?;
            Ok(stored.map(|(state, _)| state))
        })
    }

    fn observe(&self, tap: Tap) -> mpsc::Receiver<Observed> {
        let (out, observed) = mpsc::channel(OBSERVED_WAITING);
        let deliveries = self.taps.lock().unwrap_or_else(PoisonError::into_inner).remove(&tap);
        match deliveries {
            Some(deliveries) => drop(tokio::spawn(hand_on(deliveries, out))),
            None => tracing::error!(?tap, "not named by the contract, or observed already: nothing will come"),
        }
        observed
    }

    fn now(&self) -> DateTime<Utc> {
        clock::now()
    }
}

/// Acknowledges what the observer has taken. An observer that is slow holds back the broker.
async fn hand_on(mut deliveries: mpsc::Receiver<Delivery>, out: mpsc::Sender<Observed>) {
    while let Some(delivery) = deliveries.recv().await {
        let causation_id = delivery.properties.as_ref().ok().and_then(|p| p.text(CAUSATION_ID)).map(ToOwned::to_owned);
        let seen = Observed {
            body: delivery.body.clone(),
            routing_key: delivery.routing_key.clone(),
            publisher: delivery.exchange.strip_prefix(keys::EGRESS_PREFIX).map(ToOwned::to_owned),
            causation_id,
            at: clock::now(),
        };
        if out.send(seen).await.is_err() {
            return;
        }
        delivery.ack().await;
    }
}
