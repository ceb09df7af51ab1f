//! What a bot's service knows of the runtime: it may say things durably, and observe the taps its contract names.
use std::sync::Arc;

use bot_messages::Tap;
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    contract::Bot,
    effects::{Effect, Effects, Fail},
    job::Boxed,
};

/// A message seen on a tap: the bytes and where they came from. Nothing is proven about it but the exchange.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The body.
    pub body: Vec<u8>,
    /// The key it was published with.
    pub routing_key: String,
    /// `x-lota-causation-id`.
    pub causation_id: Option<String>,
    /// When this process got it.
    pub at: DateTime<Utc>,
}

/// What a service's context does outside the service.
pub trait ServicePort: Send + Sync {
    /// Commits effects.
    fn commit<'a>(&'a self, key: &'a str, effects: Vec<Effect>) -> Boxed<'a, Result<(), Fail>>;
    /// What is remembered of an entity, where anything is.
    fn state<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<Option<Value>, Fail>>;
    /// Begins to observe.
    fn observe(&self, tap: Tap) -> mpsc::Receiver<Observed>;
    /// The time.
    fn now(&self) -> DateTime<Utc>;
}

/// What a service knows of the runtime.
pub struct ServiceCx<B> {
    /// Set when it has to end.
    pub cancelled: CancellationToken,
    port: Arc<dyn ServicePort>,
    bot: std::marker::PhantomData<fn() -> B>,
}

impl<B> Clone for ServiceCx<B> {
    fn clone(&self) -> Self {
        Self { cancelled: self.cancelled.clone(), port: self.port.clone(), bot: std::marker::PhantomData }
    }
}

impl<B: Bot> ServiceCx<B> {
    /// For the runtime and for tests.
    pub fn new(cancelled: CancellationToken, port: Arc<dyn ServicePort>) -> Self {
        Self { cancelled, port, bot: std::marker::PhantomData }
    }

    /// Commits effects about the entity `correlation`, which becomes the correlation id of what is said.
    pub async fn commit(&self, correlation: &str, effects: Effects<B>) -> Result<(), Fail> {
        self.port.commit(correlation, effects.list).await
    }

    /// What the handlers remember of an entity, as of the latest commit.
    pub async fn state(&self, key: &str) -> Result<B::State, Fail> {
        match self.port.state(key).await? {
            Some(state) => serde_json::from_value(state).map_err(Fail::retry),
            None => Ok(B::State::default()),
        }
    }

    /// Everything on a tap that the contract names, from now on. A slow reader holds back the broker, not memory.
    pub fn observe(&self, tap: Tap) -> mpsc::Receiver<Observed> {
        self.port.observe(tap)
    }

    /// The time.
    pub fn now(&self) -> DateTime<Utc> {
        self.port.now()
    }
}
