//! Watching the taps from outside a bot: a queue of its own that goes when the watcher does. For the operator's command.
use bot_messages::keys;
use futures_util::StreamExt;
use lapin::{
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::sync::mpsc;

use super::{BusOptions, session, wire::Properties};
use crate::{clock, service::Observed};

/// Messages that may wait for a slow watcher before the broker holds the rest.
const WAITING_MAX: usize = 1024;

/// Everything that passes `exchange` with one of `keys` (events only if what they claim is proven), from now on, until the receiver is dropped or the session ends.
/// The user has to be allowed to declare `tmp.<user>.*` and to read the exchange.
pub async fn watch(options: &BusOptions, exchange: &str, keys: &[&str]) -> Result<mpsc::Receiver<Observed>, String> {
    let mut trouble = "no address was given".to_owned();
    for address in &options.addresses {
        match begin(options, address, exchange, keys).await {
            Ok(observed) => return Ok(observed),
            Err(why) => trouble = why,
        }
    }
    Err(trouble)
}

async fn begin(
    options: &BusOptions,
    address: &str,
    exchange: &str,
    keys: &[&str],
) -> Result<mpsc::Receiver<Observed>, String> {
    let connection = session::connect(options, address, "watch").await?;
    let channel = connection.create_channel().await.map_err(|e| e.to_string())?;
    let queue = format!("tmp.{}.{}", options.user, uuid::Uuid::now_v7());
    let declare = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), declare, FieldTable::default()).await.map_err(|e| e.to_string())?;
    for key in keys {
        channel
            .queue_bind(
                queue.as_str().into(),
                exchange.into(),
                (*key).into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(|e| e.to_string())?;
    }
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut deliveries = channel
        .basic_consume(queue.as_str().into(), "watch".into(), options, FieldTable::default())
        .await
        .map_err(|e| e.to_string())?;
    let (out, observed) = mpsc::channel(WAITING_MAX);
    let is_events = exchange == keys::EVENTS;
    tokio::spawn(async move {
        // Held here, since a dropped connection closes.
        let _open = (connection, channel);
        while let Some(Ok(delivery)) = deliveries.next().await {
            let properties = Properties::read(&delivery.properties).unwrap_or_default();
            let seen = Observed {
                routing_key: delivery.routing_key.as_str().to_owned(),
                publisher: delivery.exchange.as_str().strip_prefix(keys::EGRESS_PREFIX).map(ToOwned::to_owned),
                causation_id: properties.text(super::CAUSATION_ID).map(ToOwned::to_owned),
                body: delivery.data,
                at: clock::now(),
            };
            // Only bodies on this tap say who speaks; the monitor alerts.
            if is_events && seen.forged().is_some() {
                continue;
            }
            if out.send(seen).await.is_err() {
                return;
            }
        }
    });
    Ok(observed)
}
