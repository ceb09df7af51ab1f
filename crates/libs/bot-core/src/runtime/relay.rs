//! From the outbox to the broker: at start and continuously, each row until it is confirmed.
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bot_messages::Code;
use bot_store::{Outgoing, Queued, StoreError};
use tokio_util::sync::CancellationToken;

use super::{outgoing::Returned, shared::Shared};
use crate::{
    bus::{Properties, PublishError},
    clock,
    contract::Bot,
    envelope::Envelope,
    meta::Cause,
};

const BATCH: u32 = 64;
/// A row that was refused waits so long before it is tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// A row that is refused for so long becomes a dead letter.
const REFUSED_MAX: Duration = Duration::from_secs(300);

/// Runs until cancelled.
pub(crate) async fn relay<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) {
    let mut refused: HashMap<i64, Instant> = HashMap::new();
    while !cancelled.is_cancelled() {
        let pass = tokio::select! {
            pass = pass(&shared, &mut refused) => pass,
            () = cancelled.cancelled() => break,
        };
        if let Err(e) = &pass {
            tracing::error!("the outbox cannot be read: {e}");
        }
        let wait = match pass {
            Ok(Pass { confirmed, .. }) if confirmed > 0 => continue,
            Ok(Pass { unknown: false, .. }) if refused.is_empty() => Duration::from_secs(30),
            _ => Duration::from_millis(500),
        };
        tokio::select! {
            () = shared.store.outbox_changed().notified() => {}
            () = tokio::time::sleep(wait) => {}
            () = cancelled.cancelled() => break,
        }
    }
}

/// Sends what is left, for a graceful stop.
pub(crate) async fn flush<B: Bot>(shared: &Arc<Shared<B>>) {
    let mut refused = HashMap::new();
    while matches!(pass(shared, &mut refused).await, Ok(p) if p.confirmed > 0) {}
}

#[derive(Default)]
struct Pass {
    confirmed: usize,
    /// At least one publish had no answer.
    unknown: bool,
}

/// Tries every row once.
async fn pass<B: Bot>(shared: &Arc<Shared<B>>, refused: &mut HashMap<i64, Instant>) -> Result<Pass, StoreError> {
    let (mut after, mut result) = (0, Pass::default());
    refused.retain(|_, again| *again > Instant::now());
    loop {
        let rows = shared.store.unsent(after, BATCH).await?;
        let Some(last) = rows.last().map(|r| r.seq) else {
            return Ok(result);
        };
        after = last;
        let due: Vec<Queued> = rows.into_iter().filter(|r| !refused.contains_key(&r.seq)).collect();
        if due.is_empty() {
            continue;
        }
        let messages: Vec<Outgoing> = due.iter().map(|r| r.message.clone()).collect();
        let answers = shared.bus.publish(&messages).await;
        let mut confirmed = Vec::new();
        for (row, answer) in due.into_iter().zip(answers) {
            match answer {
                Ok(()) => confirmed.push(row.seq),
                Err(PublishError::Unknown(why)) => {
                    tracing::debug!(why, "a publish without a confirm goes out again");
                    result.unknown = true;
                }
                Err(why) => {
                    refused.insert(row.seq, Instant::now() + REFUSED_PAUSE);
                    not_taken(shared, row, &why).await?;
                }
            }
        }
        result.confirmed += confirmed.len();
        if !confirmed.is_empty() {
            shared.store.mark_sent(confirmed).await?;
        }
    }
}

async fn not_taken<B: Bot>(shared: &Arc<Shared<B>>, row: Queued, why: &PublishError) -> Result<(), StoreError> {
    let for_long = row.refused_for_ms.is_some_and(|ms| ms >= REFUSED_MAX.as_millis() as i64);
    let own = row.message.routing_key.starts_with("dead.");
    tracing::warn!(routing_key = row.message.routing_key, "not taken: {why}");
    if !for_long || own {
        return shared.store.mark_refused(row.seq).await;
    }
    let properties: Properties = serde_json::from_value(row.message.properties.clone()).unwrap_or_default();
    let envelope = Envelope::decode(&row.message.body).ok();
    let correlation_id = envelope.as_ref().and_then(|e| e.correlation_id.clone()).unwrap_or_default();
    let returned = Returned {
        body: &row.message.body,
        id: envelope.as_ref().map(|e| e.id.as_str()),
        event_type: envelope.as_ref().map(|e| e.event_type.as_str()),
        properties,
        publisher: &shared.speaker.slug,
        replay: 0,
        attempt: 1,
        cause: Cause { correlation_id, ..Cause::default() },
    };
    let why = format!("refused for {} s: {why}", REFUSED_MAX.as_secs());
    let letters = shared.speaker.dead_letter(&returned, Code::Undeliverable, &why, clock::now());
    shared.store.remove_outgoing(row.seq, letters.into()).await
}
