//! A broker in memory that the real runtime can be put on: what the topology says of routing, retry queues and dead letters,
//! with a clock that the test moves. What it cannot do is listed in tests/conformance/places.rs, and held there.
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bot_messages::topology::{DestinationType, Topology};
use bot_store::Outgoing;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable},
};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Boxed, Bus, Consumer, Delivery, Intake, Line, Link, PublishError, Settle, light::Light, wire::Properties};

/// Hops from exchange to exchange; the topology has two.
const HOPS_MAX: usize = 8;

/// A message in a queue.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The exchange it was published to, last.
    pub exchange: String,
    /// Its routing key there.
    pub routing_key: String,
    /// All of them, as they came.
    pub properties: BasicProperties,
    /// The body.
    pub body: Vec<u8>,
    deliveries: u64,
    entered: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Stored>,
    in_hand: BTreeMap<u64, Stored>,
    ttl: Option<Duration>,
    dead_letter: Option<(String, String)>,
    delivery_limit: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    tag: u64,
    /// Bindings by exchange: pattern, kind and name of the destination.
    bindings: BTreeMap<String, Vec<(String, DestinationType, String)>>,
    alternates: BTreeMap<String, String>,
    internal: BTreeSet<String>,
    queues: BTreeMap<String, Queue>,
}

/// The broker; clones are the same one.
#[derive(Clone, Debug)]
pub struct MemoryBroker {
    state: Arc<Mutex<State>>,
    /// Changes with whatever a consumer may wait for.
    changes: watch::Sender<()>,
    link: watch::Sender<Link>,
}

impl MemoryBroker {
    /// One that holds a topology.
    pub fn new(topology: &Topology) -> Self {
        let mut state = State::default();
        for exchange in &topology.exchanges {
            state.bindings.insert(exchange.name.clone(), Vec::new());
            if exchange.internal {
                state.internal.insert(exchange.name.clone());
            }
            let alternate = setting(topology, &exchange.name, "exchanges", "alternate-exchange");
            if let Some(alternate) = alternate.as_ref().and_then(Value::as_str) {
                state.alternates.insert(exchange.name.clone(), alternate.to_owned());
            }
        }
        for queue in &topology.queues {
            let of = |name: &str| setting(topology, &queue.name, "queues", name);
            let text = |name: &str| of(name).and_then(|value| value.as_str().map(str::to_owned));
            let count = |name: &str| of(name).and_then(|value| value.as_u64());
            let limits = Queue {
                ttl: count("message-ttl").map(Duration::from_millis),
                dead_letter: text("dead-letter-exchange").zip(text("dead-letter-routing-key")),
                delivery_limit: count("delivery-limit"),
                ..Queue::default()
            };
            state.queues.insert(queue.name.clone(), limits);
        }
        for binding in &topology.bindings {
            let to = (binding.routing_key.clone(), binding.destination_type, binding.destination.clone());
            state.bindings.entry(binding.source.clone()).or_default().push(to);
        }
        let link = Link { epoch: 1, up: true, ..Link::default() };
        Self { state: Arc::new(Mutex::new(state)), changes: watch::Sender::default(), link: watch::Sender::new(link) }
    }

    /// Binds a further queue, made where it is missing, to an exchange, made too.
    pub fn bind(&self, exchange: &str, queue: &str, pattern: &str) {
        self.change(|state| {
            state.queues.entry(queue.to_owned()).or_default();
            let to = (pattern.to_owned(), DestinationType::Queue, queue.to_owned());
            state.bindings.entry(exchange.to_owned()).or_default().push(to);
        });
    }

    /// Takes a binding to a queue away.
    pub fn unbind(&self, exchange: &str, queue: &str, pattern: &str) {
        self.change(|state| {
            if let Some(bound) = state.bindings.get_mut(exchange) {
                bound.retain(|(key, _, name)| key != pattern || name != queue);
            }
        });
    }

    /// `false`: no queue is bound to where it was sent, so it comes back; or only the broker itself publishes there.
    pub fn publish(&self, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) -> bool {
        let (exchange, routing_key, body) = (exchange.to_owned(), routing_key.to_owned(), body.to_vec());
        self.change(|state| {
            if state.internal.contains(&exchange) {
                return false;
            }
            let entered = state.now;
            state.enter(Stored { exchange, routing_key, properties, body, deliveries: 0, entered })
        })
    }

    /// What waits in a queue, and what is in hand.
    pub fn look(&self, queue: &str) -> (Vec<Stored>, usize) {
        self.change(|state| {
            state
                .queues
                .get(queue)
                .map_or_else(Default::default, |q| (q.ready.iter().cloned().collect(), q.in_hand.len()))
        })
    }

    /// Takes everything that waits in a queue.
    pub fn take(&self, queue: &str) -> Vec<Stored> {
        self.change(|state| state.queues.get_mut(queue).map(|q| q.ready.drain(..).collect()).unwrap_or_default())
    }

    /// Lets time pass for what waits in queues; nobody else's clock moves.
    pub fn pass(&self, by: Duration) {
        self.change(|state| {
            state.now += by;
            state.expire();
        });
    }

    /// Ends the sessions that there are: what is in hand comes again, and settling it does nothing any more.
    pub fn cut_off(&self) {
        self.change(|state| {
            let names: Vec<String> = state.queues.keys().cloned().collect();
            for name in names {
                state.return_all(&name);
            }
        });
        self.link.send_modify(|link| link.epoch += 1);
    }

    /// A bus on this broker, in the place of a session with a real one.
    pub(crate) fn bus(&self, consumers: Vec<Consumer>, tasks: &TaskTracker, cancelled: CancellationToken) -> Bus {
        let light = Arc::<Light>::default();
        for consumer in consumers {
            tasks.spawn(cancelled.clone().run_until_cancelled_owned(self.clone().consume(consumer)));
        }
        tasks.spawn(cancelled.run_until_cancelled_owned(self.clone().send_light(light.clone())));
        Bus { link: self.link.subscribe(), line: Arc::new(self.clone()), light }
    }

    async fn consume(self, mut consumer: Consumer) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let open = consumer.intake.as_mut().is_none_or(|intake| *intake.borrow_and_update() == Intake::Open);
            if open && let Some(delivery) = self.deliver(&consumer) {
                if let Err(unsent) = consumer.out.send(delivery).await {
                    unsent.0.give_back().await;
                    return;
                }
                continue;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = moved(&mut consumer.intake) => {}
                () = consumer.out.closed() => return,
            }
        }
    }

    fn deliver(&self, consumer: &Consumer) -> Option<Delivery> {
        // Not a change that another consumer could wait for.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tag += 1;
        let tag = state.tag;
        let queue = state.queues.get_mut(&consumer.queue)?;
        if queue.in_hand.len() >= usize::from(consumer.prefetch) {
            return None;
        }
        let mut message = queue.ready.pop_front()?;
        let redelivered = message.deliveries > 0;
        message.deliveries += 1;
        let delivery = Delivery {
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            redelivered,
            properties: Properties::read(&message.properties),
            body: message.body.clone(),
            settle: Box::new(InHand { broker: self.clone(), queue: consumer.queue.clone(), tag }),
        };
        if !consumer.no_ack {
            queue.in_hand.insert(tag, message);
        }
        Some(delivery)
    }

    async fn send_light(self, light: Arc<Light>) {
        loop {
            let message = light.pop().await;
            self.send(&message, false);
        }
    }

    fn send(&self, message: &Outgoing, persistent: bool) -> bool {
        let properties: Properties = serde_json::from_value(message.properties.clone()).unwrap_or_default();
        let properties = properties.write(message.priority, persistent);
        self.publish(&message.exchange, &message.routing_key, properties, &message.body)
    }

    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_replace(());
        result
    }
}

async fn moved(intake: &mut Option<watch::Receiver<Intake>>) {
    if let Some(intake) = intake
        && intake.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

impl Line for MemoryBroker {
    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> Boxed<'a, Vec<Result<(), PublishError>>> {
        let answer = |message: &Outgoing| {
            let (exchange, routing_key) = (message.exchange.clone(), message.routing_key.clone());
            if self.send(message, true) { Ok(()) } else { Err(PublishError::Unroutable { exchange, routing_key }) }
        };
        let answers = batch.iter().map(answer).collect();
        Box::pin(std::future::ready(answers))
    }

    fn ready<'a>(&'a self, queue: &'a str) -> Boxed<'a, Result<u32, String>> {
        let ready = self.change(|state| state.queues.get(queue).map(|q| q.ready.len() as u32));
        Box::pin(std::future::ready(ready.ok_or_else(|| format!("there is no queue {queue}"))))
    }

    /// A session in memory does not break.
    fn renew(&self, _: &str) {}
}

#[derive(Debug)]
struct InHand {
    broker: MemoryBroker,
    queue: String,
    tag: u64,
}

impl Settle for InHand {
    fn ack(&self) -> Boxed<'_, bool> {
        let settled =
            self.broker.change(|state| state.queues.get_mut(&self.queue)?.in_hand.remove(&self.tag).map(drop));
        Box::pin(std::future::ready(settled.is_some()))
    }

    fn give_back(&self) -> Boxed<'_, bool> {
        let settled = self.broker.change(|state| {
            let message = state.queues.get_mut(&self.queue)?.in_hand.remove(&self.tag)?;
            state.give_back(&self.queue, message);
            Some(())
        });
        Box::pin(std::future::ready(settled.is_some()))
    }
}

impl State {
    fn enter(&mut self, mut message: Stored) -> bool {
        let mut keys = vec![message.routing_key.clone()];
        let headers = message.properties.headers().clone().unwrap_or_default();
        for name in ["CC", "BCC"] {
            keys.extend(texts(headers.inner().get(name)));
        }
        let mut queues = BTreeSet::new();
        self.route(&message.exchange, &keys, &mut queues, HOPS_MAX);
        if headers.inner().contains_key("BCC") {
            let kept = headers.inner().iter().filter(|(name, _)| name.as_str() != "BCC");
            let kept: BTreeMap<_, _> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
            message.properties = message.properties.with_headers(FieldTable::from(kept));
        }
        for name in &queues {
            if let Some(queue) = self.queues.get_mut(name) {
                queue.ready.push_back(message.clone());
            }
        }
        !queues.is_empty()
    }

    fn route(&self, exchange: &str, keys: &[String], queues: &mut BTreeSet<String>, hops: usize) {
        if exchange.is_empty() {
            queues.extend(keys.iter().filter(|key| self.queues.contains_key(*key)).cloned());
            return;
        }
        let bound = self.bindings.get(exchange).into_iter().flatten();
        let fits: Vec<_> = bound.filter(|(pattern, ..)| keys.iter().any(|key| matches(pattern, key))).collect();
        for (_, kind, name) in &fits {
            match kind {
                DestinationType::Queue => drop(queues.insert(name.clone())),
                DestinationType::Exchange if hops > 0 => self.route(name, keys, queues, hops - 1),
                DestinationType::Exchange => {}
            }
        }
        if fits.is_empty()
            && hops > 0
            && let Some(alternate) = self.alternates.get(exchange)
        {
            self.route(alternate, keys, queues, hops - 1);
        }
    }

    /// Hands on what has been in a queue for as long as it may.
    fn expire(&mut self) {
        let mut over = Vec::new();
        for (name, queue) in &mut self.queues {
            let Some(ttl) = queue.ttl else { continue };
            while queue.ready.front().is_some_and(|message| self.now >= message.entered + ttl) {
                over.extend(queue.ready.pop_front().map(|message| (name.clone(), message)));
            }
        }
        for (queue, message) in over {
            self.bury(&queue, message, "expired");
        }
    }

    fn give_back(&mut self, name: &str, message: Stored) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        if queue.delivery_limit.is_some_and(|limit| message.deliveries > limit) {
            return self.bury(name, message, "delivery_limit");
        }
        queue.ready.push_front(message);
    }

    fn return_all(&mut self, name: &str) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        for message in std::mem::take(&mut queue.in_hand).into_values().rev() {
            self.give_back(name, message);
        }
    }

    /// To the queue's dead letter exchange, as the broker does it: with headers of its own.
    fn bury(&mut self, name: &str, message: Stored, reason: &str) {
        let Some((exchange, routing_key)) = self.queues.get(name).and_then(|queue| queue.dead_letter.clone()) else {
            return;
        };
        let mut death = FieldTable::default();
        death.insert("queue".into(), AMQPValue::LongString(name.into()));
        death.insert("reason".into(), AMQPValue::LongString(reason.into()));
        let mut headers = message.properties.headers().clone().unwrap_or_default();
        headers.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)])));
        headers.insert("x-first-death-queue".into(), AMQPValue::LongString(name.into()));
        let properties = message.properties.with_headers(headers);
        self.enter(Stored { exchange, routing_key, properties, deliveries: 0, entered: self.now, body: message.body });
    }
}

/// What the policies that fit a name set; of several the one with the highest priority.
fn setting(topology: &Topology, name: &str, apply_to: &str, key: &str) -> Option<Value> {
    let fit = topology.policies.iter().filter(|policy| policy.apply_to == apply_to && fits(&policy.pattern, name));
    fit.max_by_key(|policy| policy.priority)?.definition.get(key).cloned()
}

fn fits(pattern: &str, name: &str) -> bool {
    regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(name))
}

fn texts(value: Option<&AMQPValue>) -> Vec<String> {
    let Some(AMQPValue::FieldArray(values)) = value else { return Vec::new() };
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    };
    values.as_slice().iter().filter_map(text).collect()
}

/// Topic exchanges: words between dots, `*` for one, `#` for any number.
fn matches(pattern: &str, key: &str) -> bool {
    fn words(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", rest @ ..], _) => (0..=key.len()).any(|skipped| words(rest, &key[skipped..])),
            (["*", rest @ ..], [_, key @ ..]) => words(rest, key),
            ([word, rest @ ..], [first, key @ ..]) => word == first && words(rest, key),
            _ => false,
        }
    }
    words(&pattern.split('.').collect::<Vec<_>>(), &key.split('.').collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_no_queue_takes_is_returned_and_taken_once_one_does() {
        let broker = MemoryBroker::new(&Topology::default());
        let message = Outgoing {
            exchange: "lota.events".to_owned(),
            routing_key: "event.build.completed".to_owned(),
            body: b"{}".to_vec(),
            properties: Value::Null,
            priority: 0,
        };
        broker.bind("lota.events", "others", "event.test.#");
        let answers = Line::publish(&broker, std::slice::from_ref(&message)).await;
        assert!(matches!(&answers[..], [Err(PublishError::Unroutable { exchange, .. })] if exchange == "lota.events"));
        broker.bind("lota.events", "tests", "event.build.*");
        let answers = Line::publish(&broker, std::slice::from_ref(&message)).await;
        assert!(matches!(&answers[..], [Ok(())]), "{answers:?}");
        assert_eq!((broker.ready("tests").await, broker.ready("others").await), (Ok(1), Ok(0)));
    }
}
