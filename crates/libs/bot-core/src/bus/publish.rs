//! Publishing: persistent, mandatory, and not done before the broker's confirm is here.
use std::{
    collections::HashSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bot_store::Outgoing;
use futures_util::future::join_all;
use lapin::{
    Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::{sync::watch, time::timeout};

use super::{Link, Probe, session::SessionFault, wire::Properties};

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

const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// For a question that the broker answers at once.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// The publishing half of a session.
pub(super) struct PublishSession {
    connection: Arc<Connection>,
    channel: Mutex<Channel>,
    fault: SessionFault,
}

impl PublishSession {
    pub(super) async fn open(connection: Arc<Connection>, fault: SessionFault) -> Result<Self, String> {
        let channel = Mutex::new(confirming(&connection).await.map_err(|e| e.to_string())?);
        Ok(Self { connection, channel, fault })
    }

    fn channel(&self) -> Channel {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn confirming(connection: &Connection) -> Result<Channel, lapin::Error> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

#[derive(Clone)]
pub(super) struct Publisher {
    pub(super) session: watch::Receiver<Option<Arc<PublishSession>>>,
    pub(super) link: watch::Receiver<Link>,
    pub(super) confirm_timeout: Duration,
    pub(super) probe: Option<Probe>,
    /// Whether to wait while the broker holds back publishers. A person at a terminal is told instead.
    pub(super) patient: bool,
}

/// What became of one publish.
enum Answer {
    /// Confirmed; the confirm carried the return of the message with that id.
    Taken(Option<String>),
    Nack,
    Late,
    Broken(String),
}

impl Publisher {
    pub(super) async fn publish(&self, batch: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let gone = || vec![Err(PublishError::Unknown("the bus is closed".to_owned())); batch.len()];
        let mut session = self.session.clone();
        let Ok(current) = session.wait_for(Option::is_some).await.map(|s| s.clone()) else {
            return gone();
        };
        let Some(current) = current else { return gone() };
        // What is published now would wait in memory, and go out beside its own repetition.
        let mut link = self.link.clone();
        if self.patient && link.wait_for(|l| l.blocked.is_none()).await.is_err() {
            return gone();
        }
        let channel = current.channel();
        let answers = join_all(batch.iter().map(|m| self.one(&channel, m))).await;
        self.judge(&current, &answers).await;
        // A return names its message, but lapin hands it to whichever confirm of the channel comes next. All of the
        // batch are here, and none of another batch is on this channel, so that the return of any is among the answers.
        let returned: HashSet<&str> = answers
            .iter()
            .filter_map(|a| if let Answer::Taken(Some(id)) = a { Some(id.as_str()) } else { None })
            .collect();
        batch.iter().zip(&answers).map(|(message, answer)| self.told(message, answer, &returned)).collect()
    }

    /// Looks at a queue, on a channel of its own, as the broker closes it where there is no such queue.
    pub(super) async fn ready(&self, queue: &str) -> Result<u32, String> {
        let session = self.session.borrow().clone().ok_or("there is no session")?;
        let look = async {
            let channel = session.connection.create_channel().await?;
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let ready = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?.message_count();
            channel.close(200, "looked".into()).await?;
            Ok::<u32, lapin::Error>(ready)
        };
        let looked = timeout(LOOK_TIMEOUT, look).await;
        looked.map_err(|_| "the broker does not answer".to_owned())?.map_err(|e| e.to_string())
    }

    pub(super) fn renew(&self, why: &str) {
        if let Some(session) = self.session.borrow().as_ref() {
            session.fault.report(why.to_owned());
        }
    }

    fn told(&self, message: &Outgoing, answer: &Answer, returned: &HashSet<&str>) -> Result<(), PublishError> {
        match answer {
            Answer::Taken(_) if returned.contains(message_id(message).as_str()) => Err(PublishError::Unroutable {
                exchange: message.exchange.clone(),
                routing_key: message.routing_key.clone(),
            }),
            Answer::Taken(_) => Ok(()),
            Answer::Nack => Err(PublishError::Refused),
            Answer::Late => Err(PublishError::Unknown(match self.link.borrow().blocked.as_deref() {
                Some(why) => format!("the broker holds back publishers: {why}"),
                None => format!("none within {} s", self.confirm_timeout.as_secs()),
            })),
            Answer::Broken(why) => Err(PublishError::Unknown(why.clone())),
        }
    }

    async fn one(&self, channel: &Channel, message: &Outgoing) -> Answer {
        let mut properties: Properties = serde_json::from_value(message.properties.clone()).unwrap_or_default();
        properties.message_id.get_or_insert_with(|| message_id(message));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publish = async {
            let confirm = channel
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
        let limit = self.confirm_timeout;
        let confirmation = if self.patient {
            in_time(self.link.clone(), limit, publish).await
        } else {
            timeout(limit, publish).await.ok()
        };
        match confirmation {
            Some(Ok(Confirmation::Ack(returned))) => {
                let id = returned.and_then(|r| r.delivery.properties.message_id().as_ref().map(ToString::to_string));
                Answer::Taken(id)
            }
            Some(Ok(Confirmation::Nack(_) | Confirmation::NotRequested)) => Answer::Nack,
            Some(Err(e)) => Answer::Broken(e.to_string()),
            None => Answer::Late,
        }
    }

    /// What the answers say of the channel and the session.
    async fn judge(&self, session: &PublishSession, answers: &[Answer]) {
        let mut late = false;
        for answer in answers {
            match answer {
                Answer::Taken(_) => session.fault.taken(),
                Answer::Nack => session.fault.not_taken(),
                Answer::Late => {
                    late = true;
                    session.fault.not_taken();
                }
                Answer::Broken(why) => return session.fault.report(format!("publishing failed: {why}")),
            }
        }
        if late {
            tracing::warn!("a publish was not confirmed within {} s: a fresh channel", self.confirm_timeout.as_secs());
        }
        // A confirm that comes late could carry off the return of another message, so its channel is given up.
        if (late || session.fault.is_doubtful())
            && let Err(why) = self.replace_channel(session).await
        {
            session.fault.report(why);
        }
    }

    /// Puts a fresh channel in the place of one that did not answer, or took nothing. In the second case the fresh one
    /// has to take something first: after a cluster node's death every channel of a connection may refuse for ever, while
    /// a queue that refuses is no reason to begin anew.
    async fn replace_channel(&self, session: &PublishSession) -> Result<(), String> {
        let fresh = timeout(self.confirm_timeout, confirming(&session.connection))
            .await
            .map_err(|_| "no fresh channel in time".to_owned())?
            .map_err(|e| format!("no fresh channel: {e}"))?;
        if session.fault.is_doubtful() {
            let probe = self.probe.as_ref().ok_or("several publishes in a row were not taken")?;
            match self.one(&fresh, &probe()).await {
                Answer::Taken(_) => session.fault.taken(),
                Answer::Nack => return Err("several publishes in a row were refused, and a probe as well".to_owned()),
                Answer::Late => return Err("several publishes in a row were not taken, nor was a probe".to_owned()),
                Answer::Broken(why) => return Err(format!("probing failed: {why}")),
            }
        }
        let old = std::mem::replace(&mut *session.channel.lock().unwrap_or_else(PoisonError::into_inner), fresh);
        let _ = timeout(CLOSE_TIMEOUT, old.close(200, "replaced".into())).await;
        tracing::info!(channel = session.channel().id(), "publishing goes on, on another channel");
        Ok(())
    }
}

/// What comes of `publish`; `None` when it takes longer than `limit`, the time in which the broker holds back publishers
/// not counted.
async fn in_time<T>(mut link: watch::Receiver<Link>, limit: Duration, publish: impl Future<Output = T>) -> Option<T> {
    let late = async {
        loop {
            if link.wait_for(|l| l.blocked.is_none()).await.is_err() {
                return;
            }
            let blocked = timeout(limit, link.wait_for(|l| l.blocked.is_some())).await.map(|seen| seen.is_ok());
            if blocked != Ok(true) {
                return;
            }
        }
    };
    tokio::select! {
        done = publish => Some(done),
        () = late => None,
    }
}

/// The id that the broker sees. Rows are made with one; a message without gets a hash of itself, the same each time.
fn message_id(message: &Outgoing) -> String {
    match message.properties.get("message_id").and_then(|v| v.as_str()) {
        Some(id) => id.to_owned(),
        None => crate::hash::short(&[message.routing_key.as_bytes(), &message.body]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn link(blocked: bool) -> Link {
        Link { blocked: blocked.then(|| "low on memory".to_owned()), ..Link::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_confirm_a_publish_is_late() {
        let (_broker, link) = watch::channel(link(false));
        assert_eq!(in_time(link, LIMIT, std::future::pending::<()>()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_late_while_the_broker_holds_back_publishers() {
        let (broker, receiver) = watch::channel(link(true));
        let answered = async {
            tokio::time::sleep(LIMIT * 30).await;
            broker.send_replace(link(false));
            tokio::time::sleep(LIMIT / 2).await;
            "confirmed"
        };
        assert_eq!(in_time(receiver, LIMIT, answered).await, Some("confirmed"));
    }
}
