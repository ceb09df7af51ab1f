//! Dead letters in the hands of an operator: got one by one, held until the session ends, and settled only by what was done
//! with them. Whatever is not settled goes back to where it was, also when the process dies.
use bot_messages::{BotName, catalogue, keys};
use bot_store::Outgoing;
use chrono::DateTime;
use lapin::{
    Acker, Channel, Connection,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;

use super::{
    ATTEMPT, BusOptions, CAUSATION_ID, ERROR_ATTEMPTS, ERROR_BOT, ERROR_CODE, ERROR_MESSAGE, ERROR_TIME, HOP,
    PUBLISHER, REPLAY, SCHEMA, session, wire::Properties,
};
use crate::envelope::Envelope;

/// A session in which dead letters are held.
pub struct DeadLetters {
    connection: Connection,
    channel: Channel,
}

/// A letter in hand.
pub struct Letter {
    /// Slug of the bot among whose dead letters it is.
    pub bot: String,
    /// What the bot wrote down of it; of one that the broker gave up, what its publisher did.
    pub properties: Properties,
    /// As it came to the bot.
    pub body: Vec<u8>,
    /// Where the broker itself gave the message up, what it tells of that.
    pub given_up: Option<GivenUp>,
    /// How many were behind it in the queue.
    pub behind: u32,
    acker: Acker,
}

/// The broker's own dead-lettering. A publisher could write the same header, so it proves nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenUp {
    /// Such as `rejected` or `delivery_limit`.
    pub reason: String,
    /// The exchange that the message was published to.
    pub exchange: String,
    /// When, in Unix seconds.
    pub at_s: Option<u64>,
}

/// What the bot wrote about why a letter is dead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why {
    /// For programs.
    pub code: String,
    /// For people.
    pub error: String,
    /// RFC 3339.
    pub at: String,
    /// How often it was tried.
    pub attempts: Option<u32>,
}

impl DeadLetters {
    /// The user has to be allowed to read the queues `<bot>.dead`, as the operator is.
    pub async fn open(options: &BusOptions) -> Result<Self, String> {
        let mut trouble = "no address was given".to_owned();
        for address in &options.addresses {
            match Self::begin(options, address).await {
                Ok(session) => return Ok(session),
                Err(why) => trouble = why,
            }
        }
        Err(trouble)
    }

    async fn begin(options: &BusOptions, address: &str) -> Result<Self, String> {
        let connection = session::connect(options, address, "dead letters").await?;
        let channel = connection.create_channel().await.map_err(|e| e.to_string())?;
        Ok(Self { connection, channel })
    }

    /// The oldest of a bot's that nobody holds; none where there is none.
    pub async fn next(&self, bot: &str) -> Result<Option<Letter>, String> {
        let queue = keys::dead_queue(bot);
        let got = self.channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await;
        let Some(got) = got.map_err(|e| format!("{queue}: {e}"))? else { return Ok(None) };
        let (behind, delivery) = (got.message_count, got.delivery);
        let by_itself = delivery.exchange.as_str() == keys::egress(bot);
        Ok(Some(Letter {
            bot: bot.to_owned(),
            properties: Properties::allowed(&delivery.properties),
            given_up: (!by_itself).then(|| given_up(delivery.properties.headers().as_ref())),
            body: delivery.data,
            behind,
            acker: delivery.acker,
        }))
    }

    /// Ends the session. Letters that were neither settled nor given back are returned by the broker, in whatever order.
    pub async fn close(self) -> Result<(), String> {
        self.connection.close(200, "looked".into()).await.map_err(|e| e.to_string())
    }
}

impl Letter {
    /// Who said the message, where the bot proved it.
    pub fn publisher(&self) -> Option<&str> {
        let proven = self.properties.text(PUBLISHER).filter(|p| *p != "unknown");
        if self.given_up.is_some() { None } else { proven }
    }

    /// Why it is dead.
    pub fn why(&self) -> Why {
        let text = |name: &str| self.properties.text(name).unwrap_or_default().to_owned();
        match &self.given_up {
            None => Why {
                code: text(ERROR_CODE),
                error: text(ERROR_MESSAGE),
                at: text(ERROR_TIME),
                attempts: self.properties.count(ERROR_ATTEMPTS),
            },
            Some(broker) => Why {
                code: "BROKER".to_owned(),
                error: format!("the broker gave it up: {}", broker.reason),
                at: broker
                    .at_s
                    .and_then(|s| DateTime::from_timestamp(s.cast_signed(), 0))
                    .map_or_else(String::new, |at| at.to_rfc3339()),
                attempts: None,
            },
        }
    }

    /// The number that its next replay bears: the same however often it is asked for, so that one that is sent twice has
    /// one effect.
    pub fn next_replay(&self) -> u32 {
        // Of a letter of the broker's the publisher could have written the header.
        let replay = if self.given_up.is_some() { 0 } else { self.properties.count(REPLAY).unwrap_or(0) };
        replay.saturating_add(1)
    }

    /// The message for its bot once more, as `publisher` said it.
    pub fn replay(&self, operator: &BotName, publisher: &str) -> Outgoing {
        let mut properties = self.properties.clone();
        for past in [ATTEMPT, ERROR_ATTEMPTS, ERROR_BOT, ERROR_CODE, ERROR_MESSAGE, ERROR_TIME] {
            properties.headers.remove(past);
        }
        properties.app_id = Some(operator.to_string());
        let properties = properties.header(PUBLISHER, publisher).header(REPLAY, self.next_replay());
        let priority = Envelope::decode(&self.body).map_or(4, |e| e.priority.amqp());
        self.to_bot(operator, self.body.clone(), &properties, priority)
    }

    /// What the operator says to its bot in its place.
    pub fn instead(&self, operator: &BotName, envelope: &Envelope, caused_by: Option<&str>) -> Outgoing {
        let mut properties = Properties {
            message_id: Some(envelope.id.clone()),
            correlation_id: envelope.correlation_id.clone(),
            event_type: Some(envelope.event_type.clone()),
            app_id: Some(operator.to_string()),
            timestamp_s: u64::try_from(envelope.timestamp.timestamp()).ok(),
            ..Properties::default()
        };
        if let Some(cause) = caused_by {
            properties = properties.header(CAUSATION_ID, cause);
        }
        let version = catalogue::find(&envelope.event_type).map_or(1, |entry| entry.schema_version);
        let properties =
            properties.header(PUBLISHER, operator.slug()).header(REPLAY, 1).header(SCHEMA, version).header(HOP, 0);
        self.to_bot(operator, envelope.encode(), &properties, envelope.priority.amqp())
    }

    fn to_bot(&self, operator: &BotName, body: Vec<u8>, properties: &Properties, priority: u8) -> Outgoing {
        Outgoing {
            exchange: keys::egress(&operator.slug()),
            routing_key: keys::requeue(&self.bot),
            body,
            properties: serde_json::to_value(properties).unwrap_or(Value::Null),
            priority,
        }
    }

    /// Puts it back, unless it was settled.
    pub async fn give_back(&self) {
        // The end of the session does the same.
        let _ = self.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await;
    }

    /// Takes it out of the queue for good.
    pub async fn settle(&self) -> Result<(), String> {
        match self.acker.ack(BasicAckOptions::default()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the session in which it was held is over".to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// The newest entry of the broker's history.
fn given_up(headers: Option<&FieldTable>) -> GivenUp {
    let newest = headers.and_then(|table| match table.inner().get("x-death")? {
        AMQPValue::FieldArray(entries) => match entries.as_slice().first()? {
            AMQPValue::FieldTable(entry) => Some(entry.clone()),
            _ => None,
        },
        _ => None,
    });
    let entry = newest.unwrap_or_default();
    let text = |name: &str| match entry.inner().get(name) {
        Some(AMQPValue::LongString(s)) => String::from_utf8_lossy(s.as_bytes()).into_owned(),
        _ => String::new(),
    };
    let at_s = if let Some(AMQPValue::Timestamp(at)) = entry.inner().get("time") { Some(*at) } else { None };
    GivenUp { reason: text("reason"), exchange: text("exchange"), at_s }
}
