//! The RabbitMQ that a stage stands on: a private node, or a cluster of three.
use std::path::Path;

use bot_provision::{Cluster, Node, NodeOptions};
use tests::{installation, say};

/// Gone with the value.
pub(crate) enum Broker {
    Node(Box<Node>),
    Cluster(Box<Cluster>),
}

/// Of a cluster the one that bots speak to first, and that a test may kill.
const FIRST: usize = 1;

impl Broker {
    pub(crate) async fn node(dir: &Path) -> Self {
        let mut options = NodeOptions::new(dir, installation().await);
        options.die_with_parent = true;
        Self::Node(Box::new(Node::start(options, &say).await.unwrap()))
    }

    pub(crate) async fn cluster(dir: &Path) -> Self {
        let options = NodeOptions::new(dir, installation().await);
        Self::Cluster(Box::new(Cluster::start(options, &say).await.unwrap()))
    }

    /// The node that tests themselves talk to.
    pub(crate) fn ours(&self) -> &Node {
        match self {
            Self::Node(node) => node,
            Self::Cluster(cluster) => cluster.node(0).unwrap(),
        }
    }

    /// As a bot is told.
    pub(crate) fn urls(&self) -> String {
        match self {
            Self::Node(node) => node.amqp_url(),
            Self::Cluster(cluster) => {
                let urls = cluster.amqp_urls();
                let (ours, others) = urls.split_once(',').unwrap();
                format!("{others},{ours}")
            }
        }
    }

    /// Kills the node that bots speak to first, unless it is the only one: then `false`.
    pub(crate) async fn lose_a_node(&mut self) -> bool {
        match self {
            Self::Node(_) => false,
            Self::Cluster(cluster) => {
                cluster.kill(FIRST).await.unwrap();
                true
            }
        }
    }

    /// Brings back what was killed.
    pub(crate) async fn heal(&mut self) {
        if let Self::Cluster(cluster) = self {
            cluster.bring_back(&say).await.unwrap();
        }
    }
}
