//! A broker, a toy bot that can be killed and started again, and everything it said, heard from outside.
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bot_messages::{OutsidePublisher, topology::Topology};
use bot_provision::{ApplyOptions, Installation, Management, Node, NodeOptions, Secret, apply};
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::FieldTable,
};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::{Value, json};
use tests::{cache_dir, program, toy::ToyBot};

const CONFIG: &str = "
bot: {name: ToyBot, version: '1', enabled: true}
triggers: [{type: event, pattern: repository.pushed}]
actions: [{type: execute, command: play}]
constraints: {max_concurrent_jobs: 4, timeout: 60, retry_policy: {max_attempts: 3, backoff: fixed}}
dependencies: []
outputs: [{type: message, destination: '*'}]
";

pub(crate) struct Stage {
    pub(crate) management: Management,
    dir: tempfile::TempDir,
    // Dies with this process, or with this value.
    node: Node,
    channel: Channel,
    _connection: Connection,
    heard: Arc<Mutex<Vec<Value>>>,
    bot: Child,
    starts: u32,
}

fn password(user: &str) -> Secret {
    Secret::new(format!("secret of {user}"))
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let tell = |line: &str| eprintln!("  {line}");
        let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
        let installation = Installation::find(&cache_dir(), &tell).await.unwrap();
        let mut options = NodeOptions::new(dir.path().join("node"), installation);
        options.die_with_parent = true;
        let node = Node::start(options, &tell).await.unwrap();
        let management = node.management().unwrap();
        let outside = OutsidePublisher {
            name: "outside".parse().unwrap(),
            says: vec!["repository.pushed".into()],
            hears_all: true,
            operator: false,
        };
        let topology = Topology::new(&[bot_core::contract_of::<ToyBot>()], &[outside]).unwrap();
        let applied = ApplyOptions { dry_run: false, drain: None, figures_every: Duration::from_secs(5) };
        apply(&management, &topology, &password, applied).await.unwrap();

        let url = format!("amqp://outside:secret%20of%20outside@127.0.0.1:{}/lota", node.amqp_port());
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let options = BasicConsumeOptions::default();
        let mut tap = channel
            .basic_consume("outside.tap.events".into(), "all".into(), options, FieldTable::default())
            .await
            .unwrap();
        let ears = heard.clone();
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = tap.next().await {
                ears.lock().unwrap().push(serde_json::from_slice(&delivery.data).unwrap());
                let _ = delivery.ack(BasicAckOptions::default()).await;
            }
        });
        let bot = start(&dir.path().join("bot"), node.amqp_port());
        Self { management, dir, node, channel, _connection: connection, heard, bot, starts: 1 }
    }

    /// A wish about an entity, confirmed by the broker. `id` is the message's.
    pub(crate) async fn wish(&self, id: &str, repository: &str, wish: &str) {
        let body = json!({
            "id": id, "timestamp": now(), "source": "outside", "destination": "*", "type": "repository.pushed",
            "payload": {"data": {"repository": repository, "url": wish, "ref": "refs/heads/main", "commit": "a".repeat(40)}},
        });
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(id.into());
        let confirm = self
            .channel
            .basic_publish(
                "lota.egress.outside".into(),
                "repository.pushed".into(),
                options,
                body.to_string().as_bytes(),
                properties,
            )
            .await
            .unwrap();
        assert!(confirm.await.unwrap().take_message().is_none(), "returned: nobody hears it");
    }

    /// Different messages of a type about an entity: the same id twice is one message.
    pub(crate) fn said(&self, event_type: &str, repository: &str) -> Vec<Value> {
        let mut ids = BTreeSet::new();
        let heard = self.heard.lock().unwrap();
        let about =
            |m: &&Value| m["type"] == event_type && m["payload"]["data"]["revision"]["repository"] == repository;
        heard.iter().filter(about).filter(|m| ids.insert(m["id"].to_string())).cloned().collect()
    }

    /// Different messages of a type about any entity.
    pub(crate) fn said_of(&self, event_type: &str) -> Vec<Value> {
        let mut ids = BTreeSet::new();
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|m| m["type"] == event_type && ids.insert(m["id"].to_string())).cloned().collect()
    }

    /// What `message.dead_lettered` said of a message: code and attempts.
    pub(crate) fn dead(&self, id: &str) -> Option<(String, u64)> {
        let heard = self.heard.lock().unwrap();
        let data = |m: &Value| m["payload"]["data"].clone();
        let letter =
            heard.iter().filter(|m| m["type"] == "message.dead_lettered").map(data).find(|d| d["message_id"] == id)?;
        Some((letter["code"].as_str().unwrap().to_owned(), letter["attempts"].as_u64().unwrap()))
    }

    /// Waits until `look` is true. A bot that ended meanwhile is started again.
    pub(crate) async fn until(&mut self, what: &str, look: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(90);
        while !look(self) {
            assert!(Instant::now() < end, "waited 90 s for {what}; the bot said:\n{}", self.log());
            if self.bot.try_wait().unwrap().is_some() {
                self.start();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends the bot a signal and waits for its end.
    pub(crate) async fn signal(&mut self, signal: Signal) -> ExitStatus {
        nix::sys::signal::kill(Pid::from_raw(self.bot.id().try_into().unwrap()), signal).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.bot.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it did not end after {signal}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn start(&mut self) {
        self.bot = start(&self.dir.path().join("bot"), self.node.amqp_port());
        self.starts += 1;
    }

    /// How many sessions with the broker the bot has begun, over all its processes.
    pub(crate) fn sessions(&self) -> usize {
        let log = fs::read_to_string(self.dir.path().join("bot/log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("session begun")).count()
    }

    /// Has the broker close the connections of the bot that runs now. Its list may be some seconds old, so this goes on
    /// until the bot has begun another session.
    pub(crate) async fn cut_off(&mut self) {
        let before = self.sessions();
        let end = Instant::now() + Duration::from_secs(60);
        while self.sessions() == before {
            assert!(Instant::now() < end, "closed connections led to no new session:\n{}", self.log());
            for connection in self.management.connections().await.unwrap() {
                if connection.user.as_deref() == Some("toy-bot") {
                    self.management.close_connection(&connection.name, "a test").await.unwrap();
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
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

fn start(dir: &std::path::Path, amqp_port: u16) -> Child {
    fs::create_dir_all(dir).unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    // So that a test that is killed leaves no bot behind.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program("toy-bot"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LOTA_HOME", dir)
        .env("LOTA_CONFIG", file("toy-bot.yaml", CONFIG))
        .env("LOTA_AMQP_URL", format!("amqp://127.0.0.1:{amqp_port}/lota"))
        .env("LOTA_AMQP_PASSWORD_FILE", file("password", password("toy-bot").expose()))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn now() -> String {
    tests::succeeds(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).trim().to_owned()
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.bot.kill();
        let _ = self.bot.wait();
        if std::thread::panicking() {
            eprintln!("== toy-bot\n{}", self.log());
        }
    }
}
