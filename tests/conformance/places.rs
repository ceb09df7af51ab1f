//! Where the promises of promises.rs are kept: a private RabbitMQ node, a cluster of three, a broker in memory. One set of
//! words for all; what a place cannot do it says, and suite.rs holds which place cannot do what.
use std::{
    collections::BTreeSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use bot_messages::topology::Topology;
use bot_provision::{ApplyOptions, apply};
use bot_test::{InProcess, MemoryBroker, Stored};
use lapin::{BasicProperties, types::FieldTable};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{cast::password, toy::ToyBot};

use crate::stage::{CONFIG, Stage, toy, wished};

/// What a place has no means for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cannot {
    /// Have a bot's process end by what a message does to it: the bot is part of the test's own process.
    DieOfAMessage,
    /// Lose one node and go on.
    LoseANode,
    /// Be changed by the provisioner: it has no management API.
    BeProvisioned,
}

/// A message that waits in a queue.
pub(crate) struct Waiting {
    pub(crate) body: String,
    /// Names of its headers, and of what else it carries beside the body.
    pub(crate) beside: BTreeSet<String>,
    pub(crate) headers: Value,
}

pub(crate) enum Place {
    Broker(Box<Stage>),
    Memory(Memory),
}

/// The toy bot and its broker in this process.
pub(crate) struct Memory {
    dir: tempfile::TempDir,
    broker: MemoryBroker,
    bot: InProcess,
    heard: Mutex<Vec<Value>>,
    variables: Vec<(&'static str, String)>,
}

/// So long a broker in memory lets pass whenever somebody looks: retry queues are over in no time.
const FLIES: Duration = Duration::from_millis(500);

impl Place {
    pub(crate) async fn node(variables: Vec<(&'static str, String)>) -> Self {
        Self::Broker(Box::new(Stage::set_with(variables).await))
    }

    pub(crate) async fn cluster(variables: Vec<(&'static str, String)>) -> Self {
        Self::Broker(Box::new(Stage::set_on_cluster(variables).await))
    }

    pub(crate) fn memory(mut variables: Vec<(&'static str, String)>) -> Self {
        variables.push(("LOTA_LOG", "error".to_owned()));
        let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
        std::fs::write(dir.path().join("config.yaml"), CONFIG).unwrap();
        let broker = MemoryBroker::new(&toy(Vec::new()).topology());
        let bot = begin(&dir, &broker, &variables);
        Self::Memory(Memory { dir, broker, bot, heard: Mutex::default(), variables })
    }

    /// A wish of the publisher `outside`, confirmed.
    pub(crate) async fn wish(&self, id: &str, repository: &str, wish: &str) {
        self.wishes(&[(id.to_owned(), repository.to_owned(), wish.to_owned())]).await;
    }

    /// Several: id, repository, wish.
    pub(crate) async fn wishes(&self, wishes: &[(String, String, String)]) {
        let message = |(id, repository, wish): &(String, String, String)| {
            let properties = BasicProperties::default().with_message_id(id.as_str().into());
            (properties, wished(id, repository, wish).to_string().into_bytes())
        };
        let taken = self.say(wishes.iter().map(message).collect()).await;
        assert!(taken.iter().all(|taken| *taken), "returned: nobody hears it");
    }

    /// Whatever `outside` says by the toy bot's key; which of it was taken and not returned.
    pub(crate) async fn say(&self, messages: Vec<(BasicProperties, Vec<u8>)>) -> Vec<bool> {
        match self {
            Self::Broker(stage) => stage.publish_all(messages).await,
            Self::Memory(memory) => {
                let publish = |(properties, body): (BasicProperties, Vec<u8>)| {
                    memory.broker.publish("lota.egress.outside", "repository.pushed", properties, &body)
                };
                messages.into_iter().map(publish).collect()
            }
        }
    }

    /// Publishes with an administrator's rights. `false`: it came back.
    pub(crate) async fn publish(&self, exchange: &str, key: &str, body: &str) -> bool {
        match self {
            Self::Broker(stage) => {
                let persistent = json!({"delivery_mode": 2});
                stage.management.publish("lota", exchange, key, persistent, body).await.unwrap()
            }
            Self::Memory(memory) => memory.broker.publish(exchange, key, BasicProperties::default(), body.as_bytes()),
        }
    }

    /// An exchange, and a queue bound to it.
    pub(crate) async fn bind(&self, exchange: &str, queue: &str, pattern: &str) {
        match self {
            Self::Broker(stage) => {
                let api = &stage.management;
                api.put_exchange("lota", exchange, false).await.unwrap();
                api.put_queue("lota", queue, "classic").await.unwrap();
                let to = (bot_provision::Destination::Queue, queue);
                api.put_binding("lota", exchange, to, pattern).await.unwrap();
            }
            Self::Memory(memory) => memory.broker.bind(exchange, queue, pattern),
        }
    }

    /// Takes away a binding of the topology (exchange, queue, key), or puts it back.
    pub(crate) async fn bound(&self, (exchange, queue, key): (&str, &str, &str), bound: bool) {
        match self {
            Self::Broker(stage) => {
                let api = &stage.management;
                if bound {
                    let to = (bot_provision::Destination::Queue, queue);
                    return api.put_binding("lota", exchange, to, key).await.unwrap();
                }
                let all = api.bindings("lota").await.unwrap();
                let fits = |b: &&bot_provision::BindingInfo| b.source == exchange && b.routing_key == key;
                api.delete_binding("lota", all.iter().find(fits).unwrap()).await.unwrap();
            }
            Self::Memory(memory) if bound => memory.broker.bind(exchange, queue, key),
            Self::Memory(memory) => memory.broker.unbind(exchange, queue, key),
        }
    }

    /// What waits in a queue, which keeps it.
    pub(crate) async fn waiting(&self, queue: &str) -> Vec<Waiting> {
        match self {
            Self::Broker(stage) => {
                let got = stage.management.peek("lota", queue, 200).await.unwrap();
                let seen = |message: bot_provision::MessageGot| {
                    let headers = message.properties.get("headers").cloned().unwrap_or_else(|| json!({}));
                    let mut beside: BTreeSet<String> = message.properties.keys().cloned().collect();
                    beside.extend(headers.as_object().into_iter().flat_map(|headers| headers.keys().cloned()));
                    Waiting { body: message.payload, beside, headers }
                };
                got.into_iter().map(seen).collect()
            }
            Self::Memory(memory) => memory.broker.look(queue).0.iter().map(stored).collect(),
        }
    }

    /// Different messages of a type that the bot said.
    pub(crate) fn said_of(&self, event_type: &str) -> Vec<Value> {
        match self {
            Self::Broker(stage) => stage.said_of(event_type),
            Self::Memory(memory) => {
                let mut heard = memory.heard.lock().unwrap();
                let new = memory.broker.take("outside.tap.events");
                // What a publisher said may be no JSON.
                heard.extend(new.iter().map(|m| serde_json::from_slice::<Value>(&m.body).unwrap_or_default()));
                let mut ids = BTreeSet::new();
                let of = heard.iter().filter(|m| m["type"] == event_type && ids.insert(m["id"].to_string()));
                of.cloned().collect()
            }
        }
    }

    /// What the bot answered about a repository, in order.
    pub(crate) fn answers(&self, repository: &str) -> Vec<String> {
        let said = self.said_of("build.started").into_iter();
        let about = said.filter(|m| m["payload"]["data"]["revision"]["repository"] == repository);
        about.map(|m| m["payload"]["data"]["job_id"].as_str().unwrap().to_owned()).collect()
    }

    /// The repositories that were answered, in order.
    pub(crate) fn answered(&self) -> Vec<String> {
        let said = self.said_of("build.started").into_iter();
        said.map(|m| m["payload"]["data"]["revision"]["repository"].as_str().unwrap().to_owned()).collect()
    }

    /// What `message.dead_lettered` said of a message: code and attempts.
    pub(crate) fn dead(&self, id: &str) -> Option<(String, u64)> {
        let letters = self.said_of("message.dead_lettered");
        let letter = letters.iter().map(|m| &m["payload"]["data"]).find(|data| data["message_id"] == id)?;
        Some((letter["code"].as_str().unwrap().to_owned(), letter["attempts"].as_u64().unwrap()))
    }

    /// Waits until `look` is true. A bot whose process died is started again; in memory time flies.
    pub(crate) async fn until(&mut self, what: &str, look: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(400);
        while !look(self) {
            assert!(Instant::now() < end, "waited 400 s for {what}");
            self.rest().await;
        }
    }

    /// The moment between two looks.
    pub(crate) async fn rest(&mut self) {
        match self {
            Self::Broker(stage) => stage.look_after().await,
            Self::Memory(memory) => {
                memory.broker.pass(FLIES);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Has the bot take no work, or take it again; returns when it said so.
    pub(crate) async fn pause(&mut self, paused: bool) {
        let (command, said) = if paused { ("control.pause", "bot.paused") } else { ("control.resume", "bot.resumed") };
        let before = self.said_of(said).len();
        let id = format!("{command}-{before}");
        let mut body = wished(&id, "", "");
        body["source"] = "operator".into();
        body["destination"] = "ToyBot".into();
        body["type"] = command.into();
        body["payload"]["data"] = json!({"reason": "a test"});
        assert!(self.publish("lota.egress.operator", &format!("to.toy-bot.{command}"), &body.to_string()).await);
        self.until(said, |place| place.said_of(said).len() > before).await;
    }

    /// Kills the bot and starts it again.
    pub(crate) async fn kill_bot(&mut self) {
        match self {
            Self::Broker(stage) => {
                stage.signal(Signal::SIGKILL).await;
                stage.start();
            }
            Self::Memory(memory) => {
                memory.bot.kill().unwrap();
                memory.bot = begin(&memory.dir, &memory.broker, &memory.variables);
            }
        }
    }

    /// Ends the bot's connections.
    pub(crate) async fn cut_off(&mut self) {
        match self {
            Self::Broker(stage) => stage.cut_off().await,
            Self::Memory(memory) => memory.broker.cut_off(),
        }
    }

    /// How often the bot's process was started by [`Place::until`], after what a message did to it.
    pub(crate) fn starts(&self) -> Result<u32, Cannot> {
        match self {
            Self::Broker(stage) => Ok(stage.starts()),
            Self::Memory(_) => Err(Cannot::DieOfAMessage),
        }
    }

    /// Kills the node of a cluster that the bot speaks to.
    pub(crate) async fn lose_a_node(&mut self) -> Result<(), Cannot> {
        let lost = match self {
            Self::Broker(stage) => stage.broker().lose_a_node().await,
            Self::Memory(_) => false,
        };
        if lost { Ok(()) } else { Err(Cannot::LoseANode) }
    }

    /// Brings back what was lost.
    pub(crate) async fn heal(&mut self) {
        if let Self::Broker(stage) = self {
            stage.broker().heal().await;
        }
    }

    /// What it was made from.
    pub(crate) fn topology(&self) -> Result<Topology, Cannot> {
        match self {
            Self::Broker(stage) => Ok(stage.topology()),
            Self::Memory(_) => Err(Cannot::BeProvisioned),
        }
    }

    /// Has the provisioner make it hold a topology; what it did.
    pub(crate) async fn provision(&self, topology: &Topology) -> Result<Vec<String>, Cannot> {
        let Self::Broker(stage) = self else { return Err(Cannot::BeProvisioned) };
        let options = ApplyOptions { dry_run: false, drain: false, figures_every: Duration::from_secs(5) };
        let changes = apply(&stage.management, topology, &password, options).await.unwrap();
        Ok(changes.iter().map(ToString::to_string).collect())
    }
}

fn begin(dir: &tempfile::TempDir, broker: &MemoryBroker, variables: &[(&'static str, String)]) -> InProcess {
    InProcess::start::<ToyBot>(broker, dir.path(), &dir.path().join("config.yaml"), variables).unwrap()
}

fn stored(message: &Stored) -> Waiting {
    let table = message.properties.headers().clone().unwrap_or_default();
    let mut beside: BTreeSet<String> = names(&table);
    for (name, there) in [
        ("expiration", message.properties.expiration().is_some()),
        ("user_id", message.properties.user_id().is_some()),
        ("reply_to", message.properties.reply_to().is_some()),
    ] {
        beside.extend(there.then(|| name.to_owned()));
    }
    let text = |value: &lapin::types::AMQPValue| match value {
        lapin::types::AMQPValue::LongString(text) => json!(text.to_string()),
        lapin::types::AMQPValue::LongLongInt(number) => json!(number),
        other => json!(format!("{other:?}")),
    };
    let headers = table.inner().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    Waiting { body: String::from_utf8_lossy(&message.body).into_owned(), beside, headers: Value::Object(headers) }
}

fn names(table: &FieldTable) -> BTreeSet<String> {
    table.inner().keys().map(ToString::to_string).collect()
}
