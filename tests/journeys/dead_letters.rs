//! Every way in which a message can be wrong ends among the dead letters of the bot it was for, with its code and its bytes.
use std::{collections::BTreeMap, time::Duration};

use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use tests::{Fleet, fails, succeeds, wait_for};

fn good(now: &str) -> Value {
    json!({
        "id": "x", "timestamp": now, "source": "outside", "destination": "*", "type": "repository.pushed",
        "payload": {"data": {"repository": "r", "url": "/nowhere", "ref": "refs/heads/main", "commit": "a".repeat(40)}},
    })
}

/// What is sent, with which headers, and the code it has to arrive with.
fn cases(now: &str) -> Vec<(&'static str, Vec<u8>, FieldTable, &'static str)> {
    let mut out = Vec::new();
    let mut raw = |name, body: Vec<u8>, code| out.push((name, body, FieldTable::default(), code));
    raw("not json", b"{\"id\": ".to_vec(), "INVALID_JSON");
    raw("not utf-8", vec![0xff, 0xfe], "INVALID_JSON");
    raw("no object", b"[1]".to_vec(), "INVALID_FIELD");
    raw("too large", vec![b' '; 256 * 1024 + 1], "MESSAGE_TOO_LARGE");
    let mut with = |name: &'static str, path: &str, value: Option<Value>, code| {
        let mut body = good(now);
        body["id"] = name.into();
        let (parent, field) = path.rsplit_once('/').unwrap();
        let object = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Some(v) => drop(object.insert(field.to_owned(), v)),
            None => drop(object.remove(field)),
        }
        out.push((name, body.to_string().into_bytes(), FieldTable::default(), code));
    };
    with("no id", "/id", None, "MISSING_FIELD");
    with("no source", "/source", None, "MISSING_FIELD");
    with("no data", "/payload/data", None, "MISSING_FIELD");
    with("no commit", "/payload/data/commit", None, "INVALID_FIELD");
    with("bad time", "/timestamp", Some("soon".into()), "INVALID_FIELD");
    with("bad priority", "/priority", Some("urgent".into()), "INVALID_FIELD");
    with("old", "/timestamp", Some("2020-01-01T00:00:00Z".into()), "EXPIRED");
    with("forged source", "/source", Some("BuildBot".into()), "PERMISSION_DENIED");
    with("other type", "/type", Some("build.completed".into()), "PERMISSION_DENIED");
    with("other destination", "/destination", Some("DeployBot".into()), "PERMISSION_DENIED");
    for (name, header, value, code) in
        [("hops", "x-lota-hop", 33, "HOP_LIMIT"), ("schema", "x-lota-schema", 9, "UNSUPPORTED_SCHEMA")]
    {
        let mut body = good(now);
        body["id"] = name.into();
        let mut headers = FieldTable::default();
        headers.insert(header.into(), AMQPValue::LongInt(value));
        out.push((name, body.to_string().into_bytes(), headers, code));
    }
    let mut headers = FieldTable::default();
    headers.insert("x-huge".into(), AMQPValue::LongString("x".repeat(20_000).into()));
    out.push(("huge headers", good(now).to_string().into_bytes(), headers, "MESSAGE_TOO_LARGE"));
    out
}

#[test]
fn every_wrong_message_is_kept_with_its_code() {
    let fleet = Fleet::start();
    let connection: BTreeMap<String, String> =
        serde_json::from_str(&succeeds(&mut fleet.lota(&["connection", "--json"]))).unwrap();
    let now = succeeds(std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).trim().to_owned();
    let cases = cases(&now);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(publish(&connection, &cases));
    // The same id again with other content.
    let (mut first, mut second) = (good(&now), good(&now));
    (first["id"], second["id"]) = ("twice".into(), "twice".into());
    second["payload"]["data"]["ref"] = "refs/heads/other".into();
    let twice: Vec<_> =
        [first, second].map(|b| ("twice", b.to_string().into_bytes(), FieldTable::default(), "DUPLICATE_ID")).into();
    runtime.block_on(publish(&connection, &twice));

    let management = fleet.management();
    let letters = wait_for("all letters", Duration::from_secs(30), || {
        let letters = runtime.block_on(management.peek("lota", "build-bot.dead", 100)).unwrap();
        (letters.len() > cases.len()).then_some(letters)
    });
    assert_eq!(letters.len(), cases.len() + 1, "{letters:#?}");
    let headers: Vec<Value> = letters.iter().map(|l| l.properties["headers"].clone()).collect();
    let mut codes: Vec<String> = headers.iter().map(|h| h["x-lota-error-code"].as_str().unwrap().to_owned()).collect();
    let mut expected: Vec<String> = cases.iter().map(|c| c.3.to_owned()).chain(["DUPLICATE_ID".to_owned()]).collect();
    codes.sort();
    expected.sort();
    assert_eq!(codes, expected);
    for h in &headers {
        assert_eq!(
            (h["x-lota-error-bot"].as_str(), h["x-lota-publisher"].as_str()),
            (Some("BuildBot"), Some("outside")),
            "{h}"
        );
        assert!(h["x-lota-error-message"].as_str().is_some_and(|m| m.len() > 10), "{h}");
    }
    let list = succeeds(&mut fleet.lota(&["dlq", "list", "BuildBot"]));
    assert!(list.contains(&format!("build-bot: {} dead letters", cases.len() + 1)), "{list}");
    assert!(list.contains("INVALID_FIELD") && list.contains("outside"), "{list}");
    dealt_with(&fleet, cases.len() + 1);
}

/// How many of BuildBot's letters there are.
fn left(fleet: &Fleet) -> u64 {
    let list: Value = serde_json::from_str(&succeeds(&mut fleet.lota(&["dlq", "list", "--json"]))).unwrap();
    list.pointer("/0/count").and_then(Value::as_u64).unwrap_or_default()
}

/// One is edited and handled, one is retried and comes back, and the rest is thrown away; then the alert is over.
fn dealt_with(fleet: &Fleet, letters: usize) {
    let shown = succeeds(&mut fleet.lota(&["dlq", "show", "no commit"]));
    assert!(shown.contains("payload.data.commit: expected one") && shown.contains("got none"), "{shown}");
    let refused = fails(&mut fleet.lota(&["dlq", "edit", "no commit", "--set", "commit=\"short\""]), 65);
    assert!(refused.contains("the letter stays") && refused.contains("is not a commit"), "{refused}");
    let set = format!("commit=\"{}\"", "b".repeat(40));
    let edit = ["dlq", "edit", "no commit", "--set", &set];
    let would = succeeds(fleet.lota(&edit).arg("--dry-run"));
    assert!(would.contains("data.commit: none →") && left(fleet) == letters as u64, "{would}");
    succeeds(&mut fleet.lota(&edit));
    // It is the operator's now, and BuildBot acts on it: the repository that it names is nowhere.
    wait_for("what follows from the edited message", Duration::from_secs(30), || {
        (fleet.said("no commit", "build.failed") == 1 && fleet.said("no commit", "message.edited") == 1).then_some(())
    });
    assert_eq!(left(fleet), letters as u64 - 1);

    assert!(succeeds(&mut fleet.lota(&["dlq", "retry", "hops", "--dry-run"])).contains("would retry 1 letter"));
    succeeds(&mut fleet.lota(&["dlq", "retry", "hops", "--rate", "10/s"]));
    let replayed = || {
        let shown = fleet.lota(&["dlq", "show", "hops", "--json"]).output().unwrap();
        let shown: Value = serde_json::from_slice(&shown.stdout).ok()?;
        shown.pointer("/0/headers/x-lota-replay")?.as_u64()
    };
    assert_eq!(wait_for("the letter again", Duration::from_secs(30), replayed), 1);

    let file = fleet.beside("letters");
    let all = ["dlq", "discard", "--all", "--bot", "BuildBot", "--reason", "a test", "--export"];
    succeeds(fleet.lota(&all).arg(&file));
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!((lines.lines().count(), left(fleet)), (letters - 1, 0));
    assert!(lines.contains("body_hex"), "what is no UTF-8 is kept, too");
    let alerts = || {
        let alerts = fleet.monitor("/api/v1/alerts")["open"].to_string();
        (!alerts.contains("dead-letters:build-bot")).then_some(())
    };
    wait_for("the end of the alert", Duration::from_secs(90), alerts);
}

async fn publish(connection: &BTreeMap<String, String>, cases: &[(&'static str, Vec<u8>, FieldTable, &'static str)]) {
    let amqp = Connection::connect(&connection["LOTA_AMQP_URL"], ConnectionProperties::default()).await.unwrap();
    let channel = amqp.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for (name, body, headers, _) in cases {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_headers(headers.clone());
        let exchange = connection["LOTA_EXCHANGE"].as_str().into();
        let confirm =
            channel.basic_publish(exchange, "repository.pushed".into(), options, body, properties).await.unwrap();
        assert!(confirm.await.unwrap().is_ack(), "{name}");
    }
    amqp.close(200, "done".into()).await.unwrap();
}
