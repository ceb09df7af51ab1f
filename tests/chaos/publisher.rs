//! The outside publisher, as a well-behaved program: each message persistent, mandatory, and sent again with the same id until
//! the broker has confirmed it.
use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::Utc;
use futures_util::future::join_all;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::json;
use tests::chain::Kind;
use tokio::{sync::watch, time::timeout};

use crate::schedule;

const BATCH: u64 = 16;
const LIMIT: Duration = Duration::from_secs(10);
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// An entity has a state of its own, and a state has a limit.
const MESSAGES_OF_AN_ENTITY: u64 = 60;

/// A message that the broker has confirmed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// When it was first handed to the broker.
    pub(crate) at: Instant,
    pub(crate) kind: Kind,
}

pub(crate) struct Publisher {
    addresses: Vec<String>,
    seed: u64,
    total: u64,
    every: Duration,
    allowed: watch::Sender<u64>,
    sent: Mutex<BTreeMap<u64, Sent>>,
    repeated: AtomicU64,
    /// Held by whoever wants nothing to be on its way.
    pub(crate) gate: tokio::sync::Mutex<()>,
}

struct Message {
    id: String,
    body: Vec<u8>,
}

pub(crate) fn id_of(number: u64) -> String {
    format!("push-{number}")
}

/// What message `number` is about.
pub(crate) fn entity_of(number: u64, total: u64) -> String {
    format!("entity-{}", number % entities(total))
}

pub(crate) fn entities(total: u64) -> u64 {
    total.div_ceil(MESSAGES_OF_AN_ENTITY)
}

impl Publisher {
    pub(crate) fn new(addresses: Vec<String>, seed: u64, total: u64, per_second: u64) -> Arc<Self> {
        Arc::new(Self {
            addresses,
            seed,
            total,
            every: Duration::from_millis(BATCH * 1000 / per_second),
            allowed: watch::Sender::default(),
            sent: Mutex::default(),
            repeated: AtomicU64::new(0),
            gate: tokio::sync::Mutex::default(),
        })
    }

    /// Messages up to this number may be sent; `false` where that was so already.
    pub(crate) fn allow(&self, number: u64) -> bool {
        let number = number.min(self.total);
        self.allowed.send_if_modified(|allowed| {
            let more = *allowed < number;
            *allowed = number.max(*allowed);
            more
        })
    }

    /// So many more of them.
    pub(crate) fn allow_more(&self, by: u64) {
        self.allowed.send_modify(|allowed| *allowed = (*allowed + by).min(self.total));
    }

    /// All that is confirmed so far.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&BTreeMap<u64, Sent>) -> T) -> T {
        look(&self.sent.lock().unwrap())
    }

    /// Publishes that were not confirmed, and went out again.
    pub(crate) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Until all is confirmed.
    pub(crate) async fn run(self: Arc<Self>) {
        let (mut next, mut attempt, mut session) = (1, 0, None);
        while next <= self.total {
            let mut allowed = self.allowed.subscribe();
            let last = *allowed.wait_for(|allowed| *allowed >= next).await.unwrap();
            let last = last.min(next + BATCH - 1);
            let at = Instant::now();
            let mut open: BTreeMap<u64, (Message, Kind)> = (next..=last).map(|n| (n, self.message(n))).collect();
            while !open.is_empty() {
                let gate = self.gate.lock().await;
                if session.is_none() {
                    attempt += 1;
                    session =
                        timeout(LIMIT, connect(&self.addresses[attempt % self.addresses.len()])).await.ok().flatten();
                }
                if let Some((_, channel)) = &session {
                    let numbers: Vec<u64> = open.keys().copied().collect();
                    let answers = timeout(LIMIT, publish(channel, open.values().map(|(m, _)| m))).await;
                    let (taken, broken) = answers.unwrap_or_else(|_| (HashSet::new(), true));
                    for number in numbers {
                        if taken.contains(&id_of(number))
                            && let Some((_, kind)) = open.remove(&number)
                        {
                            self.sent.lock().unwrap().insert(number, Sent { at, kind });
                        }
                    }
                    if broken {
                        session = None;
                    }
                }
                drop(gate);
                if !open.is_empty() {
                    self.repeated.fetch_add(open.len() as u64, Ordering::Relaxed);
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
            next = last + 1;
            tokio::time::sleep(self.every).await;
        }
    }

    fn message(&self, number: u64) -> (Message, Kind) {
        let now = Utc::now();
        let kind = match schedule::kind(self.seed, number) {
            Kind::Later(_) => Kind::Later(now.timestamp() + 3),
            kind => kind,
        };
        let mut data = json!({
            "repository": entity_of(number, self.total), "url": kind.to_string(), "ref": "refs/heads/main",
            "commit": "a".repeat(40), "sequence": number,
        });
        if kind == Kind::Unreadable {
            data.as_object_mut().unwrap().remove("repository");
        }
        let id = id_of(number);
        let body = json!({
            "id": id, "timestamp": now, "source": "outside", "destination": "*", "type": "repository.pushed",
            "payload": {"data": data},
        });
        (Message { id, body: body.to_string().into_bytes() }, kind)
    }
}

async fn connect(address: &str) -> Option<(Connection, Channel)> {
    let connection = Connection::connect(address, ConnectionProperties::default()).await.ok()?;
    let channel = connection.create_channel().await.ok()?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.ok()?;
    Some((connection, channel))
}

/// The ids of those that the broker has, and whether the channel is of no more use.
async fn publish(channel: &Channel, messages: impl Iterator<Item = &Message>) -> (HashSet<String>, bool) {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let one = async |message: &Message| {
        let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(message.id.as_str().into());
        let (exchange, key) = ("lota.egress.outside".into(), "repository.pushed".into());
        channel.basic_publish(exchange, key, options, &message.body, properties).await?.await
    };
    let messages: Vec<&Message> = messages.collect();
    let answers = join_all(messages.iter().map(|m| one(m))).await;
    let (mut taken, mut returned, mut broken) = (HashSet::new(), HashSet::new(), false);
    for (message, answer) in messages.iter().zip(answers) {
        match answer {
            // A return comes with whichever confirm is next; all of the channel are here.
            Ok(Confirmation::Ack(carried)) => {
                let id = carried.and_then(|r| r.delivery.properties.message_id().as_ref().map(ToString::to_string));
                returned.extend(id);
                taken.insert(message.id.clone());
            }
            Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => {}
            Err(_) => broken = true,
        }
    }
    (&taken - &returned, broken)
}
