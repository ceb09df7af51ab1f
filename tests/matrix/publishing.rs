//! Every key on every exchange by every publisher; keys of others in CC and BCC; forged properties; direct reply-to.
use std::collections::BTreeSet;

use futures_util::future::join_all;
use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, BasicPublishOptions},
    types::{AMQPValue, FieldArray, FieldTable},
};

use crate::{
    attempts::{Client, DENIED, Outcome, Verdicts},
    broker::Broker,
};

/// The broker's own exchanges; the first is the one without a name.
const OF_THE_BROKER: [&str; 7] =
    ["", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic", "amq.rabbitmq.trace"];
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// A message that was sent, and where it has to come to and nowhere else.
pub(crate) struct Sent {
    pub(crate) id: String,
    pub(crate) what: String,
    pub(crate) queues: BTreeSet<String>,
}

pub(crate) async fn attempt(broker: &Broker, verdicts: &mut Verdicts) {
    let publishers = broker.fleet.publishers();
    let all = join_all(publishers.iter().map(|publisher| publisher_attempts(broker, publisher))).await;
    broker.settled().await;
    for (of_one, sent) in all {
        verdicts.add(of_one);
        for Sent { id, what, queues } in sent {
            let came: BTreeSet<String> = broker.arrived(&id).into_keys().collect();
            verdicts.equal(|| format!("{what}: where it comes to"), &came, &queues);
        }
    }
}

async fn publisher_attempts(broker: &Broker, publisher: &str) -> (Verdicts, Vec<Sent>) {
    let (mut verdicts, mut sent) = (Verdicts::default(), Vec::new());
    let mut who = Who::new(broker, publisher).await;
    who.foreign_exchanges(&mut verdicts).await;
    who.own_exchange(&mut verdicts, &mut sent).await;
    who.copies(&mut verdicts, &mut sent).await;
    who.forged_properties(&mut verdicts, &mut sent).await;
    who.direct_replies(&mut verdicts).await;
    (verdicts, sent)
}

/// CC or BCC, and what it says.
#[derive(Clone, Copy)]
pub(crate) enum Copies {
    Cc,
    Bcc,
}

impl Copies {
    pub(crate) const BOTH: [Self; 2] = [Self::Cc, Self::Bcc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cc => "CC",
            Self::Bcc => "BCC",
        }
    }

    pub(crate) fn of(self, keys: &[&str]) -> FieldTable {
        let keys: Vec<AMQPValue> = keys.iter().map(|key| AMQPValue::LongString((*key).into())).collect();
        let mut table = FieldTable::default();
        table.insert(self.name().into(), AMQPValue::FieldArray(FieldArray::from(keys)));
        table
    }
}

struct Who<'a> {
    broker: &'a Broker,
    name: String,
    exchange: String,
    client: Client,
    /// Key → where it leads.
    granted: Vec<(String, BTreeSet<String>)>,
    numbers: usize,
}

impl<'a> Who<'a> {
    async fn new(broker: &'a Broker, name: &str) -> Self {
        let client = Client::connect(broker, name).await;
        let granted = broker.fleet.granted(name);
        Self { broker, name: name.to_owned(), exchange: format!("lota.egress.{name}"), client, granted, numbers: 0 }
    }

    fn leads_to(&self, key: &str) -> Option<&BTreeSet<String>> {
        self.granted.iter().find(|(granted, _)| granted == key).map(|(_, queues)| queues)
    }

    fn foreign_keys(&self) -> Vec<String> {
        let all = self.broker.fleet.all_keys();
        all.into_iter().filter(|key| !key.is_empty() && self.leads_to(key).is_none()).collect()
    }

    async fn publish(&mut self, exchange: &str, key: &str, properties: BasicProperties) -> (String, Outcome) {
        self.numbers += 1;
        let id = format!("{}-{}", self.name, self.numbers);
        let properties = properties.with_message_id(id.as_str().into());
        (id, self.client.publish(exchange, key, properties, b"{}").await)
    }

    /// Other publishers' exchanges, taps, requeue, dead, unrouted, the broker's own: with a key that leads somewhere there,
    /// and with one of its own. Without a name, with the name of each queue.
    async fn foreign_exchanges(&mut self, verdicts: &mut Verdicts) {
        let (own, broker) = (self.granted[0].0.clone(), self.broker);
        let ours = broker.topology.exchanges.iter().map(|e| e.name.as_str());
        let foreign: Vec<&str> = ours.chain(OF_THE_BROKER).filter(|e| *e != self.exchange).collect();
        for exchange in foreign {
            let bindings = broker.topology.bindings.iter().filter(|b| b.source == exchange);
            let queues = broker.topology.queues.iter().map(|q| q.name.as_str()).filter(|_| exchange.is_empty());
            let keys: BTreeSet<&str> =
                bindings.map(|b| b.routing_key.as_str()).chain(queues).chain([own.as_str()]).collect();
            for key in keys {
                let (_, outcome) = self.publish(exchange, key, BasicProperties::default()).await;
                verdicts.allowed(|| format!("{} publishes to `{exchange}` with `{key}`", self.name), outcome, false);
            }
        }
    }

    /// Every key there is.
    async fn own_exchange(&mut self, verdicts: &mut Verdicts, sent: &mut Vec<Sent>) {
        for key in self.broker.fleet.all_keys() {
            let exchange = self.exchange.clone();
            let (id, outcome) = self.publish(&exchange, &key, BasicProperties::default()).await;
            let what = format!("{} says `{key}`", self.name);
            match self.leads_to(&key).cloned() {
                Some(queues) => {
                    // A stream that nobody observes comes back.
                    let outcome =
                        if outcome == Outcome::Returned && queues.is_empty() { Outcome::Done } else { outcome };
                    verdicts.allowed(|| what.clone(), outcome, true);
                    sent.push(Sent { id, what, queues });
                }
                None => verdicts.allowed(|| what, outcome, false),
            }
        }
    }

    /// A key of others beside an own one, an own one beside a key of others, two own ones.
    async fn copies(&mut self, verdicts: &mut Verdicts, sent: &mut Vec<Sent>) {
        let (own, exchange) = (self.granted[0].0.clone(), self.exchange.clone());
        let foreign = self.foreign_keys();
        for (copies, key) in Copies::BOTH.into_iter().flat_map(|copies| foreign.iter().map(move |key| (copies, key))) {
            let beside = |key: &str| BasicProperties::default().with_headers(copies.of(&[key]));
            let what = format!("{} says `{own}` with `{key}` in {}", self.name, copies.name());
            let (id, outcome) = self.publish(&exchange, &own, beside(key)).await;
            // Before 4.0 the broker takes it; but no binding of this exchange has that key.
            verdicts.allowed(|| what.clone(), outcome, !self.broker.checks_copies());
            let queues = if outcome == DENIED { BTreeSet::new() } else { self.granted[0].1.clone() };
            sent.push(Sent { id, what, queues });

            let what = format!("{} says `{key}` with `{own}` in {}", self.name, copies.name());
            let (id, outcome) = self.publish(&exchange, key, beside(&own)).await;
            verdicts.allowed(|| what.clone(), outcome, false);
            sent.push(Sent { id, what, queues: BTreeSet::new() });
        }
        for (key, queues) in self.granted.clone() {
            let what = format!("{} says `{own}` with its own `{key}` in CC", self.name);
            let (id, outcome) =
                self.publish(&exchange, &own, BasicProperties::default().with_headers(Copies::Cc.of(&[&key]))).await;
            verdicts.allowed(|| what.clone(), outcome, true);
            sent.push(Sent { id, what, queues: queues.union(&self.granted[0].1).cloned().collect() });
        }
    }

    /// What the broker holds against the user, and headers that pretend to be its own or ours: they lead no further.
    async fn forged_properties(&mut self, verdicts: &mut Verdicts, sent: &mut Vec<Sent>) {
        let (own, exchange) = (self.granted[0].clone(), self.exchange.clone());
        for other in self.broker.fleet.publishers() {
            let properties = BasicProperties::default().with_user_id(other.as_str().into());
            let (_, outcome) = self.publish(&exchange, &own.0, properties).await;
            let expected = if other == self.name { Outcome::Done } else { Outcome::Refused(406) };
            verdicts.equal(|| format!("{} says that it is the user {other}", self.name), &outcome, &expected);
        }
        for (name, value) in [
            ("x-lota-publisher", AMQPValue::LongString("operator".into())),
            ("x-lota-replay", AMQPValue::LongInt(7)),
            ("x-death", deaths()),
            ("x-first-death-queue", AMQPValue::LongString("deploy-bot.work".into())),
            ("x-delay", AMQPValue::LongInt(1)),
        ] {
            let mut headers = FieldTable::default();
            headers.insert(name.into(), value);
            let (id, outcome) = self.publish(&exchange, &own.0, BasicProperties::default().with_headers(headers)).await;
            let what = format!("{} sends a forged {name}", self.name);
            verdicts.allowed(|| what.clone(), outcome, true);
            sent.push(Sent { id, what, queues: own.1.clone() });
        }
    }

    /// It may ask for answers; nobody may give one, since that takes the exchange without a name.
    async fn direct_replies(&mut self, verdicts: &mut Verdicts) {
        let (own, exchange) = (self.granted[0].0.clone(), self.exchange.clone());
        let asked = self
            .client
            .attempt(async |channel| {
                let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
                let answers = channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default()).await?;
                let (exchange, key) = (exchange.as_str().into(), own.as_str().into());
                let asking = BasicProperties::default().with_reply_to(REPLY_TO.into());
                channel.basic_publish(exchange, key, BasicPublishOptions::default(), b"{}", asking).await?.await?;
                // As long as it is there, its channel may be answered.
                drop(answers);
                Ok(())
            })
            .await;
        verdicts.allowed(|| format!("{} asks for a direct reply", self.name), asked, true);
        let forged = format!("{REPLY_TO}.g1h2AA5yZXBseUA1MzQ2NzM5NQAABqQAAAAAYkGc4w==.abc");
        for (exchange, key) in [("", forged.as_str()), ("", REPLY_TO), (exchange.as_str(), forged.as_str())] {
            let (_, outcome) = self.publish(exchange, key, BasicProperties::default()).await;
            verdicts.allowed(|| format!("{} replies directly by `{exchange}` with {key}", self.name), outcome, false);
        }
    }
}

/// As the broker writes it when a message came back through a retry queue.
fn deaths() -> AMQPValue {
    let mut death = FieldTable::default();
    for (name, value) in
        [("queue", "deploy-bot.retry.5s"), ("reason", "expired"), ("exchange", "lota.egress.deploy-bot")]
    {
        death.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    death.insert("count".into(), AMQPValue::LongLongInt(1));
    AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)]))
}
