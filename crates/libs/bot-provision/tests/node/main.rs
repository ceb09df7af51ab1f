//! One private RabbitMQ for all of this file, and three that are one broker: packages unpacked, node started, topology applied, node killed and back.
//! A broker that cannot be had fails the test with the command that gets it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::doc_markdown,
    clippy::disallowed_methods,
    reason = "a test"
)]

mod cluster;
mod upgrade;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bot_messages::topology::{
    Binding, DestinationType, Exchange, Policy, Queue, QueueType, TopicPermission, Topology, User,
};
use bot_provision::{
    Action, ApplyOptions, Change, Installation, Management, Node, NodeOptions, Permission, Secret, apply, free_ports,
    verify,
};
use serde_json::{Map, json};

/// Figures come faster here than RabbitMQ's 5 s, so that nobody waits for them.
const FIGURES_EVERY: Duration = Duration::from_millis(500);
const APPLY: ApplyOptions = ApplyOptions { dry_run: false, drain: false, figures_every: FIGURES_EVERY };

fn cache_dir() -> PathBuf {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let named = std::env::var_os("LOTA_CACHE").map(PathBuf::from);
    named.unwrap_or_else(|| workspace.join(".cache/lota"))
}

/// This machine's RabbitMQ, or that of the series which `LOTA_TEST_RABBITMQ` names.
async fn installation() -> Installation {
    match std::env::var("LOTA_TEST_RABBITMQ").ok().filter(|series| !series.is_empty()) {
        Some(series) => Installation::of_series(&cache_dir(), &series).unwrap_or_else(|| {
            panic!("there is no RabbitMQ {series} in {}/brokers: `make test-brokers` unpacks it", cache_dir().display())
        }),
        None => Installation::find(&cache_dir(), &tell).await.unwrap(),
    }
}

fn tell(line: &str) {
    eprintln!("  {line}");
}

fn password(user: &str) -> Secret {
    Secret::new(format!("secret of {user}"))
}

fn queue(name: &str, queue_type: QueueType) -> Queue {
    Queue { name: name.into(), queue_type }
}

fn binding(source: &str, to: &str, kind: DestinationType, key: &str) -> Binding {
    Binding { source: source.into(), destination: to.into(), destination_type: kind, routing_key: key.into() }
}

fn topology() -> Topology {
    let exchange = |name: &str, internal| Exchange { name: name.into(), internal };
    Topology {
        vhost: "lota".into(),
        exchanges: vec![exchange("lota.egress.build-bot", false), exchange("lota.events", true)],
        queues: vec![queue("test-bot.work", QueueType::Quorum), queue("test-bot.health", QueueType::Classic)],
        bindings: vec![
            binding("lota.egress.build-bot", "test-bot.work", DestinationType::Queue, "build.completed"),
            binding("lota.egress.build-bot", "test-bot.health", DestinationType::Queue, "health.build-bot.#"),
            binding("lota.egress.build-bot", "lota.events", DestinationType::Exchange, "build.*"),
            binding("lota.events", "test-bot.health", DestinationType::Queue, "odd ~%/key.*"),
        ],
        policies: vec![Policy {
            name: "lota-work".into(),
            pattern: r"^.*\.work$".into(),
            apply_to: "queues".into(),
            priority: 1,
            definition: Map::from_iter([("delivery-limit".to_owned(), json!(1000))]),
        }],
        users: vec![User {
            name: "build-bot".into(),
            configure: "^$".into(),
            write: r"^lota\.egress\.build-bot$".into(),
            read: r"^build-bot\.(work|control|health)$".into(),
            topic_permissions: vec![TopicPermission {
                exchange: "lota.egress.build-bot".into(),
                write: r"^build\.completed$".into(),
                read: "^$".into(),
            }],
            tags: vec!["monitoring".into()],
            max_connections: Some(4),
            max_channels: Some(16),
        }],
    }
}

fn words(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

async fn drift(api: &Management, wanted: &Topology) -> Vec<String> {
    verify(api, wanted).await.unwrap().iter().map(ToString::to_string).collect()
}

/// Figures are up to 10 s late.
async fn until_counted(api: &Management, queue: &str, count: u64) {
    let begun = Instant::now();
    while api.queue("lota", queue).await.unwrap().messages != Some(count) {
        assert!(begun.elapsed() < Duration::from_secs(300), "{queue} never came to hold {count}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// One story, because each node costs seconds and 150 MB, and each part stands on the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_and_its_topology_live_through_what_befalls_them() {
    let folder = tempfile::tempdir().unwrap();
    let installation = installation().await;
    let mut options = NodeOptions::new(folder.path().join("node"), installation);
    options.die_with_parent = true;
    options.figures_every = FIGURES_EVERY;
    let mut node = Node::start(options, &tell).await.unwrap();
    let api = node.management().unwrap();

    only_our_admin_and_only_here(&node, &api).await;
    applied_twice_changes_once(&api).await;
    drift_is_found_and_mended(&api).await;
    management_calls_work(&api).await;
    messages_are_never_deleted(&api).await;
    a_queue_is_drained(&api).await;
    a_restart_keeps_ports_and_messages(&mut node).await;
    a_killed_node_comes_back(&mut node).await;

    assert!(node.stop().await.unwrap(), "it had to be killed");
    assert!(!node.is_running());
    assert!(Node::attach(node.dir()).unwrap().is_none());
}

async fn only_our_admin_and_only_here(node: &Node, api: &Management) {
    let users: Vec<String> = api.users().await.unwrap().into_iter().map(|user| user.name).collect();
    assert_eq!(users, [node.admin()]);
    assert!(api.overview().await.unwrap().rabbitmq_version.is_some());
    // Everything the node listens on, seen from the kernel: addresses in hexadecimal, little endian.
    let ports = node.record().ports;
    for port in [ports.amqp, ports.management, ports.distribution, ports.epmd] {
        let addresses = listening_addresses(port);
        // epmd adds ::1 by itself.
        let here = ["0100007F", "00000000000000000000000001000000"];
        assert_eq!(addresses.first().map(String::as_str), Some(here[0]), "port {port}");
        assert!(addresses.iter().all(|address| here.contains(&address.as_str())), "{addresses:?}");
    }
    let arguments = std::fs::read(format!("/proc/{}/cmdline", node.record().process.unwrap().pid)).unwrap();
    let arguments = String::from_utf8_lossy(&arguments);
    assert!(arguments.contains("beam"), "the leader is the node itself: {arguments}");
    assert!(!arguments.contains(node.admin_password().expose()));
}

fn listening_addresses(port: u16) -> Vec<String> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let mut fields = line.split_whitespace().skip(1);
            let (local, _, state) = (fields.next().unwrap(), fields.next(), fields.next());
            let (address, hex) = local.split_once(':').unwrap();
            if state == Some("0A") && u16::from_str_radix(hex, 16) == Ok(port) {
                found.push(address.to_owned());
            }
        }
    }
    found
}

async fn applied_twice_changes_once(api: &Management) {
    let foretold = apply(api, &topology(), &password, ApplyOptions { dry_run: true, ..APPLY }).await.unwrap();
    let first = apply(api, &topology(), &password, APPLY).await.unwrap();
    assert_eq!(foretold, first);
    assert_eq!(first.len(), 2 + 2 + 1 + 4 + 4, "{:#?}", words(&first));
    assert!(first.iter().all(|change| change.action == Action::Created));
    assert_eq!(words(&apply(api, &topology(), &password, APPLY).await.unwrap()), [""; 0]);
    assert_eq!(drift(api, &topology()).await, [""; 0]);

    let rotated = |_: &str| Secret::new("rotated");
    let changes = apply(api, &topology(), &rotated, APPLY).await.unwrap();
    assert_eq!(words(&changes), ["updated user build-bot"]);
    assert_eq!(words(&apply(api, &topology(), &rotated, APPLY).await.unwrap()), [""; 0]);
}

async fn drift_is_found_and_mended(api: &Management) {
    for binding in api.bindings("lota").await.unwrap() {
        if ["build.completed", "odd ~%/key.*"].contains(&binding.routing_key.as_str()) && !binding.source.is_empty() {
            api.delete_binding("lota", &binding).await.unwrap();
        }
    }
    let wide = Permission {
        user: "build-bot".into(),
        vhost: "lota".into(),
        configure: ".*".into(),
        write: ".*".into(),
        read: ".*".into(),
    };
    api.put_permission(&wide).await.unwrap();
    api.put_user("stranger", &Secret::random(20), &[]).await.unwrap();
    api.put_permission(&Permission { user: "stranger".into(), ..wide }).await.unwrap();
    api.put_exchange("lota", "lota.egress.stranger", false).await.unwrap();
    let watching = ("lota.egress.build-bot", "tmp.operator.1");
    api.put_queue("lota", watching.1, "classic").await.unwrap();
    api.put_binding("lota", watching.0, (bot_provision::Destination::Queue, watching.1), "#").await.unwrap();
    assert_eq!(
        drift(api, &topology()).await,
        [
            "missing: binding lota.egress.build-bot -[build.completed]-> queue test-bot.work",
            "missing: binding lota.events -[odd ~%/key.*]-> queue test-bot.health",
            "unexpected: exchange lota.egress.stranger",
            "different: permission of build-bot (configure .*, write .*, read .*; should be configure ^$, write \
             ^lota\\.egress\\.build-bot$, read ^build-bot\\.(work|control|health)$)",
            "unexpected: user stranger",
        ]
    );
    apply(api, &topology(), &password, APPLY).await.unwrap();
    assert_eq!(drift(api, &topology()).await, [""; 0]);
    api.delete_queue("lota", watching.1).await.unwrap();
}

async fn management_calls_work(api: &Management) {
    let key = "build.completed";
    assert!(api.publish("lota", "lota.egress.build-bot", key, json!({}), "hello").await.unwrap());
    assert!(!api.publish("lota", "lota.egress.build-bot", "nobody", json!({}), "x").await.unwrap());
    for redelivered in [false, true] {
        let got = api.peek("lota", "test-bot.work", 5).await.unwrap();
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].payload.as_str(), got[0].redelivered), ("hello", redelivered));
    }
    api.purge("lota", "test-bot.work").await.unwrap();
    assert!(api.peek("lota", "test-bot.work", 1).await.unwrap().is_empty());
    assert!(api.connections().await.unwrap().is_empty());
    api.close_connection("no such connection", "a test").await.unwrap();
    api.put_vhost("other/one").await.unwrap();
    assert!(api.vhosts().await.unwrap().contains(&"other/one".to_owned()));
    api.delete_vhost("other/one").await.unwrap();
    assert!(!api.vhost_is_running("other/one").await.unwrap());
    let wrong = Management::new("http://127.0.0.1:1", "x", Secret::new("y"), None).unwrap();
    assert!(wrong.overview().await.unwrap_err().to_string().contains("is the node running?"));
}

async fn messages_are_never_deleted(api: &Management) {
    let mut earlier = topology();
    for (name, kind) in [("full.work", QueueType::Quorum), ("empty.work", QueueType::Quorum)] {
        earlier.queues.push(queue(name, kind));
        earlier.bindings.push(binding("lota.egress.build-bot", name, DestinationType::Queue, "build.failed"));
    }
    apply(api, &earlier, &password, APPLY).await.unwrap();
    let publish =
        |key: &'static str| api.publish("lota", "lota.egress.build-bot", key, json!({"delivery_mode": 2}), "m");
    assert!(publish("build.failed").await.unwrap());
    assert!(publish("build.completed").await.unwrap());
    api.purge("lota", "empty.work").await.unwrap();
    until_counted(api, "full.work", 1).await;

    // Both go, and test-bot.work would have to become a classic queue although it holds a message; the empty
    // test-bot.health does become a quorum queue.
    let mut later = topology();
    later.queues = vec![queue("test-bot.work", QueueType::Classic), queue("test-bot.health", QueueType::Quorum)];
    let changes = apply(api, &later, &password, APPLY).await.unwrap();
    assert_eq!(
        words(&changes),
        [
            "kept queue test-bot.work: it holds 1 messages; empty it, then apply again",
            "updated queue test-bot.health",
            "removed binding lota.egress.build-bot -[build.failed]-> queue empty.work",
            "removed binding lota.egress.build-bot -[build.failed]-> queue full.work",
            "removed queue empty.work",
            "kept queue full.work: it holds 1 messages; empty it, then apply again",
        ]
    );
    assert_eq!(api.peek("lota", "full.work", 1).await.unwrap().len(), 1);
    // What was unbound to look into it is bound again.
    assert_eq!(
        drift(api, &later).await,
        [
            "different: queue test-bot.work (durable quorum with arguments []; should be durable classic without)",
            "unexpected: queue full.work",
        ]
    );
}

/// Back to the first topology, with someone emptying the old queue while apply waits for it.
async fn a_queue_is_drained(api: &Management) {
    let mut wanted = topology();
    wanted.exchanges.push(Exchange { name: "lota.unrouted".into(), internal: true });
    wanted.queues.push(queue("unrouted", QueueType::Quorum));
    wanted.bindings.push(binding("lota.unrouted", "unrouted", DestinationType::Queue, "#"));
    for (name, queue_type) in [("gone.work", "quorum"), ("gone.health", "classic"), ("gone.dead", "quorum")] {
        api.put_queue("lota", name, queue_type).await.unwrap();
        for number in 0..3 {
            assert!(api.publish("lota", "", name, json!({}), &format!("{name} {number}")).await.unwrap());
        }
        until_counted(api, name, 3).await;
    }
    api.purge("lota", "test-bot.health").await.unwrap();
    api.purge("lota", "full.work").await.unwrap();
    until_counted(api, "full.work", 0).await;
    until_counted(api, "test-bot.health", 0).await;
    let drain = ApplyOptions { drain: true, ..APPLY };
    let changes = words(&apply(api, &wanted, &password, drain).await.unwrap());
    for change in [
        "moved 3 messages of queue gone.work to the queue unrouted",
        "dropped 3 messages of queue gone.health, which is for what may be lost",
        "removed queue gone.work",
        "removed queue gone.health",
        "kept queue gone.dead: dead letters are not moved: look at them (`lota dlq`), then empty it",
    ] {
        assert!(changes.iter().any(|c| c == change), "{change}: {changes:#?}");
    }
    let mut moved: Vec<String> =
        api.peek("lota", "unrouted", 10).await.unwrap().into_iter().map(|message| message.payload).collect();
    moved.sort();
    assert_eq!(moved, ["gone.work 0", "gone.work 1", "gone.work 2"]);
    for name in ["gone.dead", "unrouted"] {
        api.purge("lota", name).await.unwrap();
        until_counted(api, name, 0).await;
    }
    apply(api, &topology(), &password, APPLY).await.unwrap();
    assert_eq!(drift(api, &topology()).await, [""; 0]);
}

async fn a_restart_keeps_ports_and_messages(node: &mut Node) {
    let ports = node.record().ports;
    node.restart(&tell).await.unwrap();
    assert_eq!(node.record().ports, ports);
    let attached = Node::attach(node.dir()).unwrap().unwrap();
    assert_eq!(attached.record().process, node.record().process);
    // Kept since `messages_are_never_deleted`.
    let api = attached.management().unwrap();
    assert_eq!(api.peek("lota", "test-bot.work", 5).await.unwrap().len(), 1);
    assert_eq!(drift(&api, &topology()).await, [""; 0]);
}

async fn a_killed_node_comes_back(node: &mut Node) {
    let ports = node.record().ports;
    node.kill().await.unwrap();
    assert!(!node.is_running());
    node.restart(&tell).await.unwrap();
    assert_eq!(node.record().ports, ports);
    let api = node.management().unwrap();
    assert_eq!(api.peek("lota", "test-bot.work", 5).await.unwrap().len(), 1);
    // Starting what runs is attaching.
    let mut options = NodeOptions::new(node.dir(), installation().await);
    options.ports = Some(ports);
    let same = Node::start(options, &tell).await.unwrap();
    assert_eq!(same.record().process, node.record().process);
    let [other] = free_ports::<1>().unwrap();
    assert!(![ports.amqp, ports.management].contains(&other));
}
