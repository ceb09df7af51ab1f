//! The operator on the bus: says things under its own name, waits for the broker's confirm, and watches the taps.
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bot_core::{BODY_BYTES_MAX, Bus, Destination, Envelope, Link, Observed, Properties, PublishError};
use bot_messages::{BotName, Priority, catalogue, contract::operator_name, keys};
use bot_store::Outgoing;
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::clock;
use crate::home::Home;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A message without a confirm goes out again with the same id.
const PUBLISH_ATTEMPTS: u32 = 3;
const PUBLISH_PAUSE: Duration = Duration::from_millis(700);
/// As the envelope allows.
const ID_BYTES_MAX: usize = 128;

/// What is to be said.
#[derive(Clone, Debug, Default)]
pub(super) struct Saying {
    pub(super) event_type: String,
    pub(super) data: Value,
    /// Absent: a new one.
    pub(super) id: Option<String>,
    /// Absent: the message's own id.
    pub(super) correlation_id: Option<String>,
    /// Absent: everyone who hears the type.
    pub(super) to: Option<BotName>,
    /// The message that led to this one, where one did.
    pub(super) caused_by: Option<String>,
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) id: String,
    pub(super) correlation_id: String,
}

/// A connection under the operator's name.
pub(super) struct Operator {
    bus: Bus,
    tasks: TaskTracker,
    cancelled: CancellationToken,
}

impl Operator {
    pub(super) async fn connect(home: &Home) -> anyhow::Result<Self> {
        let options = home.bus(operator_name().as_str())?;
        let address = options.addresses.join(", ");
        let (tasks, cancelled) = (TaskTracker::new(), CancellationToken::new());
        let bus = Bus::publish_only(options, &tasks, cancelled.clone());
        let operator = Self { bus, tasks, cancelled };
        match operator.bus.wait_up(CONNECT_LIMIT).await {
            Ok(()) => Ok(operator),
            Err(link) => {
                operator.close().await;
                let why = link.trouble.unwrap_or_else(|| "it does not answer".to_owned());
                bail!(
                    "no session with the broker at {address} within {} s: {why}; is the fleet up?",
                    CONNECT_LIMIT.as_secs()
                )
            }
        }
    }

    /// Says it, and waits until the broker has it.
    pub(super) async fn say(&self, saying: Saying) -> anyhow::Result<Said> {
        let (outgoing, said) = compose(saying, clock::now())?;
        self.send(&outgoing).await?;
        Ok(said)
    }

    /// Sends what is made already, and waits until the broker has it.
    pub(super) async fn send(&self, outgoing: &Outgoing) -> anyhow::Result<()> {
        let mut attempt = 1;
        loop {
            let answer = self.bus.publish(std::slice::from_ref(outgoing)).await;
            let Some(Err(error)) = answer.into_iter().next() else {
                return Ok(());
            };
            let link = self.bus.link();
            if attempt == PUBLISH_ATTEMPTS || !worth_repeating(&error, &link) {
                return Err(explain(&error, &outgoing.routing_key, &link));
            }
            attempt += 1;
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
    }

    /// Ends the session in order.
    pub(super) async fn close(self) {
        self.cancelled.cancel();
        self.tasks.close();
        // The broker notices a lost connection by itself; nobody has to wait for it.
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.tasks.wait()).await;
    }
}

/// Everything that passes a tap from now on; the queue is there when this returns.
pub(super) async fn watch(home: &Home, exchange: &str, keys: &[&str]) -> anyhow::Result<mpsc::Receiver<Observed>> {
    let options = home.bus(operator_name().as_str())?;
    let begin = tokio::time::timeout(CONNECT_LIMIT, bot_core::watch(&options, exchange, keys));
    let began = begin.await.map_err(|_| anyhow!("the broker did not answer within {} s", CONNECT_LIMIT.as_secs()))?;
    began.map_err(|why| anyhow!("{why}")).with_context(|| format!("cannot watch {exchange}; is the fleet up?"))
}

/// The row that goes out.
fn compose(saying: Saying, now: DateTime<Utc>) -> anyhow::Result<(Outgoing, Said)> {
    let id = saying.id.unwrap_or_else(|| Uuid::now_v7().to_string());
    let correlation_id = saying.correlation_id.unwrap_or_else(|| id.clone());
    for (what, value) in [("--id", &id), ("--correlation", &correlation_id)] {
        if value.is_empty() || value.len() > ID_BYTES_MAX {
            bail!("{what} has {} bytes: expected 1 to {ID_BYTES_MAX}", value.len());
        }
    }
    let source = operator_name();
    let priority = catalogue::find(&saying.event_type).map_or(Priority::Medium, |e| e.priority);
    let routing_key = match &saying.to {
        Some(bot) => keys::command(&bot.slug(), &saying.event_type),
        None => saying.event_type.clone(),
    };
    let properties = Properties {
        message_id: Some(id.clone()),
        correlation_id: Some(correlation_id.clone()),
        event_type: Some(saying.event_type.clone()),
        app_id: Some(source.to_string()),
        timestamp_s: u64::try_from(now.timestamp()).ok(),
        ..Properties::default()
    };
    let properties = match &saying.caused_by {
        Some(cause) => properties.caused_by(cause),
        None => properties,
    };
    let envelope = Envelope {
        id: id.clone(),
        timestamp: now,
        destination: saying.to.map_or(Destination::Everyone, Destination::Bot),
        event_type: saying.event_type,
        data: saying.data,
        priority,
        correlation_id: Some(correlation_id.clone()),
        source: source.clone(),
    };
    let body = envelope.encode();
    if body.len() > BODY_BYTES_MAX {
        bail!(
            "the message has {} bytes: at most {BODY_BYTES_MAX} are read; larger things go to the object store",
            body.len()
        );
    }
    let outgoing = Outgoing {
        exchange: keys::egress(&source.slug()),
        routing_key,
        body,
        properties: serde_json::to_value(&properties)?,
        priority: priority.amqp(),
    };
    Ok((outgoing, Said { id, correlation_id }))
}

/// What a second attempt cannot change is told at once.
fn worth_repeating(error: &PublishError, link: &Link) -> bool {
    match error {
        PublishError::Unroutable { .. } => false,
        PublishError::Refused => true,
        PublishError::Unknown(why) => !denied(why) && !link.trouble.as_deref().is_some_and(denied),
    }
}

fn denied(why: &str) -> bool {
    why.contains("ACCESS_REFUSED") || why.contains("access refused") || why.contains("access to topic")
}

/// A refusal in the words of someone who wants to know what to do.
fn explain(error: &PublishError, key: &str, link: &Link) -> anyhow::Error {
    let trouble = link.trouble.as_deref().unwrap_or_default();
    match error {
        PublishError::Unroutable { .. } => anyhow!(
            "no bot hears `{key}` from the operator: its contracts bind no queue to it; `lota topology show` lists who hears what"
        ),
        PublishError::Unknown(why) if denied(why) || denied(trouble) => anyhow!(
            "the operator may not say `{key}`: the broker refused it (PERMISSION_DENIED); what it may say is in `lota topology show` and config/publishers.yaml"
        ),
        PublishError::Refused => match &link.blocked {
            Some(why) => {
                anyhow!("the broker takes no messages now: {why}; free its disk or memory and say it again")
            }
            None => anyhow!("{error}; look at `lota status`, then say it again"),
        },
        PublishError::Unknown(why) => {
            anyhow!(
                "no confirm from the broker ({why}{}{trouble}): whether it has the message is unknown; saying it again with the same --id is safe",
                if trouble.is_empty() { "" } else { "; " }
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_message_goes_to_the_operators_own_exchange() {
        let saying = Saying { event_type: "repository.pushed".into(), data: json!({"a": 1}), ..Saying::default() };
        let (row, said) = compose(saying, DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(
            (row.exchange.as_str(), row.routing_key.as_str(), row.priority),
            ("lota.egress.operator", "repository.pushed", 4)
        );
        let envelope = Envelope::decode(&row.body).unwrap();
        assert_eq!(
            (envelope.id.as_str(), envelope.correlation_id.as_deref()),
            (said.id.as_str(), Some(said.id.as_str()))
        );
        let properties: Properties = serde_json::from_value(row.properties).unwrap();
        assert_eq!((properties.message_id, properties.app_id.as_deref()), (Some(said.id), Some("operator")));
    }

    #[test]
    fn a_command_is_addressed_and_urgent() {
        let to = "BuildBot".parse().ok();
        let saying =
            Saying { event_type: "control.pause".into(), to, correlation_id: Some("c".into()), ..Saying::default() };
        let (row, said) = compose(saying, DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(
            (row.routing_key.as_str(), row.priority, said.correlation_id.as_str()),
            ("to.build-bot.control.pause", 8, "c")
        );
        assert_eq!(Envelope::decode(&row.body).unwrap().destination.as_str(), "BuildBot");
    }

    #[test]
    fn what_no_one_can_read_is_not_sent() {
        let long = Saying { event_type: "a.b".into(), data: json!("x".repeat(BODY_BYTES_MAX)), ..Saying::default() };
        assert!(compose(long, DateTime::UNIX_EPOCH).unwrap_err().to_string().contains("object store"));
        let id = Saying { event_type: "a.b".into(), id: Some(String::new()), ..Saying::default() };
        assert!(compose(id, DateTime::UNIX_EPOCH).is_err());
    }

    #[test]
    fn refusals_say_what_to_do() {
        let link = Link::default();
        let unroutable = PublishError::Unroutable { exchange: "e".into(), routing_key: "k".into() };
        let denial = PublishError::Unknown("ACCESS_REFUSED - access to topic 'x'".into());
        let lost = PublishError::Unknown("gone".into());
        for (error, again, part) in [
            (unroutable, false, "no bot hears"),
            (denial, false, "may not say"),
            (lost, true, "same --id"),
            (PublishError::Refused, true, "nack"),
        ] {
            assert_eq!(worth_repeating(&error, &link), again, "{error}");
            assert!(explain(&error, "a.b", &link).to_string().contains(part), "{error}");
        }
    }
}
