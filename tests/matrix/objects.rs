//! Read, purge, delete, declare and bind, on every queue and every exchange.
use bot_messages::topology::QueueType;
use futures_util::future::join_all;
use lapin::{
    ExchangeKind,
    options::{
        BasicGetOptions, ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};

use crate::{
    attempts::{Client, Verdicts},
    broker::Broker,
};

pub(crate) async fn attempt(broker: &Broker, verdicts: &mut Verdicts) {
    let publishers = broker.fleet.publishers();
    for of_one in join_all(publishers.iter().map(|publisher| publisher_attempts(broker, publisher))).await {
        verdicts.add(of_one);
    }
}

async fn publisher_attempts(broker: &Broker, publisher: &str) -> Verdicts {
    let mut verdicts = Verdicts::default();
    let mut client = Client::connect(broker, publisher).await;
    queues(broker, publisher, &mut client, &mut verdicts).await;
    exchanges(broker, publisher, &mut client, &mut verdicts).await;
    new_ones(publisher, &mut client, &mut verdicts).await;
    verdicts
}

async fn queues(broker: &Broker, who: &str, client: &mut Client, verdicts: &mut Verdicts) {
    let own = format!("lota.egress.{who}");
    for queue in &broker.topology.queues {
        let (name, may_read) = (queue.name.as_str(), broker.fleet.may_read(who, &queue.name));
        let got = client.attempt(async |c| c.basic_get(name.into(), BasicGetOptions { no_ack: false }).await).await;
        verdicts.allowed(|| format!("{who} reads {name}"), got, may_read);
        let purged = client.attempt(async |c| c.queue_purge(name.into(), QueuePurgeOptions::default()).await).await;
        verdicts.allowed(|| format!("{who} purges {name}"), purged, may_read);
        let deleted = client.attempt(async |c| c.queue_delete(name.into(), QueueDeleteOptions::default()).await).await;
        verdicts.allowed(|| format!("{who} deletes {name}"), deleted, false);
        let declared = client
            .attempt(async |c| {
                let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                c.queue_declare(name.into(), options, of_type(queue.queue_type)).await
            })
            .await;
        verdicts.allowed(|| format!("{who} declares {name}"), declared, false);
        for source in [own.as_str(), "lota.events", "amq.topic"] {
            let bound = client
                .attempt(async |c| {
                    let options = QueueBindOptions::default();
                    c.queue_bind(name.into(), source.into(), "#".into(), options, FieldTable::default()).await
                })
                .await;
            verdicts.allowed(|| format!("{who} binds {name} to {source}"), bound, false);
        }
        for binding in broker.topology.bindings.iter().filter(|b| b.destination == name).take(1) {
            let unbound = client
                .attempt(async |c| {
                    let (source, key) = (binding.source.as_str().into(), binding.routing_key.as_str().into());
                    c.queue_unbind(name.into(), source, key, FieldTable::default()).await
                })
                .await;
            verdicts.allowed(|| format!("{who} unbinds {name} from {}", binding.source), unbound, false);
        }
    }
}

fn of_type(queue_type: QueueType) -> FieldTable {
    let name = if queue_type == QueueType::Quorum { "quorum" } else { "classic" };
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString(name.into()));
    table
}

async fn exchanges(broker: &Broker, who: &str, client: &mut Client, verdicts: &mut Verdicts) {
    let own = format!("lota.egress.{who}");
    let ours = broker.topology.exchanges.iter().map(|e| e.name.as_str());
    for name in ours.chain(["amq.topic", "amq.direct", "amq.fanout"]) {
        let declared = client.attempt(async |c| declare(&c, name).await).await;
        verdicts.allowed(|| format!("{who} declares the exchange {name}"), declared, false);
        let deleted =
            client.attempt(async |c| c.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await).await;
        verdicts.allowed(|| format!("{who} deletes the exchange {name}"), deleted, false);
        for (destination, source) in [(name, own.as_str()), (own.as_str(), name)] {
            let bound = client
                .attempt(async |c| {
                    let options = ExchangeBindOptions::default();
                    let key = "no.such_type".into();
                    c.exchange_bind(destination.into(), source.into(), key, options, FieldTable::default()).await
                })
                .await;
            let may = destination == own && broker.fleet.may_bind_from(who, source);
            verdicts.allowed(|| format!("{who} has {source} copied to {destination}"), bound, may);
        }
    }
}

async fn declare(channel: &lapin::Channel, name: &str) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await
}

/// Names that are free: only the operator has some to itself, and only for as long as it is connected.
async fn new_ones(who: &str, client: &mut Client, verdicts: &mut Verdicts) {
    let operator = who == "operator";
    for (name, may) in
        [("new", false), ("amq.new", false), ("tmp.operator.1", operator), ("tmp.outside.1", false), ("", false)]
    {
        let declared = client
            .attempt(async |c| {
                let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
                c.queue_declare(name.into(), options, FieldTable::default()).await
            })
            .await;
        verdicts.allowed(|| format!("{who} declares the queue `{name}`"), declared, may);
        let declared = client.attempt(async |c| declare(&c, &format!("new.{name}")).await).await;
        verdicts.allowed(|| format!("{who} declares the exchange `new.{name}`"), declared, false);
    }
    for source in ["lota.events", "lota.health", "lota.logs", "lota.audit", "lota.requeue", "lota.egress.build-bot"] {
        let bound = client
            .attempt(async |c| {
                let options = QueueBindOptions::default();
                c.queue_bind("tmp.operator.1".into(), source.into(), "#".into(), options, FieldTable::default()).await
            })
            .await;
        let may = operator && !matches!(source, "lota.requeue" | "lota.egress.build-bot");
        verdicts.allowed(|| format!("{who} watches {source}"), bound, may);
    }
}
