//! Passwords and certificates: changed while messages flow, taken away at once, asked for by the broker.
use std::{collections::BTreeMap, fs, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Connection, ConnectionProperties, DefaultConnectionBuilder,
    options::BasicConsumeOptions,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    types::FieldTable,
};
use serde_json::Value;
use tests::{Fleet, Repository, fails, succeeds, wait_for};

const PIPELINE: &str = "version: 1
build:
  artifacts: [index.html]
test:
  suites: {}
deploy:
  local: {}
";
const LIMIT: Duration = Duration::from_secs(120);

fn page(fleet: &Fleet) -> Repository {
    Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", PIPELINE), ("index.html", "0\n")])
}

fn facts(fleet: &Fleet) -> BTreeMap<String, String> {
    serde_json::from_str(&succeeds(&mut fleet.lota(&["connection", "--json"]))).unwrap()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, work).await.expect("an answer of the broker") })
}

async fn connect(url: &str) -> lapin::Result<Connection> {
    Connection::connect(url, ConnectionProperties::default()).await
}

#[test]
fn passwords_are_changed_while_messages_flow_and_none_is_lost() {
    let fleet = Fleet::start();
    let repository = page(&fleet);
    let before = facts(&fleet);
    let pids = ["build-bot", "test-bot", "deploy-bot", "monitor-bot"].map(|slug| fleet.pid(slug));
    let mut pushed = Vec::new();
    for (number, how) in
        ["rotate", "rotate --reconnect", "rotate", "rotate --reconnect build-bot TestBot"].iter().enumerate()
    {
        repository.commit(&[("index.html", &format!("push {number}\n"))]);
        pushed.push(fleet.push(&repository.path));
        let mut args = vec!["credentials"];
        args.extend(how.split(' '));
        succeeds(&mut fleet.lota(&args));
    }
    // Older pushes may be superseded while they wait; each is built and tested all the same.
    for correlation in &pushed {
        wait_for("each push to be tested", LIMIT, || (fleet.said(correlation, "test.completed") == 1).then_some(()));
    }
    wait_for("the last push to be deployed", LIMIT, || {
        (fleet.said(pushed.last().unwrap(), "deploy.completed") == 1).then_some(())
    });
    assert_eq!(["build-bot", "test-bot", "deploy-bot", "monitor-bot"].map(|slug| fleet.pid(slug)), pids);
    assert!(block_on(connect(&before["LOTA_AMQP_URL"])).is_err(), "the old password still opens a connection");
    assert!(block_on(connect(&facts(&fleet)["LOTA_AMQP_URL"])).is_ok());
    let listed = succeeds(&mut fleet.lota(&["credentials", "list"]));
    assert!(listed.contains("build-bot") && listed.contains("good"), "{listed}");
}

#[test]
fn who_is_revoked_neither_hears_nor_speaks_until_restored_and_loses_nothing() {
    let fleet = Fleet::start();
    let repository = page(&fleet);
    let known = facts(&fleet);
    let consumer_ends = block_on(async {
        let connection = connect(&known["LOTA_AMQP_URL"]).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let queue = known["LOTA_QUEUE"].as_str().into();
        let mut heard = channel
            .basic_consume(queue, "thief".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .unwrap();
        let revoke = ["credentials", "revoke", "outside", "--reason", "its laptop was stolen"];
        succeeds(&mut fleet.lota(&revoke));
        while let Some(Ok(_)) = heard.next().await {}
        !connection.status().connected()
    });
    assert!(consumer_ends, "an open consumer goes on after its user was revoked");
    assert!(block_on(connect(&known["LOTA_AMQP_URL"])).is_err(), "the old password still opens a connection");
    succeeds(&mut fleet.lota(&["topology", "verify"]));
    let listed = succeeds(&mut fleet.lota(&["credentials", "list"]));
    assert!(listed.contains("its laptop was stolen"), "{listed}");
    let told = fails(&mut fleet.lota(&["credentials", "rotate", "outside"]), 64);
    assert!(told.contains("credentials restore outside"), "{told}");
    let told = fails(&mut fleet.lota(&["credentials", "revoke", "nobody", "--reason", "x"]), 64);
    assert!(told.contains("`nobody` is no user") && told.contains("build-bot"), "{told}");
    // What is said meanwhile is there when it comes back.
    let correlation = fleet.push(&repository.path);
    wait_for("the push to be deployed", LIMIT, || (fleet.said(&correlation, "deploy.completed") == 1).then_some(()));
    succeeds(&mut fleet.lota(&["credentials", "restore", "outside"]));
    let now = facts(&fleet);
    let types = block_on(async {
        let channel = connect(&now["LOTA_AMQP_URL"]).await.unwrap().create_channel().await.unwrap();
        let queue = now["LOTA_QUEUE"].as_str().into();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut heard = channel.basic_consume(queue, "back".into(), options, FieldTable::default()).await.unwrap();
        let mut types = Vec::new();
        while !types.iter().any(|t| t == "deploy.completed") {
            let message: Value = serde_json::from_slice(&heard.next().await.unwrap().unwrap().data).unwrap();
            types.push(message["type"].as_str().unwrap().to_owned());
        }
        types
    });
    assert!(types.contains(&"repository.pushed".to_owned()), "{types:?}");
}

#[test]
fn a_fleet_with_tls_takes_nobody_without_a_certificate() {
    let fleet = Fleet::start_up(&["--tls", "clients"], &[]);
    let repository = page(&fleet);
    let pushed = succeeds(&mut fleet.lota(&["push", repository.path.to_str().unwrap(), "--follow"]));
    assert!(pushed.contains("deployed"), "{pushed}");
    let facts = facts(&fleet);
    let url = &facts["LOTA_AMQP_URL"];
    assert!(url.starts_with("amqps://") && facts["LOTA_MONITOR_URL"].starts_with("https://"), "{facts:?}");
    let read = |name: &str| fs::read(&facts[name]).unwrap();
    let authority = String::from_utf8(read("LOTA_AMQP_CA_FILE")).unwrap();
    let own = || Some(OwnedIdentity::PKCS8 { pem: read("LOTA_AMQP_CERT_FILE"), key: read("LOTA_AMQP_KEY_FILE") });
    let connects = |url: &str, identity: Option<OwnedIdentity>, cert_chain: Option<String>| {
        let config = OwnedTLSConfig { identity, cert_chain };
        let connected = block_on(async {
            let builder = DefaultConnectionBuilder::new()?.with_uri_str(url.to_owned()).with_tls_config(config);
            builder.connect().await
        });
        connected.is_ok()
    };
    assert!(connects(url, own(), Some(authority.clone())));
    assert!(!connects(url, None, Some(authority.clone())), "no certificate was asked for");
    assert!(!connects(url, own(), None), "an unknown authority was trusted");
    assert!(!connects(&url.replacen("amqps", "amqp", 1), None, None), "the broker speaks without TLS");
    let wrong_password = url.replacen("outside:", "outside:x", 1);
    assert!(!connects(&wrong_password, own(), Some(authority)), "a certificate alone was enough");
    // New certificates are taken by whoever connects next.
    succeeds(&mut fleet.lota(&["certs"]));
    succeeds(&mut fleet.lota(&["credentials", "rotate", "--reconnect"]));
    repository.commit(&[("index.html", "1\n")]);
    let pushed = succeeds(&mut fleet.lota(&["push", repository.path.to_str().unwrap(), "--follow"]));
    assert!(pushed.contains("deployed"), "{pushed}");
    // What the bots say that they run is what was applied.
    let status: Value = serde_json::from_str(&succeeds(&mut fleet.lota(&["status", "--json"]))).unwrap();
    let applied = succeeds(&mut fleet.lota(&["config", "apply"]));
    let hashes = applied.lines().filter_map(|line| line.split(' ').nth(2)).collect::<Vec<_>>();
    assert_eq!(hashes.len(), 4, "{applied}");
    assert!(hashes.iter().all(|hash| status.to_string().contains(hash)), "{applied}\n{status}");
}
