//! A broker, a toy bot that can be killed and started again, and everything it said, heard from outside.
mod faults;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use bot_messages::topology::Topology;
use bot_provision::{ApplyOptions, Management, apply};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::{Value, json};
use tests::{
    cast::{Cast, password, start},
    toy::ToyBot,
};

use crate::{
    broker::Broker,
    ears::{Heard, hear_heartbeats, listen, take_one},
};

pub(crate) const CONFIG: &str = "
bot: {name: ToyBot, version: '1', enabled: true}
triggers:
  - {type: event, pattern: repository.pushed}
  - type: schedule
    name: yearly
    cron: '0 0 1 1 *'
    data: {repository: yearly, url: say, ref: refs/heads/main, commit: 99e7d55f41e3a9b3c1e2d0f6b8a7c5d4e3f2a1b0}
actions: [{type: execute, command: play}]
constraints: {max_concurrent_jobs: 4, timeout: 60, retry_policy: {max_attempts: 3, backoff: fixed}}
dependencies: []
outputs: [{type: message, destination: '*'}]
";

/// The toy bot, with further variables in its environment.
pub(crate) fn toy(variables: Vec<(&'static str, String)>) -> Cast {
    let contract = bot_core::contract_of::<ToyBot>();
    Cast { slug: "toy-bot", contract, config: CONFIG.to_owned(), heard: "repository.pushed", variables }
}

pub(crate) struct Stage {
    pub(crate) management: Management,
    dir: tempfile::TempDir,
    // Dies with this process, or with this value.
    broker: Broker,
    channel: Channel,
    // Closed with the last value; the second is the admin's.
    connections: [Connection; 2],
    heard: Arc<Mutex<Vec<Heard>>>,
    heartbeats: Arc<Mutex<Vec<Value>>>,
    cast: Cast,
    bot: Child,
    /// Further instances of it, by their number, each with a folder of its own.
    replicas: BTreeMap<usize, Child>,
    starts: u32,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::set_with(Vec::new()).await
    }

    /// With further variables in the bot's environment.
    pub(crate) async fn set_with(variables: Vec<(&'static str, String)>) -> Self {
        let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
        Self::set_for(dir, toy(variables)).await
    }

    /// On a cluster of three nodes.
    pub(crate) async fn set_on_cluster(variables: Vec<(&'static str, String)>) -> Self {
        let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
        let broker = Broker::cluster(&dir.path().join("cluster")).await;
        Self::lay(dir, broker, toy(variables)).await
    }

    /// With another bot, whose home is `bot` in this folder.
    pub(crate) async fn set_for(dir: tempfile::TempDir, cast: Cast) -> Self {
        let broker = Broker::node(&dir.path().join("node")).await;
        Self::lay(dir, broker, cast).await
    }

    async fn lay(dir: tempfile::TempDir, broker: Broker, cast: Cast) -> Self {
        let node = broker.ours();
        let management = node.management().unwrap();
        let topology = cast.topology();
        let applied = ApplyOptions { dry_run: false, drain: false, figures_every: Duration::from_secs(5) };
        apply(&management, &topology, &password, applied).await.unwrap();

        let url = format!("amqp://outside:secret%20of%20outside@127.0.0.1:{}/lota", node.amqp_port());
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = heard.clone();
        listen(&channel, "outside.tap.events", move |heard| ears.lock().unwrap().push(heard)).await;
        let (admin, heartbeats) = hear_heartbeats(node).await;
        let bot = start(&dir.path().join("bot"), &broker.urls(), &password(cast.slug), &cast);
        Self {
            management,
            dir,
            broker,
            channel,
            connections: [connection, admin],
            heard,
            heartbeats,
            cast,
            bot,
            replicas: BTreeMap::new(),
            starts: 1,
        }
    }

    /// A wish of another publisher.
    pub(crate) async fn wish_of_another(&self, id: &str, repository: &str, wish: &str) {
        let mut body = wished(id, repository, wish);
        body["source"] = "another".into();
        self.publish_unconfirmed("lota.egress.another", "repository.pushed", &body).await;
    }

    /// A letter as the bot writes it, about a wish that it would follow today.
    pub(crate) async fn letter_of(&self, id: &str, wish: &str) {
        let body = wished(id, "r", wish).to_string();
        let headers = json!({
            "x-lota-publisher": "outside", "x-lota-error-code": "REJECTED", "x-lota-error-message": "not that day",
            "x-lota-error-bot": "ToyBot", "x-lota-error-attempts": 1, "x-lota-error-time": now(),
        });
        let properties = json!({"delivery_mode": 2, "message_id": id, "type": "repository.pushed", "headers": headers});
        let (exchange, key) = ("lota.egress.toy-bot", "dead.toy-bot");
        assert!(self.management.publish("lota", exchange, key, properties, &body).await.unwrap());
    }

    /// A wish that the broker itself gives up, as after too many deliveries; the bot is not there meanwhile.
    pub(crate) async fn given_up(&mut self, id: &str, wish: &str) {
        self.signal(Signal::SIGTERM).await;
        self.wish(id, "r", wish).await;
        let channel = self.connections[1].create_channel().await.unwrap();
        let got = channel.basic_get("toy-bot.work".into(), BasicGetOptions::default()).await.unwrap().unwrap();
        got.delivery.nack(BasicNackOptions { requeue: false, multiple: false }).await.unwrap();
        self.start();
    }

    /// `lota` of a fleet that is this stage.
    pub(crate) fn lota(&self, args: &[&str]) -> Command {
        let home = self.beside("home");
        if !home.exists() {
            fs::create_dir_all(home.join("secrets")).unwrap();
            let node = self.broker.ours();
            let record = json!({
                "amqp_url": node.amqp_url(), "management_url": node.management_url(), "admin": node.admin(),
            });
            fs::write(home.join("fleet.json"), record.to_string()).unwrap();
            let secrets = [("operator", password("operator")), (node.admin(), node.admin_password().clone())];
            for (user, secret) in secrets {
                fs::write(home.join(format!("secrets/{user}.password")), secret.expose()).unwrap();
            }
        }
        let mut command = tests::lota(args);
        command.env("LOTA_HOME", home);
        command
    }

    /// A place beside the broker's and the bot's folders.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command of the operator.
    pub(crate) async fn command(&self, id: &str, command: &str, data: Value) {
        let body = json!({
            "id": id, "timestamp": now(), "source": "operator", "destination": self.cast.contract.name, "type": command,
            "payload": {"data": data},
        });
        self.publish_unconfirmed("lota.egress.operator", &format!("to.{}.{command}", self.cast.slug), &body).await;
    }

    /// An event of a publisher.
    pub(crate) async fn event(&self, publisher: &str, id: &str, event_type: &str, data: Value) {
        let body = json!({
            "id": id, "timestamp": now(), "source": publisher, "destination": "*", "type": event_type,
            "payload": {"data": data},
        });
        self.publish_unconfirmed(&format!("lota.egress.{publisher}"), event_type, &body).await;
    }

    async fn publish_unconfirmed(&self, exchange: &str, key: &str, body: &Value) {
        let properties = json!({"delivery_mode": 2});
        let routed = self.management.publish("lota", exchange, key, properties, &body.to_string()).await.unwrap();
        assert!(routed, "{exchange} leads {key} nowhere");
    }

    /// Puts a file into the bot's own folder, or takes it away.
    pub(crate) fn file_of_bot(&self, name: &str, text: Option<&str>) {
        let file = self.beside("bot/bots/toy-bot").join(name);
        match text {
            Some(text) => fs::write(file, text).unwrap(),
            None => fs::remove_file(file).unwrap(),
        }
    }

    /// The latest heartbeat.
    pub(crate) fn heartbeat(&self) -> Value {
        self.heartbeats.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// What the bot's heartbeats gave as reasons, with the state.
    pub(crate) fn states(&self) -> Vec<(String, String)> {
        let text = |h: &Value, field: &str| h[field].as_str().unwrap_or_default().to_owned();
        let heartbeats = self.heartbeats.lock().unwrap();
        heartbeats.iter().map(|h| (text(h, "state"), h["reasons"].to_string())).collect()
    }

    /// How many messages the bot's heartbeats say that it put off and refused for their rate.
    pub(crate) fn limited(&self) -> (usize, usize) {
        let heartbeats = self.heartbeats.lock().unwrap();
        let last = |field: &str| heartbeats.last().and_then(|h| h[field].as_u64()).unwrap_or(0) as usize;
        (last("rate_deferred"), last("rate_refused"))
    }

    /// A queue that hears the bot's answers and nobody else's messages, and takes one.
    pub(crate) async fn narrow_queue(&self, name: &str) -> Channel {
        let channel = self.connections[1].create_channel().await.unwrap();
        take_one(&channel, name, "lota.events", "build.started").await;
        channel
    }

    /// A wish about an entity, confirmed by the broker. `id` is the message's.
    pub(crate) async fn wish(&self, id: &str, repository: &str, wish: &str) {
        self.wish_in_trace(id, repository, wish, None).await;
    }

    /// The same, as part of a trace.
    pub(crate) async fn wish_in_trace(&self, id: &str, repository: &str, wish: &str, traceparent: Option<&str>) {
        let mut headers = FieldTable::default();
        if let Some(traceparent) = traceparent {
            headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.into()));
        }
        self.wish_with(id, repository, wish, headers).await;
    }

    /// The same, with headers.
    pub(crate) async fn wish_with(&self, id: &str, repository: &str, wish: &str, headers: FieldTable) {
        let properties = BasicProperties::default().with_message_id(id.into()).with_headers(headers);
        let body = wished(id, repository, wish).to_string();
        let taken = self.publish_all(vec![(properties, body.into_bytes())]).await;
        assert_eq!(taken, [true], "returned: nobody hears it");
    }

    /// Publishes what `outside` says, persistent; which of it the broker confirmed without giving it back.
    pub(crate) async fn publish_all(&self, messages: Vec<(BasicProperties, Vec<u8>)>) -> Vec<bool> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = ("lota.egress.outside", self.cast.heard);
        let mut confirms = Vec::new();
        for (properties, body) in messages {
            let properties = properties.with_delivery_mode(2);
            let sent = self.channel.basic_publish(exchange.into(), key.into(), options, &body, properties);
            confirms.push(sent.await.unwrap());
        }
        let mut taken = Vec::new();
        for confirm in confirms {
            taken.push(matches!(confirm.await.unwrap(), Confirmation::Ack(None)));
        }
        taken
    }

    /// What it stands on.
    pub(crate) fn broker(&mut self) -> &mut Broker {
        &mut self.broker
    }

    /// What the bot's queues are made from.
    pub(crate) fn topology(&self) -> Topology {
        self.cast.topology()
    }

    /// Different messages of a type about an entity: the same id twice is one message.
    pub(crate) fn said(&self, event_type: &str, repository: &str) -> Vec<Value> {
        let said = self.said_of(event_type);
        said.into_iter().filter(|m| m["payload"]["data"]["revision"]["repository"] == repository).collect()
    }

    /// Different messages of a type about any entity.
    pub(crate) fn said_of(&self, event_type: &str) -> Vec<Value> {
        let mut ids = BTreeSet::new();
        let heard = self.heard.lock().unwrap();
        let of = heard.iter().map(|h| &h.body).filter(|m| m["type"] == event_type && ids.insert(m["id"].to_string()));
        of.cloned().collect()
    }

    /// All messages of a type, one that was said twice counted twice.
    pub(crate) fn copies(&self, event_type: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|h| h.body["type"] == event_type).count()
    }

    /// Where a message of a type stands among all, the last one of it.
    pub(crate) fn place(&self, event_type: &str, about: &str) -> Option<usize> {
        let heard = self.heard.lock().unwrap();
        heard.iter().rposition(|h| h.body["type"] == event_type && h.body.to_string().contains(about))
    }

    /// The trace contexts of the messages of a type.
    pub(crate) fn traces(&self, event_type: &str) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let of = heard.iter().filter(|h| h.body["type"] == event_type);
        of.map(|h| h.traceparent.clone().unwrap_or_default()).collect()
    }

    /// What `message.dead_lettered` said of a message: code and attempts.
    pub(crate) fn dead(&self, id: &str) -> Option<(String, u64)> {
        let letters = self.said_of("message.dead_lettered");
        let letter = letters.iter().map(|m| &m["payload"]["data"]).find(|d| d["message_id"] == id)?;
        Some((letter["code"].as_str().unwrap().to_owned(), letter["attempts"].as_u64().unwrap()))
    }

    /// The properties and headers of a dead letter.
    pub(crate) async fn letter(&self, id: &str) -> Value {
        let letters = self.management.peek("lota", "toy-bot.dead", 100).await.unwrap();
        letters.iter().find(|l| l.payload.contains(id)).unwrap().properties["headers"].clone()
    }

    /// How often the handler was called with a message.
    pub(crate) fn calls(&self, id: &str) -> usize {
        self.logged(&format!("asked {id} "))
    }

    /// How many lines of the bot's log, over all its processes, contain `text`.
    pub(crate) fn logged(&self, text: &str) -> usize {
        let log = fs::read_to_string(self.dir.path().join("bot/log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until `look` is true. A bot that died meanwhile is started again.
    pub(crate) async fn until(&mut self, what: &str, look: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(300);
        while !look(self) {
            assert!(Instant::now() < end, "waited 300 s for {what}; the bot said:\n{}", self.log());
            self.look_after().await;
        }
    }

    /// A moment in which a bot that died is started again.
    pub(crate) async fn look_after(&mut self) {
        if self.bot.try_wait().unwrap().is_some_and(|status| !status.success()) {
            self.start();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Sends the bot a signal and waits for its end.
    pub(crate) async fn signal(&mut self, signal: Signal) -> ExitStatus {
        self.send(signal);
        self.ended().await
    }

    /// As `lota down` does.
    pub(crate) fn ask_to_stop(&self) {
        self.send(Signal::SIGTERM);
    }

    pub(crate) fn send(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.bot.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the end of the bot's process.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(300);
        loop {
            if let Some(status) = self.bot.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it did not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn start(&mut self) {
        self.bot = start(&self.dir.path().join("bot"), &self.broker.urls(), &password(self.cast.slug), &self.cast);
        self.starts += 1;
    }

    /// Starts another instance beside those that run.
    pub(crate) fn start_replica(&mut self, number: usize) {
        let child = start(&self.replica_dir(number), &self.broker.urls(), &password(self.cast.slug), &self.cast);
        self.replicas.insert(number, child);
    }

    fn replica_dir(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("replica-{number}"))
    }

    /// Sends a signal to such an instance.
    pub(crate) fn send_replica(&self, number: usize, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.replicas[&number].id().cast_signed()), signal).unwrap();
    }

    /// How many lines of such an instance's log contain `text`.
    pub(crate) fn logged_by(&self, number: usize, text: &str) -> usize {
        let log = fs::read_to_string(self.replica_dir(number).join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// How many sessions with the broker the bot has begun, over all its processes.
    pub(crate) fn sessions(&self) -> usize {
        self.logged("session begun")
    }

    /// Has the broker close the connections of the bot that runs now. Its list may be some seconds old, so this goes on
    /// until the bot has begun another session.
    pub(crate) async fn cut_off(&mut self) {
        let before = self.sessions();
        let end = Instant::now() + Duration::from_secs(300);
        while self.sessions() == before {
            assert!(Instant::now() < end, "closed connections led to no new session:\n{}", self.log());
            for connection in self.management.connections().await.unwrap() {
                if connection.user.as_deref() == Some("toy-bot") {
                    // One that is about to be gone by itself cannot be closed; another look shows what is left.
                    let _ = self.management.close_connection(&connection.name, "a test").await;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The bot's own store, which only one process at a time may hold.
    pub(crate) async fn store(&self) -> bot_store::Store {
        let dir = self.dir.path().join("bot/bots/toy-bot/store");
        bot_store::Store::open(bot_store::StoreOptions::Sqlite { dir, max_page_count: None }).await.unwrap()
    }

    /// How often the bot's process was started.
    pub(crate) fn starts(&self) -> u32 {
        self.starts
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("bot/log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

pub(crate) fn wished(id: &str, repository: &str, wish: &str) -> Value {
    static BEGUN: LazyLock<String> = LazyLock::new(now);
    json!({
        "id": id, "timestamp": *BEGUN, "source": "outside", "destination": "*", "type": "repository.pushed",
        "payload": {"data": {"repository": repository, "url": wish, "ref": "refs/heads/main", "commit": "a".repeat(40)}},
    })
}

fn now() -> String {
    tests::succeeds(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).trim().to_owned()
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.bot.kill();
        let _ = self.bot.wait();
        for replica in self.replicas.values_mut() {
            let _ = replica.kill();
            let _ = replica.wait();
        }
        if std::thread::panicking() {
            eprintln!("== {}\n{}", self.cast.slug, self.log());
        }
    }
}
