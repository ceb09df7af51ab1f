//! What a stage hears from outside of its bot: what was said, and heartbeats.
use std::sync::{Arc, Mutex};

use bot_provision::Node;
use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;

/// A message that the bot said, and the trace it is part of.
pub(crate) struct Heard {
    pub(crate) body: Value,
    pub(crate) traceparent: Option<String>,
}

/// Declares a queue that takes one message and has the broker refuse the others to whoever says them.
pub(crate) async fn take_one(channel: &Channel, queue: &str, exchange: &str, key: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), exclusive, arguments).await.unwrap();
    bind(channel, queue, exchange, key).await;
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) {
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await.unwrap();
}

/// A connection of the admin, and every heartbeat from now on.
pub(crate) async fn hear_heartbeats(node: &Node) -> (Connection, Arc<Mutex<Vec<Value>>>) {
    let (admin, password) = (node.admin(), node.admin_password().expose());
    let url = format!("amqp://{admin}:{password}@127.0.0.1:{}/lota", node.amqp_port());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("heartbeats".into(), exclusive, FieldTable::default()).await.unwrap();
    bind(&channel, "heartbeats", "lota.health", "#").await;
    let heartbeats = Arc::new(Mutex::new(Vec::new()));
    let ears = heartbeats.clone();
    listen(&channel, "heartbeats", move |heard| ears.lock().unwrap().push(heard.body)).await;
    (connection, heartbeats)
}

pub(crate) async fn listen(channel: &Channel, queue: &str, ears: impl Fn(Heard) + Send + 'static) {
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut deliveries = channel.basic_consume(queue.into(), "all".into(), options, arguments).await.unwrap();
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = deliveries.next().await {
            let headers = delivery.properties.headers().clone().unwrap_or_default();
            let traceparent = match headers.inner().get("traceparent") {
                Some(AMQPValue::LongString(text)) => Some(text.to_string()),
                _ => None,
            };
            // What a publisher said may be no JSON.
            ears(Heard { body: serde_json::from_slice(&delivery.data).unwrap_or_default(), traceparent });
            let _ = delivery.ack(BasicAckOptions::default()).await;
        }
    });
}
