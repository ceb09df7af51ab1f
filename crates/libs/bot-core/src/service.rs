//! What a bot's service knows of the runtime: it may say things durably, and observe the taps its contract names.
use std::sync::Arc;

use bot_messages::{BotName, Tap};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    contract::Bot,
    effects::{Effect, Effects, Fail},
    job::Boxed,
};

/// A message seen on a tap: the bytes and where they came from. Nothing is proven about it but publisher and key.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The body.
    pub body: Vec<u8>,
    /// The key it was published with.
    pub routing_key: String,
    /// Slug of the publisher whose exchange it was published to; the broker lets nobody else do that.
    pub publisher: Option<String>,
    /// `x-lota-causation-id`.
    pub causation_id: Option<String>,
    /// When this process got it.
    pub at: DateTime<Utc>,
}

/// What a body claims, as far as it can be read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Claims {
    source: Option<BotName>,
    #[serde(rename = "type")]
    event_type: Option<String>,
}

impl Observed {
    /// Why an event or a command is not what its body says: another's name, or another type than its key. A tap takes what
    /// the publisher may say, not what the body holds; so whoever observes asks this first.
    pub fn forged(&self) -> Option<String> {
        let publisher = self.publisher.as_deref().unwrap_or("unknown");
        let Claims { source, event_type } = serde_json::from_slice(&self.body).unwrap_or_default();
        if let Some(source) = source.filter(|source| source.slug() != publisher) {
            return Some(format!("`source` is {source}, but the exchange proves {publisher}"));
        }
        let key = self.routing_key.as_str();
        let command = key.strip_prefix("to.").and_then(|rest| rest.split_once('.')).map(|(_, event_type)| event_type);
        let by_key = command.unwrap_or(key);
        let event_type = event_type.filter(|event_type| event_type != by_key)?;
        Some(format!("`type` is {}, but it came with the key {key}", event_type.chars().take(100).collect::<String>()))
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_body_claims_is_held_against_exchange_and_key() {
        let forged = |publisher: Option<&str>, key: &str, body: &serde_json::Value| {
            let seen = Observed {
                body: body.to_string().into_bytes(),
                routing_key: key.into(),
                publisher: publisher.map(Into::into),
                causation_id: None,
                at: DateTime::UNIX_EPOCH,
            };
            seen.forged().unwrap_or_default()
        };
        let body = json!({"source": "BuildBot", "type": "build.completed"});
        assert_eq!(forged(Some("build-bot"), "build.completed", &body), "");
        assert_eq!(forged(Some("build-bot"), "to.test-bot.build.completed", &body), "");
        assert!(forged(Some("lint-bot"), "build.completed", &body).contains("proves lint-bot"));
        assert!(forged(None, "build.completed", &body).contains("proves unknown"));
        assert!(forged(Some("build-bot"), "build.failed", &body).contains("came with the key build.failed"));
        assert_eq!(forged(Some("build-bot"), "build.failed", &json!([1])), "", "unreadable, which is another matter");
    }
}
