//! A small client of RabbitMQ's management HTTP API (3.10 to 4.3). It decides nothing: what the topology should be is
//! worked out in `plan.rs`.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Secret;
use crate::management_types::{
    BindingInfo, ConnectionInfo, Destination, ExchangeInfo, MessageGot, Overview, Permission, PolicyInfo, QueueInfo,
    QueueMembers, TopicPermissionInfo, UserInfo, UserLimits, VhostInfo,
};
use crate::password::{HASHING, rabbit_hash};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// The server closes idle connections; ours go first, and a restarted node is not met with a dead one.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
const REASON_LETTERS_MAX: usize = 300;

#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    #[error("expected the address of a management API such as http://127.0.0.1:15672, got `{url}`: {reason}")]
    Address { url: String, reason: String },
    #[error("no answer from RabbitMQ's management API at {url}: {source}; is the node running?")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error(
        "RabbitMQ's management API at {url} does not accept user `{user}` ({status}): check its password and that it \
         has the tag `{tag}`"
    )]
    NotAllowed { url: String, user: String, status: u16, tag: &'static str },
    #[error("RabbitMQ refused {method} {path} with {status}: {reason}")]
    Refused { method: String, path: String, status: u16, reason: String },
    #[error("expected RabbitMQ's usual answer to {path}, got something else: {reason}")]
    Malformed { path: String, reason: String },
}

impl ManagementError {
    /// Whether RabbitMQ says that the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

/// The management API as one user. Cheap to clone; no call takes longer than 20 s.
#[derive(Debug, Clone)]
pub struct Management {
    base: Url,
    user: String,
    password: Secret,
    client: reqwest::Client,
}

impl Management {
    /// `url` without `/api`: `http://127.0.0.1:15672`. `authority` is a PEM file with whom to trust besides the system's.
    #[allow(clippy::disallowed_methods, reason = "the home of the management API's HTTP client")]
    pub fn new(url: &str, user: &str, password: Secret, authority: Option<&Path>) -> Result<Self, ManagementError> {
        let wrong = |reason: String| ManagementError::Address { url: url.to_owned(), reason };
        let base = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if base.cannot_be_a_base() {
            return Err(wrong("it has no host".to_owned()));
        }
        let trusted = authority.map(|file| {
            let pem = std::fs::read(file).map_err(|e| wrong(format!("{} cannot be read: {e}", file.display())))?;
            reqwest::Certificate::from_pem(&pem)
                .map_err(|e| wrong(format!("{} is no certificate: {e}", file.display())))
        });
        let client = reqwest::Client::builder()
            .tls_certs_merge(trusted.transpose()?)
            .connect_timeout(CONNECT_LIMIT)
            .timeout(CALL_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            // A broker is never behind the proxy that the environment names.
            .no_proxy()
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self { base, user: user.to_owned(), password, client })
    }

    /// The user all calls are made as.
    pub fn user(&self) -> &str {
        &self.user
    }

    pub async fn overview(&self) -> Result<Overview, ManagementError> {
        self.get(&["overview"]).await
    }

    /// The nodes of its cluster that run, as the one that is asked sees them.
    pub async fn running_nodes(&self) -> Result<Vec<String>, ManagementError> {
        #[derive(serde::Deserialize)]
        struct Seen {
            name: String,
            #[serde(default)]
            running: bool,
        }
        let seen: Vec<Seen> = self.get(&["nodes"]).await?;
        Ok(seen.into_iter().filter(|node| node.running).map(|node| node.name).collect())
    }

    pub async fn vhosts(&self) -> Result<Vec<String>, ManagementError> {
        let vhosts: Vec<VhostInfo> = self.get(&["vhosts"]).await?;
        Ok(vhosts.into_iter().map(|vhost| vhost.name).collect())
    }

    /// Whether the vhost exists and runs on at least one node.
    pub async fn vhost_is_running(&self, vhost: &str) -> Result<bool, ManagementError> {
        match self.get::<VhostInfo>(&["vhosts", vhost]).await {
            Ok(found) => Ok(found.cluster_state.values().any(|state| state == "running")),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn put_vhost(&self, vhost: &str) -> Result<(), ManagementError> {
        self.put(&["vhosts", vhost], json!({})).await
    }

    /// Deletes it with everything in it.
    pub async fn delete_vhost(&self, vhost: &str) -> Result<(), ManagementError> {
        self.delete(&["vhosts", vhost]).await
    }

    pub async fn users(&self) -> Result<Vec<UserInfo>, ManagementError> {
        self.get(&["users"]).await
    }

    /// Creates or changes; RabbitMQ gets a salted hash only.
    pub async fn put_user(&self, user: &str, password: &Secret, tags: &[String]) -> Result<(), ManagementError> {
        let hash = rabbit_hash(password);
        self.put_user_hash(user, &hash, HASHING, tags).await
    }

    /// For changing the tags of a user whose password is not at hand.
    pub async fn put_user_hash(
        &self,
        user: &str,
        hash: &str,
        algorithm: &str,
        tags: &[String],
    ) -> Result<(), ManagementError> {
        let body = json!({ "password_hash": hash, "hashing_algorithm": algorithm, "tags": tags.join(",") });
        self.put(&["users", user], body).await
    }

    /// RabbitMQ closes the user's connections.
    pub async fn delete_user(&self, user: &str) -> Result<(), ManagementError> {
        self.delete(&["users", user]).await
    }

    /// Of all users in all vhosts.
    pub async fn permissions(&self) -> Result<Vec<Permission>, ManagementError> {
        self.get(&["permissions"]).await
    }

    pub async fn put_permission(&self, permission: &Permission) -> Result<(), ManagementError> {
        let Permission { user, vhost, configure, write, read } = permission;
        let body = json!({ "configure": configure, "write": write, "read": read });
        self.put(&["permissions", vhost, user], body).await
    }

    pub async fn delete_permission(&self, vhost: &str, user: &str) -> Result<(), ManagementError> {
        self.delete(&["permissions", vhost, user]).await
    }

    pub async fn topic_permissions(&self) -> Result<Vec<TopicPermissionInfo>, ManagementError> {
        self.get(&["topic-permissions"]).await
    }

    pub async fn put_topic_permission(&self, permission: &TopicPermissionInfo) -> Result<(), ManagementError> {
        let TopicPermissionInfo { user, vhost, exchange, write, read } = permission;
        let body = json!({ "exchange": exchange, "write": write, "read": read });
        self.put(&["topic-permissions", vhost, user], body).await
    }

    /// All of the user's in the vhost; the API knows no single one.
    pub async fn delete_topic_permissions(&self, vhost: &str, user: &str) -> Result<(), ManagementError> {
        self.delete(&["topic-permissions", vhost, user]).await
    }

    /// user → limits, of users that have any.
    pub async fn user_limits(&self) -> Result<Vec<(String, UserLimits)>, ManagementError> {
        let listed: Vec<Value> = self.get(&["user-limits"]).await?;
        let read = |entry: Value| {
            let user = entry.get("user")?.as_str()?.to_owned();
            let limits = serde_json::from_value(entry.get("value")?.clone()).unwrap_or_default();
            Some((user, limits))
        };
        Ok(listed.into_iter().filter_map(read).collect())
    }

    /// Sets what is given and clears what is not.
    pub async fn put_user_limits(&self, user: &str, limits: UserLimits) -> Result<(), ManagementError> {
        let UserLimits { max_connections, max_channels } = limits;
        for (name, limit) in [("max-connections", max_connections), ("max-channels", max_channels)] {
            let path = ["user-limits", user, name];
            match limit {
                Some(limit) => self.put(&path, json!({ "value": limit })).await?,
                None => self.delete(&path).await?,
            }
        }
        Ok(())
    }

    pub async fn exchanges(&self, vhost: &str) -> Result<Vec<ExchangeInfo>, ManagementError> {
        self.get(&["exchanges", vhost]).await
    }

    /// A durable topic exchange.
    pub async fn put_exchange(&self, vhost: &str, name: &str, internal: bool) -> Result<(), ManagementError> {
        let body =
            json!({ "type": "topic", "durable": true, "auto_delete": false, "internal": internal, "arguments": {} });
        self.put(&["exchanges", vhost, name], body).await
    }

    pub async fn delete_exchange(&self, vhost: &str, name: &str) -> Result<(), ManagementError> {
        self.delete(&["exchanges", vhost, name]).await
    }

    pub async fn queues(&self, vhost: &str) -> Result<Vec<QueueInfo>, ManagementError> {
        self.get(&["queues", vhost]).await
    }

    pub async fn queue(&self, vhost: &str, name: &str) -> Result<QueueInfo, ManagementError> {
        self.get(&["queues", vhost, name]).await
    }

    /// Where a quorum queue lives.
    pub async fn queue_members(&self, vhost: &str, name: &str) -> Result<QueueMembers, ManagementError> {
        self.get(&["queues", vhost, name]).await
    }

    /// A durable queue; `kind` is `quorum` or `classic`.
    pub async fn put_queue(&self, vhost: &str, name: &str, kind: &str) -> Result<(), ManagementError> {
        let body = json!({ "durable": true, "auto_delete": false, "arguments": { "x-queue-type": kind } });
        self.put(&["queues", vhost, name], body).await
    }

    /// Deletes it with its messages: look first.
    pub async fn delete_queue(&self, vhost: &str, name: &str) -> Result<(), ManagementError> {
        self.delete(&["queues", vhost, name]).await
    }

    pub async fn purge(&self, vhost: &str, queue: &str) -> Result<(), ManagementError> {
        self.delete(&["queues", vhost, queue, "contents"]).await
    }

    pub async fn bindings(&self, vhost: &str) -> Result<Vec<BindingInfo>, ManagementError> {
        self.get(&["bindings", vhost]).await
    }

    pub async fn put_binding(
        &self,
        vhost: &str,
        source: &str,
        to: (Destination, &str),
        routing_key: &str,
    ) -> Result<(), ManagementError> {
        let path = ["bindings", vhost, "e", source, letter(to.0), to.1];
        let body = json!({ "routing_key": routing_key, "arguments": {} });
        self.call(Method::POST, &path, Some(body)).await.map(drop)
    }

    pub async fn delete_binding(&self, vhost: &str, binding: &BindingInfo) -> Result<(), ManagementError> {
        let BindingInfo { source, destination, destination_type, properties_key, .. } = binding;
        let path = ["bindings", vhost, "e", source, letter(*destination_type), destination, properties_key];
        self.delete(&path).await
    }

    pub async fn policies(&self, vhost: &str) -> Result<Vec<PolicyInfo>, ManagementError> {
        self.get(&["policies", vhost]).await
    }

    pub async fn put_policy(&self, vhost: &str, policy: &PolicyInfo) -> Result<(), ManagementError> {
        let path = ["policies", vhost, &policy.name];
        self.put(&path, serde_json::to_value(policy).unwrap_or_default()).await
    }

    pub async fn delete_policy(&self, vhost: &str, name: &str) -> Result<(), ManagementError> {
        self.delete(&["policies", vhost, name]).await
    }

    pub async fn connections(&self) -> Result<Vec<ConnectionInfo>, ManagementError> {
        self.get(&["connections"]).await
    }

    /// Closes the connection with that [`ConnectionInfo::name`]; the client is told `reason`.
    pub async fn close_connection(&self, name: &str, reason: &str) -> Result<(), ManagementError> {
        let path = ["connections", name];
        let request = self.request(Method::DELETE, &path).header("X-Reason", reason);
        match self.send(Method::DELETE, &path, request).await {
            Err(error) if error.is_not_found() => Ok(()),
            sent => sent.map(drop),
        }
    }

    /// `false`: it reached no queue. `properties` as AMQP names them, with `headers` as an object. For tests and
    /// repairs; it is slow and unconfirmed.
    pub async fn publish(
        &self,
        vhost: &str,
        exchange: &str,
        routing_key: &str,
        properties: Value,
        payload: &str,
    ) -> Result<bool, ManagementError> {
        // The API's name for the exchange without one.
        let exchange = if exchange.is_empty() { "amq.default" } else { exchange };
        let path = ["exchanges", vhost, exchange, "publish"];
        let body = json!({
            "properties": properties,
            "routing_key": routing_key,
            "payload": payload,
            "payload_encoding": "string",
        });
        let answer: Value = self.call_for(Method::POST, &path, Some(body)).await?;
        Ok(answer.get("routed").and_then(Value::as_bool).unwrap_or_default())
    }

    /// Looks at the first `count` messages that are ready and puts them back. Each look counts as a delivery.
    pub async fn peek(&self, vhost: &str, queue: &str, count: u32) -> Result<Vec<MessageGot>, ManagementError> {
        let body = json!({ "count": count, "ackmode": "ack_requeue_true", "encoding": "auto" });
        self.call_for(Method::POST, &["queues", vhost, queue, "get"], Some(body)).await
    }

    /// Rejects the first `count` messages that are ready, so that the broker dead-letters them. How many there were.
    pub(crate) async fn reject(&self, vhost: &str, queue: &str, count: u32) -> Result<u64, ManagementError> {
        // The messages come along, cut to a byte each.
        let body = json!({ "count": count, "ackmode": "reject_requeue_false", "encoding": "auto", "truncate": 1 });
        let got: Vec<Value> = self.call_for(Method::POST, &["queues", vhost, queue, "get"], Some(body)).await?;
        Ok(got.len() as u64)
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ManagementError> {
        self.call_for(Method::GET, path, None).await
    }

    async fn put(&self, path: &[&str], body: Value) -> Result<(), ManagementError> {
        self.call(Method::PUT, path, Some(body)).await.map(drop)
    }

    /// What is gone already is fine.
    async fn delete(&self, path: &[&str]) -> Result<(), ManagementError> {
        match self.call(Method::DELETE, path, None).await {
            Err(error) if error.is_not_found() => Ok(()),
            called => called.map(drop),
        }
    }

    async fn call_for<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<T, ManagementError> {
        let bytes = self.call(method, path, body).await?;
        decoded(&bytes).map_err(|error| ManagementError::Malformed { path: path.join("/"), reason: error.to_string() })
    }

    async fn call(&self, method: Method, path: &[&str], body: Option<Value>) -> Result<Vec<u8>, ManagementError> {
        let mut request = self.request(method.clone(), path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(method, path, request).await
    }

    fn request(&self, method: Method, path: &[&str]) -> reqwest::RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // `extend` percent-encodes each part, also `/` and `%`.
            segments.pop_if_empty().push("api").extend(path);
        }
        self.client.request(method, url).basic_auth(&self.user, Some(self.password.expose()))
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        request: reqwest::RequestBuilder,
    ) -> Result<Vec<u8>, ManagementError> {
        let url = self.base.to_string();
        let unreachable =
            |error: reqwest::Error| ManagementError::Unreachable { url: url.clone(), source: error.without_url() };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?.to_vec();
        if status.is_success() {
            return Ok(bytes);
        }
        let user = self.user.clone();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let tag = if method == Method::GET { "monitoring" } else { "administrator" };
            return Err(ManagementError::NotAllowed { url, user, status: status.as_u16(), tag });
        }
        Err(ManagementError::Refused {
            method: method.to_string(),
            path: path.join("/"),
            status: status.as_u16(),
            reason: reason(&bytes),
        })
    }
}

/// RabbitMQ says some fields twice, as a queue's `online` in a cluster: a document takes that, a struct does not.
fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes).and_then(serde_json::from_value)
}

/// RabbitMQ's `{"error": …, "reason": …}`, or the start of whatever came.
fn reason(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let parsed: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let reason = match parsed.get("reason") {
        Some(Value::String(reason)) => reason.clone(),
        Some(other) => other.to_string(),
        None => text.into_owned(),
    };
    reason.chars().take(REASON_LETTERS_MAX).collect()
}

fn letter(destination: Destination) -> &'static str {
    match destination {
        Destination::Queue => "q",
        Destination::Exchange => "e",
    }
}

#[cfg(test)]
mod tests;
