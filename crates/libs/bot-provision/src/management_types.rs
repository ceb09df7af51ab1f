//! What the management API answers. Every field is optional on the wire: versions 3.10 to 4.3 differ, and figures are
//! missing until the first are collected.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Overview {
    pub rabbitmq_version: Option<String>,
    pub erlang_version: Option<String>,
    pub cluster_name: Option<String>,
    pub node: Option<String>,
    /// Messages in all queues this user may see.
    pub queue_totals: QueueTotals,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct QueueTotals {
    pub messages: Option<u64>,
    pub messages_ready: Option<u64>,
    pub messages_unacknowledged: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct VhostInfo {
    pub(crate) name: String,
    /// node → `running` or not.
    pub(crate) cluster_state: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct UserInfo {
    pub name: String,
    pub password_hash: Option<String>,
    pub hashing_algorithm: Option<String>,
    /// A list from 3.9 on; a string with commas before and in some definitions.
    #[serde(deserialize_with = "list_or_commas")]
    pub tags: Vec<String>,
}

/// A user's rights in one vhost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Permission {
    pub user: String,
    pub vhost: String,
    pub configure: String,
    pub write: String,
    pub read: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TopicPermissionInfo {
    pub user: String,
    pub vhost: String,
    pub exchange: String,
    pub write: String,
    pub read: String,
}

/// A user's limits over all vhosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct UserLimits {
    pub max_connections: Option<u32>,
    pub max_channels: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ExchangeInfo {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct QueueInfo {
    pub name: String,
    /// `quorum`, `classic`, `stream`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub durable: bool,
    pub auto_delete: bool,
    pub exclusive: bool,
    pub arguments: Map<String, Value>,
    /// All messages; up to 5 s old, none before the first figures.
    pub messages: Option<u64>,
    pub messages_ready: Option<u64>,
    pub messages_unacknowledged: Option<u64>,
    pub consumers: Option<u64>,
    pub state: Option<String>,
}

/// The nodes of a cluster that a quorum queue lives on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct QueueMembers {
    pub members: Vec<String>,
    /// Those of them that run.
    pub online: Vec<String>,
    pub leader: Option<String>,
}

/// What a binding leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    #[default]
    Queue,
    Exchange,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct BindingInfo {
    pub source: String,
    pub destination: String,
    pub destination_type: Destination,
    pub routing_key: String,
    pub arguments: Map<String, Value>,
    /// How the API names this binding among those of the same two ends.
    pub properties_key: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyInfo {
    #[serde(skip_serializing)]
    pub name: String,
    pub pattern: String,
    #[serde(rename = "apply-to")]
    pub apply_to: String,
    pub priority: i32,
    pub definition: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConnectionInfo {
    pub name: String,
    pub user: Option<String>,
    pub vhost: Option<String>,
    pub peer_host: Option<String>,
    pub peer_port: Option<u16>,
    pub state: Option<String>,
    pub channels: Option<u64>,
    pub client_properties: Map<String, Value>,
}

/// A message looked at; it is back in its queue, marked as redelivered.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MessageGot {
    pub exchange: String,
    pub routing_key: String,
    pub payload: String,
    /// `string`, or `base64` where the body is no UTF-8.
    pub payload_encoding: String,
    pub redelivered: bool,
    /// Left in the queue after this one.
    pub message_count: u64,
    /// An empty list on the wire where there are none.
    #[serde(deserialize_with = "object_or_empty")]
    pub properties: Map<String, Value>,
}

fn list_or_commas<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Tags {
        List(Vec<String>),
        Commas(String),
    }
    Ok(match Tags::deserialize(input)? {
        Tags::List(list) => list,
        Tags::Commas(text) => {
            let tags = text.split(',').map(str::trim).filter(|tag| !tag.is_empty());
            tags.map(str::to_owned).collect()
        }
    })
}

fn object_or_empty<'de, D: Deserializer<'de>>(input: D) -> Result<Map<String, Value>, D::Error> {
    Ok(match Value::deserialize(input)? {
        Value::Object(map) => map,
        _ => Map::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_in_both_shapes() {
        let list: UserInfo = serde_json::from_str(r#"{"name":"a","tags":["monitoring"]}"#).unwrap();
        let commas: UserInfo = serde_json::from_str(r#"{"name":"a","tags":"monitoring"}"#).unwrap();
        assert_eq!(list, commas);
        let none: UserInfo = serde_json::from_str(r#"{"name":"a","tags":""}"#).unwrap();
        assert!(none.tags.is_empty());
    }

    #[test]
    fn a_queue_without_figures_is_read() {
        let queue: QueueInfo = serde_json::from_str(r#"{"name":"q","unknown":1}"#).unwrap();
        assert_eq!((queue.messages, queue.kind), (None, None));
    }
}
