//! Of some bots one instance works, and the others wait to take its place: of those that observe taps, since a tap has one
//! queue, and half of what is on it tells nobody anything; and of those that say so ([`Bot::ALONE`]).
use std::time::Duration;

use bot_store::{Store, StoreError};
use tokio::time::Instant;

use crate::contract::Bot;

const LEAD: &str = "instance";
/// For so long after a renewal nobody else begins.
const LENGTH: Duration = Duration::from_secs(30);
const RENEWED: Duration = Duration::from_secs(5);
/// What has to be left for this instance to have stopped when another begins.
const STOPPED_BEFORE: Duration = Duration::from_secs(10);

/// This instance is the one that works, or all do.
pub(super) struct Alone {
    of: Option<(Store, String)>,
}

/// Waits until this instance is the one; `None`: it was told to stop before.
pub(super) async fn wait<B: Bot>(store: &Store, instance: &str) -> Option<Alone> {
    let alone = B::ALONE || !B::ABOUT.observes.is_empty();
    if !alone || !store.is_shared() {
        return Some(Alone { of: None });
    }
    let mut told = false;
    let waiting = async {
        while !store.lead(LEAD, instance, LENGTH).await.unwrap_or(false) {
            if !std::mem::replace(&mut told, true) {
                tracing::info!("another instance of {} works: this one waits to take its place", B::ABOUT.name);
            }
            tokio::time::sleep(RENEWED).await;
        }
    };
    tokio::select! {
        () = waiting => Some(Alone { of: Some((store.clone(), instance.to_owned())) }),
        _ = super::told_to_stop() => None,
    }
}

impl Alone {
    /// Ends when another instance may be the one; says why.
    pub(super) async fn lost(&self) -> String {
        let Some((store, instance)) = &self.of else {
            return std::future::pending().await;
        };
        let mut led = Instant::now();
        loop {
            tokio::time::sleep(RENEWED).await;
            let asked = Instant::now();
            let renewal = tokio::time::timeout(RENEWED, store.lead(LEAD, instance, LENGTH)).await;
            match renewal {
                Ok(Ok(true)) => led = asked,
                Ok(Ok(false) | Err(StoreError::Closed)) => return "another instance works in its place".to_owned(),
                Ok(Err(_)) | Err(_) if led.elapsed() + STOPPED_BEFORE < LENGTH => {}
                Ok(Err(e)) => return format!("another instance may work by now: {e}"),
                Err(_) => return "another instance may work by now: the store does not answer".to_owned(),
            }
        }
    }
}
