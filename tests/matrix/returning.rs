//! The two ways on which the broker itself sends a message on: out of a retry queue when its time is over, and out of a
//! work queue that rejects it. Neither carries it to others, whatever its CC and BCC say.
use std::collections::BTreeSet;

use lapin::BasicProperties;

use crate::{
    attempts::{Client, Verdicts},
    broker::{Broker, REJECTED},
    publishing::Copies,
};

struct Sent {
    id: String,
    queues: BTreeSet<String>,
}

pub(crate) async fn attempt(broker: &Broker, verdicts: &mut Verdicts) {
    let mut sent = Vec::new();
    for bot in crate::fleet::contracts().iter().map(|c| c.name.slug()) {
        broker.stop_listening(&format!("{bot}.retry.5s")).await;
        let mut client = Client::connect(broker, &bot).await;
        let foreign = keys_of_others(broker, &bot);
        let foreign: Vec<&str> = foreign.iter().map(String::as_str).collect();
        for copies in Copies::BOTH {
            let with = BasicProperties::default().with_headers(copies.of(&foreign));
            let id = format!("retry-{bot}-{}", copies.name());
            let key = format!("retry.{bot}.5s");
            let exchange = format!("lota.egress.{bot}");
            let outcome = client.publish(&exchange, &key, with.with_message_id(id.as_str().into()), b"{}").await;
            let taken = !broker.checks_copies();
            let what = format!("{bot} sends {key} with keys of others in {}", copies.name());
            verdicts.allowed(|| what, outcome, taken);
            if taken {
                sent.push(Sent { id, queues: BTreeSet::from([format!("{bot}.work")]) });
            }
        }
        let id = format!("retry-{bot}");
        let plain = BasicProperties::default().with_message_id(id.as_str().into());
        let outcome = client.publish(&format!("lota.egress.{bot}"), &format!("retry.{bot}.5s"), plain, b"{}").await;
        verdicts.allowed(|| format!("{bot} retries"), outcome, true);
        sent.push(Sent { id, queues: BTreeSet::from([format!("{bot}.work")]) });
    }
    rejected(broker, verdicts, &mut sent).await;
    for Sent { id, queues } in &sent {
        broker.until(id, queues).await;
    }
    // What went further would come in the same moment.
    broker.settled().await;
    for Sent { id, queues } in sent {
        let came: BTreeSet<String> = broker.arrived(&id).into_keys().collect();
        verdicts.equal(|| format!("{id}: where it comes to"), &came, &queues);
    }
}

/// Everything a message is granted to lead to, but every work queue rejects it.
async fn rejected(broker: &Broker, verdicts: &mut Verdicts, sent: &mut Vec<Sent>) {
    for publisher in broker.fleet.publishers() {
        let mut client = Client::connect(broker, &publisher).await;
        let foreign = keys_of_others(broker, &publisher);
        let foreign: Vec<&str> = foreign.iter().map(String::as_str).collect();
        let heard = |queues: &BTreeSet<String>| queues.iter().any(|q| is_real_work(q));
        for (key, queues) in broker.fleet.granted(&publisher).into_iter().filter(|(_, queues)| heard(queues)) {
            let id = format!("{REJECTED}{publisher}-{key}");
            let mut with = BasicProperties::default().with_message_id(id.as_str().into());
            if !broker.checks_copies() {
                with = with.with_headers(Copies::Cc.of(&foreign));
            }
            let outcome = client.publish(&format!("lota.egress.{publisher}"), &key, with, b"{}").await;
            verdicts.allowed(|| format!("{publisher} says {key}, to be rejected"), outcome, true);
            let dead = queues.iter().filter(|q| is_real_work(q)).map(|q| q.replace(".work", ".dead"));
            let dead: Vec<String> = dead.collect();
            sent.push(Sent { id, queues: queues.into_iter().chain(dead).collect() });
        }
    }
}

/// Ears have no dead letters.
fn is_real_work(queue: &str) -> bool {
    queue.ends_with(".work") && !queue.starts_with(crate::fleet::EAR)
}

/// What would move other bots, were it to be believed.
fn keys_of_others(broker: &Broker, who: &str) -> Vec<String> {
    let own = broker.fleet.granted(who);
    let others = crate::fleet::contracts().into_iter().map(|c| c.name.slug()).filter(|bot| bot != who);
    let keys = others.flat_map(|bot| {
        [
            format!("requeue.{bot}"),
            format!("dead.{bot}"),
            format!("retry.{bot}.5s"),
            format!("to.{bot}.control.pause"),
            format!("health.{bot}.i1"),
        ]
    });
    let types = ["deploy.requested", "approval.granted", "build.completed", "test.completed", "repository.pushed"];
    keys.chain(types.map(ToOwned::to_owned)).filter(|key| !own.iter().any(|(granted, _)| granted == key)).collect()
}
