//! What the fleet adds to a push: from the confirmed publish of `repository.pushed` to the arrival of
//! `deploy.completed`, less the wall time of the steps and suites themselves. Twenty pushes of a small static page, one
//! after the other, with a warm mirror; heard by a plain AMQP client. Prints the median and range of each part.
//!
//! Run by `make bench`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement: a broken assumption ends it"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::FieldTable,
};
use serde_json::{Value, json};
use tests::{Fleet, Repository, succeeds};

const PUSHES: usize = 20;
/// Fetches the mirror, detects the sandbox, fills caches.
const WARM_UP: usize = 2;
const PIPELINE: &str = "version: 1
build:
  steps: [{name: page, run: 'cp index.html out.html'}]
  artifacts: [out.html]
test:
  suites: {page: {run: 'printf \"running 1 test\\ntest page ... ok\\ntest result: ok. 1 passed; 0 failed; 0 ignored\\n\"'}}
deploy:
  local: {}
";
/// Each part ends with the arrival of this type.
const PARTS: [(&str, &str); 6] = [
    ("build.started", "fetch, unpack, store the source"),
    ("build.completed", "build, without the step itself"),
    ("test.started", "unpack for the tests"),
    ("test.completed", "test, without the suite itself"),
    ("deploy.started", "begin the deployment"),
    ("deploy.completed", "unpack, switch, look"),
];

struct Client {
    channel: Channel,
    heard: Consumer,
    exchange: String,
    source: String,
    _connection: Connection,
}

fn main() {
    let fleet = Fleet::start();
    let repository = Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", PIPELINE), ("index.html", "0\n")]);
    let facts: BTreeMap<String, String> =
        serde_json::from_str(&succeeds(&mut fleet.lota(&["connection", "--json"]))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let runs: Vec<Vec<f64>> = runtime.block_on(async {
        let mut client = Client::connect(&facts).await;
        let mut runs = Vec::new();
        for number in 0..WARM_UP + PUSHES {
            let commit = repository.commit(&[("index.html", &format!("push {number}\n"))]);
            let path = repository.path.display().to_string();
            let body = client.body(&format!("bench-{number}"), &path, &commit);
            let run = tokio::time::timeout(Duration::from_secs(120), client.push(&body));
            let run = run.await.expect("an end within two minutes");
            if number >= WARM_UP {
                runs.push(run);
            }
        }
        runs
    });
    print(&runs);
}

fn print(runs: &[Vec<f64>]) {
    println!("what the fleet adds to a push, milliseconds, over {PUSHES} pushes ({WARM_UP} before them not counted)");
    println!("{:>8} {:>8} {:>8}  part", "median", "lowest", "highest");
    for (i, (_, what)) in PARTS.iter().enumerate() {
        line(runs.iter().map(|run| run[i]).collect(), what);
    }
    line(runs.iter().map(|run| run.iter().sum()).collect(), "all");
}

fn line(mut all: Vec<f64>, what: &str) {
    all.sort_by(f64::total_cmp);
    println!("{:>8.0} {:>8.0} {:>8.0}  {what}", all[all.len() / 2], all[0], all[all.len() - 1]);
}

impl Client {
    async fn connect(facts: &BTreeMap<String, String>) -> Self {
        let connection = Connection::connect(&facts["LOTA_AMQP_URL"], ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let queue = facts["LOTA_QUEUE"].as_str().into();
        let heard = channel
            .basic_consume(queue, "bench".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .unwrap();
        Self {
            channel,
            heard,
            exchange: facts["LOTA_EXCHANGE"].clone(),
            source: facts["LOTA_SOURCE"].clone(),
            _connection: connection,
        }
    }

    fn body(&self, id: &str, url: &str, commit: &str) -> Value {
        let now = succeeds(std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]));
        json!({
            "id": id, "timestamp": now.trim(), "source": self.source, "destination": "*", "type": "repository.pushed",
            "correlation_id": id,
            "payload": {"data": {"repository": "page", "url": url, "ref": "refs/heads/main", "commit": commit}},
        })
    }

    /// Milliseconds of each part.
    async fn push(&mut self, body: &Value) -> Vec<f64> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, text) = (self.exchange.as_str().into(), body.to_string());
        let properties = BasicProperties::default().with_delivery_mode(2);
        let begin = Instant::now();
        let confirm =
            self.channel.basic_publish(exchange, "repository.pushed".into(), options, text.as_bytes(), properties);
        assert!(confirm.await.unwrap().await.unwrap().take_message().is_none(), "returned: nobody hears it");
        let mut at = BTreeMap::new();
        while !at.contains_key("deploy.completed") {
            let delivery = self.heard.next().await.unwrap().unwrap();
            let arrived = begin.elapsed().as_secs_f64() * 1000.0;
            let message: Value = serde_json::from_slice(&delivery.data).unwrap();
            delivery.ack(BasicAckOptions::default()).await.unwrap();
            if message["correlation_id"] == body["correlation_id"] {
                let event_type = message["type"].as_str().unwrap().to_owned();
                assert!(!event_type.ends_with(".failed"), "{message}");
                at.insert(event_type, (arrived, own_work(&message)));
            }
        }
        let mut before = 0.0;
        let part = |(event_type, _): &(&str, &str)| {
            let (arrived, work) = at[*event_type];
            let part = arrived - before - work;
            before = arrived;
            part
        };
        PARTS.iter().map(part).collect()
    }
}

/// Milliseconds that the commands of the repository took themselves.
fn own_work(message: &Value) -> f64 {
    let data = &message["payload"]["data"];
    let lists = [&data["steps"], &data["suites"]].into_iter().filter_map(Value::as_array).flatten();
    lists.filter_map(|one| one["duration_ms"].as_f64()).sum()
}
