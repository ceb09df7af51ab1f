//! A client that knows nothing but docs/MESSAGES.md and AMQP: it pushes a commit and hears how that ended.
use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::FieldTable,
};
use serde_json::{Value, json};
use tests::{Fleet, Repository, succeeds};

const PIPELINE: &str = "version: 1
build:
  artifacts: [index.html]
test:
  suites: {}
deploy:
  local: {}
";

#[test]
fn a_stranger_with_an_amqp_client_drives_the_fleet() {
    let fleet = Fleet::start();
    let repository = Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", PIPELINE), ("index.html", "hi\n")]);
    let commit = repository.commit(&[("index.html", "hello\n")]);
    let connection: BTreeMap<String, String> =
        serde_json::from_str(&succeeds(&mut fleet.lota(&["connection", "--json"]))).unwrap();
    let body = json!({
        "id": "stranger-1", "timestamp": "2026-11-01T12:00:00Z", "source": connection["LOTA_SOURCE"], "destination": "*",
        "type": "repository.pushed", "correlation_id": "stranger-correlation",
        "payload": {"data": {"repository": "page", "url": repository.path, "ref": "refs/heads/main", "commit": commit}},
    });
    let mut body = body;
    body["timestamp"] = now().into();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let types = runtime.block_on(async {
        let ends = ["deploy.completed", "deploy.failed", "build.failed", "test.failed"];
        let driven = tokio::time::timeout(Duration::from_secs(60), drive(&connection, Some(&body), &body, &ends));
        driven.await.expect("an end within a minute")
    });
    assert_eq!(types.first().map(String::as_str), Some("repository.pushed"), "{types:?}");
    for wanted in ["build.started", "build.completed", "test.completed", "deploy.started", "deploy.completed"] {
        assert_eq!(types.iter().filter(|t| *t == wanted).count(), 1, "{types:?}");
    }
}

pub(crate) fn now() -> String {
    succeeds(std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).trim().to_owned()
}

/// Publishes what is to be said, and hears what has the correlation of `body` until one of the ends; the types in their order.
pub(crate) async fn drive(
    connection: &BTreeMap<String, String>,
    said: Option<&Value>,
    body: &Value,
    ends: &[&str],
) -> Vec<String> {
    let amqp = Connection::connect(&connection["LOTA_AMQP_URL"], ConnectionProperties::default()).await.unwrap();
    let channel = amqp.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut heard = channel
        .basic_consume(
            connection["LOTA_QUEUE"].as_str().into(),
            "stranger".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    if let Some(said) = said {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (connection["LOTA_EXCHANGE"].as_str().into(), said["type"].as_str().unwrap().into());
        let bytes = said.to_string();
        let published =
            channel.basic_publish(exchange, key, options, bytes.as_bytes(), BasicProperties::default()).await;
        let confirm = published.unwrap().await.unwrap();
        assert!(confirm.take_message().is_none(), "returned: nobody hears it");
    }
    let mut types = Vec::new();
    while let Some(delivery) = heard.next().await {
        let delivery = delivery.unwrap();
        let message: Value = serde_json::from_slice(&delivery.data).unwrap();
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        if message["correlation_id"] != body["correlation_id"] {
            continue;
        }
        types.push(message["type"].as_str().unwrap().to_owned());
        if types.last().is_some_and(|last| ends.contains(&last.as_str())) {
            break;
        }
    }
    types
}
