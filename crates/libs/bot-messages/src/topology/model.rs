//! What a topology consists of, as plain data.
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Everything the vhost has to hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// The vhost.
    pub vhost: String,
    /// Durable topic exchanges.
    pub exchanges: Vec<Exchange>,
    /// Durable queues.
    pub queues: Vec<Queue>,
    /// Bindings.
    pub bindings: Vec<Binding>,
    /// Policies: all that can change without deleting a queue.
    pub policies: Vec<Policy>,
    /// Users with what they may do in the vhost.
    pub users: Vec<User>,
}

/// A durable topic exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// Publishers cannot write to an internal one.
    pub internal: bool,
}

/// A durable queue; `x-queue-type` is its only argument.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Replicated, or plain.
    pub queue_type: QueueType,
}

/// RabbitMQ's queue type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// Replicated, survives what can be survived.
    Quorum,
    /// For what may be lost.
    Classic,
}

/// What a binding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationType {
    /// A queue.
    Queue,
    /// Another exchange.
    Exchange,
}

/// A binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Binding {
    /// The exchange it leaves.
    pub source: String,
    /// Where it leads.
    pub destination: String,
    /// What is there.
    pub destination_type: DestinationType,
    /// The key, possibly with wildcards.
    pub routing_key: String,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Regular expression over names.
    pub pattern: String,
    /// `queues` or `exchanges`.
    pub apply_to: String,
    /// The highest that matches holds.
    pub priority: i32,
    /// The settings.
    pub definition: Map<String, Value>,
}

/// A user's rights in the vhost, as RabbitMQ's regular expressions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// What it may declare and delete.
    pub configure: String,
    /// What it may publish to, and bind to.
    pub write: String,
    /// What it may consume from, and bind from.
    pub read: String,
    /// Routing keys, by exchange.
    pub topic_permissions: Vec<TopicPermission>,
    /// Such as `monitoring`.
    pub tags: Vec<String>,
    /// Connections at a time.
    pub max_connections: Option<u32>,
    /// Channels at a time.
    pub max_channels: Option<u32>,
}

/// Which routing keys a user may use on an exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPermission {
    /// The exchange.
    pub exchange: String,
    /// Keys it may publish with.
    pub write: String,
    /// Keys it may bind with.
    pub read: String,
}
