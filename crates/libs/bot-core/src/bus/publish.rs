//! Publishing: persistent, mandatory, and not done before the broker's confirm is here.
use std::{collections::HashSet, sync::Arc, time::Duration};

use bot_store::Outgoing;
use futures_util::future::join_all;
use lapin::{Channel, Confirmation, options::BasicPublishOptions};
use tokio::{sync::watch, time::timeout};

use super::{session::SessionFault, wire::Properties};

/// A message was not taken. It goes out again, with the same id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No queue is bound to where it was sent.
    #[error("no queue is bound to {exchange} with key {routing_key}: run `lota topology verify`")]
    Unroutable {
        /// Where it was sent.
        exchange: String,
        /// With which key.
        routing_key: String,
    },
    /// The broker answered no.
    #[error("the broker refused the message (nack): it may be short of disk or memory, or a queue rejects")]
    Refused,
    /// The session ended, or the confirm did not come in time; whether it was taken is unknown.
    #[error("no confirm: {0}")]
    Unknown(String),
}

/// The publishing half of a session.
pub(super) struct PublishSession {
    pub(super) channel: Channel,
    pub(super) fault: SessionFault,
}

#[derive(Clone)]
pub(super) struct Publisher {
    pub(super) session: watch::Receiver<Option<Arc<PublishSession>>>,
    pub(super) confirm_timeout: Duration,
}

impl Publisher {
    pub(super) async fn publish(&self, batch: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let gone = || vec![Err(PublishError::Unknown("the bus is closed".to_owned())); batch.len()];
        let mut session = self.session.clone();
        let Ok(current) = session.wait_for(Option::is_some).await.map(|s| s.clone()) else {
            return gone();
        };
        let Some(current) = current else { return gone() };
        let answers = join_all(batch.iter().map(|m| self.one(&current, m))).await;
        // A return names its message, but lapin hands it to whichever confirm of the channel comes next. All of the
        // batch are here, so that the return of any of them is among the answers.
        let returned: HashSet<String> = answers.iter().filter_map(|a| a.as_ref().ok()?.clone()).collect();
        batch
            .iter()
            .zip(answers)
            .map(|(message, answer)| {
                answer?;
                let id = message_id(message);
                if returned.contains(&id) {
                    let (exchange, routing_key) = (message.exchange.clone(), message.routing_key.clone());
                    return Err(PublishError::Unroutable { exchange, routing_key });
                }
                Ok(())
            })
            .collect()
    }

    /// `Ok(Some(id))`: confirmed, and the confirm carried the return of the message with that id.
    async fn one(&self, session: &PublishSession, message: &Outgoing) -> Result<Option<String>, PublishError> {
        let mut properties: Properties = serde_json::from_value(message.properties.clone()).unwrap_or_default();
        properties.message_id.get_or_insert_with(|| message_id(message));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publish = async {
            let confirm = session
                .channel
                .basic_publish(
                    message.exchange.as_str().into(),
                    message.routing_key.as_str().into(),
                    options,
                    &message.body,
                    properties.write(message.priority, true),
                )
                .await?;
            confirm.await
        };
        match timeout(self.confirm_timeout, publish).await {
            Ok(Ok(Confirmation::Ack(returned))) => {
                session.fault.confirmed();
                Ok(returned.and_then(|r| r.delivery.properties.message_id().as_ref().map(|id| id.as_str().to_owned())))
            }
            Ok(Ok(Confirmation::Nack(_) | Confirmation::NotRequested)) => {
                session.fault.nacked();
                Err(PublishError::Refused)
            }
            Ok(Err(e)) => {
                session.fault.report(format!("publishing failed: {e}"));
                Err(PublishError::Unknown(e.to_string()))
            }
            Err(_) => {
                let why = format!("none within {} s", self.confirm_timeout.as_secs());
                session.fault.unconfirmed(&why);
                Err(PublishError::Unknown(why))
            }
        }
    }
}

/// The id that the broker sees. Rows are made with one; a message without gets a hash of itself, the same each time.
fn message_id(message: &Outgoing) -> String {
    match message.properties.get("message_id").and_then(|v| v.as_str()) {
        Some(id) => id.to_owned(),
        None => crate::hash::short(&[message.routing_key.as_bytes(), &message.body]),
    }
}
