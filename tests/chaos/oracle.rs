//! Who keeps the books, outside the fleet: what was heard on the taps, and what was done to the targets. It is told nothing by
//! the bots but what they do.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, State},
    routing::put,
};
use bot_provision::{Destination, Management};
use futures_util::StreamExt as _;
use lapin::{
    Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use serde_json::Value;
use tokio::{net::TcpListener, time::timeout};

use crate::publisher::id_of;

/// The provisioner leaves queues of such names alone.
const EVENTS: &str = "tmp.oracle.events";
/// Heartbeats and log records, which may be lost.
const LIGHT: &str = "tmp.oracle.light";
const LIMIT: Duration = Duration::from_secs(10);
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    /// By type and number, the ids of what was said: the same id twice is one message.
    pub(crate) said: BTreeMap<(String, u64), BTreeSet<String>>,
    /// All messages heard, one that was said twice counted twice.
    pub(crate) copies: u64,
    /// Those of them that are about no message, such as `bot.started`.
    pub(crate) others: u64,
    /// When the end of the chain was first heard of a message.
    pub(crate) through: BTreeMap<u64, Instant>,
    /// By the id of the message that was put aside, the ids of the events that say so, with code.
    pub(crate) letters: BTreeMap<String, BTreeMap<String, String>>,
    /// What a target with keys was asked, in order: number and key.
    pub(crate) keyed: Vec<(u64, String)>,
    /// What a target without keys was asked: number.
    pub(crate) unkeyed: Vec<u64>,
    pub(crate) heartbeats: u64,
    pub(crate) records: u64,
    /// Records that were dropped before they were sent, as each process last said.
    pub(crate) records_dropped: BTreeMap<String, u64>,
}

#[derive(Clone, Default)]
pub(crate) struct Oracle(Arc<Mutex<Books>>);

impl Oracle {
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Books) -> T) -> T {
        look(&self.0.lock().unwrap())
    }

    fn write(&self, write: impl FnOnce(&mut Books)) {
        write(&mut self.0.lock().unwrap());
    }

    /// Gives the queues that it listens to a place.
    pub(crate) async fn declare(management: &Management) {
        management.put_queue("lota", EVENTS, "quorum").await.unwrap();
        management.put_queue("lota", LIGHT, "classic").await.unwrap();
        for (tap, queue) in [("lota.events", EVENTS), ("lota.health", LIGHT), ("lota.logs", LIGHT)] {
            management.put_binding("lota", tap, (Destination::Queue, queue), "#").await.unwrap();
        }
    }

    /// Listens for as long as the test runs, on whichever address answers.
    pub(crate) fn listen(&self, addresses: &[String]) {
        for queue in [EVENTS, LIGHT] {
            let (oracle, addresses) = (self.clone(), addresses.to_vec());
            tokio::spawn(async move {
                for address in addresses.iter().cycle() {
                    let _ = oracle.hear(address, queue).await;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            });
        }
    }

    async fn hear(&self, address: &str, queue: &'static str) -> Option<()> {
        let connecting = Connection::connect(address, ConnectionProperties::default());
        let connection = timeout(LIMIT, connecting).await.ok()?.ok()?;
        let channel = timeout(LIMIT, connection.create_channel()).await.ok()?.ok()?;
        timeout(LIMIT, channel.basic_qos(256, BasicQosOptions::default())).await.ok()?.ok()?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consuming = channel.basic_consume(queue.into(), queue.into(), options, arguments);
        let mut deliveries = timeout(LIMIT, consuming).await.ok()?.ok()?;
        while let Some(delivery) = deliveries.next().await {
            let delivery = delivery.ok()?;
            if let Ok(body) = serde_json::from_slice::<Value>(&delivery.data) {
                self.write(|books| books.note(queue, &body));
            }
            delivery.ack(BasicAckOptions::default()).await.ok()?;
        }
        None
    }

    /// The outside target: one that takes a key, and one that does not. Gives its address.
    pub(crate) async fn serve_target(&self) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let keyed = async |State(oracle): State<Self>, Path((number, key)): Path<(u64, String)>| {
            oracle.write(|books| books.keyed.push((number, key)));
        };
        let unkeyed = async |State(oracle): State<Self>, Path(number): Path<u64>| {
            oracle.write(|books| books.unkeyed.push(number));
        };
        let router = Router::new()
            .route("/keyed/{number}/{key}", put(keyed))
            .route("/unkeyed/{number}", put(unkeyed))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }
}

impl Books {
    fn note(&mut self, queue: &str, body: &Value) {
        if queue == LIGHT {
            return self.note_light(body);
        }
        self.copies += 1;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, event_type, data) = (text(&body["id"]), text(&body["type"]), &body["payload"]["data"]);
        if event_type == "message.dead_lettered" {
            let letters = self.letters.entry(text(&data["message_id"])).or_default();
            letters.insert(id, text(&data["code"]));
        } else if let Some(number) = data["revision"]["sequence"].as_u64().or_else(|| data["sequence"].as_u64()) {
            if event_type == "test.completed" {
                self.through.entry(number).or_insert_with(Instant::now);
            }
            self.said.entry((event_type, number)).or_default().insert(id);
        } else {
            self.others += 1;
        }
    }

    fn note_light(&mut self, body: &Value) {
        if body["uptime_s"].is_null() {
            self.records += 1;
            return;
        }
        self.heartbeats += 1;
        let instance = format!("{} {}", body["bot"], body["instance"]);
        self.records_dropped.insert(instance, body["records_dropped"].as_u64().unwrap_or_default());
    }

    /// Whether the end of the chain was heard of it, or that it was put aside.
    pub(crate) fn has_ended(&self, number: u64) -> bool {
        self.through.contains_key(&number) || self.letters.contains_key(&id_of(number))
    }

    /// The different ids of what was said about a message.
    pub(crate) fn times(&self, event_type: &str, number: u64) -> usize {
        self.said.get(&(event_type.to_owned(), number)).map_or(0, BTreeSet::len)
    }
}
