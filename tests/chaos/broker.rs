//! The broker under the chain: one node, or three that are one.
use bot_provision::{Cluster, Management, Node, NodeOptions, Secret};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub(crate) enum Broker {
    One(Box<Node>),
    Three(Box<Cluster>),
}

fn tell(line: &str) {
    eprintln!("  {line}");
}

impl Broker {
    pub(crate) async fn start(options: NodeOptions, nodes: usize) -> Self {
        match nodes {
            1 => Self::One(Box::new(Node::start(options, &tell).await.unwrap())),
            3 => Self::Three(Box::new(Box::pin(Cluster::start(options, &tell)).await.unwrap())),
            other => panic!("{other} nodes: expected 1 or 3"),
        }
    }

    /// Those that run.
    pub(crate) fn nodes(&self) -> Vec<&Node> {
        match self {
            Self::One(node) => vec![node],
            Self::Three(cluster) => cluster.nodes().collect(),
        }
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.nodes().into_iter().map(Node::amqp_port).collect()
    }

    pub(crate) fn management(&self) -> Vec<Management> {
        self.nodes().into_iter().map(|node| node.management().unwrap()).collect()
    }

    pub(crate) fn admin(&self) -> (String, Secret) {
        let node = self.nodes()[0];
        (node.admin().to_owned(), node.admin_password().clone())
    }

    /// `kill -9` to one node.
    pub(crate) async fn kill(&mut self, node: usize) {
        match self {
            Self::One(node) => node.kill().await.unwrap(),
            Self::Three(cluster) => cluster.kill(node).await.unwrap(),
        }
    }

    /// All of it, in order.
    pub(crate) async fn stop(&mut self) {
        match self {
            Self::One(node) => drop(node.stop().await.unwrap()),
            Self::Three(cluster) => drop(cluster.stop().await.unwrap()),
        }
    }

    /// Starts what does not run.
    pub(crate) async fn bring_back(&mut self) {
        match self {
            Self::One(node) => node.restart(&|_| ()).await.unwrap(),
            Self::Three(cluster) => Box::pin(cluster.bring_back(&|_| ())).await.unwrap(),
        }
    }

    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        let process = self.nodes()[node].record().process.unwrap();
        kill(Pid::from_raw(process.pid.cast_signed()), signal).unwrap();
    }

    pub(crate) async fn ctl(&self, node: usize, args: &[&str]) {
        self.nodes()[node].ctl(args).await.unwrap();
    }
}
