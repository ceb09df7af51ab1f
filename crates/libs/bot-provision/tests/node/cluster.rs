//! Three private nodes that are one broker: a quorum queue has a member on each, and lives through what befalls them.

use std::time::{Duration, Instant};

use bot_provision::{Cluster, Management, Node, NodeOptions, QueueMembers, is_free};
use serde_json::json;

use crate::{FIGURES_EVERY, installation, tell};

const MESSAGES: u64 = 5;
/// For a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(300);

fn api(cluster: &Cluster) -> Management {
    cluster.nodes().next().unwrap().management().unwrap()
}

/// Figures and members are known a moment later.
async fn until(cluster: &Cluster, what: &str, holds: impl Fn(&QueueMembers) -> bool) -> QueueMembers {
    let begun = Instant::now();
    loop {
        let found = api(cluster).queue_members("lota", "kept.work").await;
        match found {
            Ok(queue) if holds(&queue) => return queue,
            found => assert!(begun.elapsed() < LIMIT, "{what} never came: {found:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many messages wait. While its members agree on a leader, a queue answers nobody.
async fn kept(cluster: &Cluster) -> u64 {
    let begun = Instant::now();
    loop {
        match api(cluster).peek("lota", "kept.work", 10).await {
            Ok(messages) => return messages.len() as u64,
            Err(error) => assert!(begun.elapsed() < LIMIT, "it never answered: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_are_one_broker_that_outlives_any_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::new(folder.path().join("cluster"), installation().await);
    options.figures_every = FIGURES_EVERY;
    let mut cluster = Cluster::start(options, &tell).await.unwrap();
    assert_eq!(cluster.nodes().count(), 3);
    let ports: Vec<u16> = cluster.nodes().map(Node::amqp_port).collect();
    let urls: Vec<String> = ports.iter().map(|port| format!("amqp://127.0.0.1:{port}/lota")).collect();
    assert_eq!(cluster.amqp_urls(), urls.join(","));

    api(&cluster).put_queue("lota", "kept.work", "quorum").await.unwrap();
    for number in 0..MESSAGES {
        let persistent = json!({"delivery_mode": 2});
        assert!(api(&cluster).publish("lota", "", "kept.work", persistent, &number.to_string()).await.unwrap());
    }
    let queue = until(&cluster, "three members", |queue| queue.online.len() == 3).await;
    assert_eq!(queue.members.len(), 3, "{queue:?}");

    let leads = |node: &Node| Some(&node.record().node_name) == queue.leader.as_ref();
    let leader = (0..3).find(|index| leads(cluster.node(*index).unwrap())).unwrap();
    let killed = cluster.node(leader).unwrap().record().node_name.clone();
    cluster.kill(leader).await.unwrap();
    assert_eq!(cluster.nodes().count(), 2);
    // The one that was killed may be told as the leader for a moment.
    let is_led = |queue: &QueueMembers| queue.leader.as_ref().is_some_and(|leader| *leader != killed);
    until(&cluster, "another leader", |queue| queue.online.len() == 2 && is_led(queue)).await;
    assert_eq!(kept(&cluster).await, MESSAGES);
    assert!(api(&cluster).publish("lota", "", "kept.work", json!({"delivery_mode": 2}), "meanwhile").await.unwrap());
    cluster.bring_back(&tell).await.unwrap();
    until(&cluster, "the member that was killed", |queue| queue.online.len() == 3).await;

    assert!(cluster.stop().await.unwrap(), "one had to be killed");
    assert!(ports.iter().all(|port| is_free(*port)));
    cluster.bring_back(&tell).await.unwrap();
    until(&cluster, "all members", |queue| queue.online.len() == 3).await;
    assert_eq!(kept(&cluster).await, MESSAGES + 1);

    let all = cluster.nodes().map(|node| node.record().ports);
    let all: Vec<u16> = all.flat_map(|ports| [ports.amqp, ports.management, ports.distribution, ports.epmd]).collect();
    drop(cluster);
    let begun = Instant::now();
    while !all.iter().all(|port| is_free(*port)) {
        assert!(begun.elapsed() < LIMIT, "something of it was left behind");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
