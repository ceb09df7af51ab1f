//! From the outbox to the broker: at start and continuously, each row until it is confirmed.
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bot_messages::Code;
use bot_store::{Outgoing, Queued, StoreError};
use tokio_util::sync::CancellationToken;

use super::{
    inbox::cause_of,
    outgoing::{Returned, Speaker, traced},
    shared::Shared,
};
use crate::{
    bus::{ATTEMPT, PUBLISHER, Properties, PublishError, REPLAY},
    clock,
    contract::Bot,
    crash::crash_point,
    envelope::Envelope,
    meta::Cause,
    trace::{Span, Traced},
};

const BATCH: u32 = 64;
/// A row that was refused waits so long before it is tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// After so long without an answer, as in an outage, refusing begins anew.
const REFUSED_GAP_MAX: Duration = Duration::from_secs(60);

/// Of several replicas one sends, for so long after it said so last: two would send each row twice. What the one had on its
/// way when its time was over may go out twice under the same id, and no row is lost.
const LEAD: &str = "relay";
const LEAD_LENGTH: Duration = Duration::from_secs(10);
const LEAD_RENEWED: Duration = Duration::from_secs(4);

/// Runs until cancelled.
pub(crate) async fn relay<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) {
    let mut relay = Relay::default();
    while !cancelled.is_cancelled() {
        let pass = tokio::select! {
            pass = relay.pass(&shared) => pass,
            () = cancelled.cancelled() => break,
        };
        if let Err(e) = &pass {
            shared.store_failed(e);
        }
        let wait = match pass {
            Ok(Pass { confirmed, .. }) if confirmed > 0 => continue,
            // Who sends may be gone.
            Ok(Pass { led: false, .. }) => Duration::from_secs(1),
            Ok(Pass { unknown: false, .. }) if relay.refused.0.is_empty() => Duration::from_secs(30),
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
    let mut relay = Relay::default();
    while matches!(relay.pass(shared).await, Ok(p) if p.confirmed > 0) {}
    if let Err(e) = shared.store.lead(LEAD, &shared.tools.instance, Duration::ZERO).await {
        tracing::debug!("another replica begins to send only in {} s: {e}", LEAD_LENGTH.as_secs());
    }
}

/// What this process knows of the rows it tried.
#[derive(Default)]
struct Relay {
    refused: Refused,
    /// Confirmed, and still in the store as far as is known.
    confirmed: Vec<i64>,
    /// When it was found to be the one that sends.
    led_at: Option<Instant>,
}

struct Pass {
    /// Whether it was for this replica to send what there was.
    led: bool,
    confirmed: usize,
    /// At least one publish had no answer.
    unknown: bool,
}

impl Relay {
    /// Tries every row once.
    async fn pass<B: Bot>(&mut self, shared: &Arc<Shared<B>>) -> Result<Pass, StoreError> {
        let (mut after, mut result) = (0, Pass { led: true, confirmed: 0, unknown: false });
        self.forget_confirmed(shared).await?;
        loop {
            let rows = shared.store.unsent(after, BATCH).await?;
            let Some(last) = rows.last().map(|r| r.seq) else {
                return Ok(result);
            };
            after = last;
            if !self.leads(shared).await? {
                return Ok(Pass { led: false, ..result });
            }
            let now = Instant::now();
            let due: Vec<Queued> = rows.into_iter().filter(|r| self.refused.is_due(r.seq, now)).collect();
            if due.is_empty() {
                continue;
            }
            let (messages, spans): (Vec<Outgoing>, Vec<Span>) = due.iter().map(|row| begin(shared, row)).unzip();
            crash_point("relay: taken from the outbox");
            let answers = shared.bus.publish(&messages).await;
            crash_point("relay: published");
            for ((row, span), answer) in due.into_iter().zip(spans).zip(answers) {
                span.end(answer.as_ref().err().map(ToString::to_string).as_deref());
                match answer {
                    Ok(()) => {
                        self.refused.forget(row.seq);
                        self.confirmed.push(row.seq);
                        result.confirmed += 1;
                    }
                    Err(PublishError::Unknown(why)) => {
                        tracing::debug!(why, "a publish without a confirm goes out again");
                        self.refused.forget(row.seq);
                        result.unknown = true;
                    }
                    Err(why) => self.refused(shared, row, &why).await?,
                }
            }
            self.forget_confirmed(shared).await?;
        }
    }

    async fn leads<B: Bot>(&mut self, shared: &Arc<Shared<B>>) -> Result<bool, StoreError> {
        if self.led_at.is_none_or(|at| at.elapsed() >= LEAD_RENEWED) {
            let asked = Instant::now();
            let leads = shared.store.lead(LEAD, &shared.tools.instance, LEAD_LENGTH).await?;
            self.led_at = leads.then_some(asked);
        }
        Ok(self.led_at.is_some())
    }

    /// A store that is full may fail at this as well; what the broker has is not sent again for that.
    async fn forget_confirmed<B: Bot>(&mut self, shared: &Arc<Shared<B>>) -> Result<(), StoreError> {
        if !self.confirmed.is_empty() {
            shared.store.mark_sent(self.confirmed.clone()).await?;
            self.confirmed.clear();
            crash_point("relay: forgotten");
        }
        Ok(())
    }

    async fn refused<B: Bot>(
        &mut self,
        shared: &Arc<Shared<B>>,
        row: Queued,
        why: &PublishError,
    ) -> Result<(), StoreError> {
        tracing::warn!(routing_key = row.message.routing_key, "not taken: {why}");
        let limit = Duration::from_secs(shared.constraints.undeliverable_after_s);
        let for_long = self.refused.note(row.seq, Instant::now()) >= limit;
        // A dead letter has nowhere else to go.
        if !for_long || row.message.routing_key.starts_with("dead.") {
            return Ok(());
        }
        let why = format!("refused for {} s: {why}", limit.as_secs());
        let letters = undeliverable(&shared.speaker, &row.message, &why);
        shared.store.remove_outgoing(row.seq, letters).await?;
        tracing::error!(routing_key = row.message.routing_key, "given up as undeliverable: {why}");
        self.refused.forget(row.seq);
        Ok(())
    }
}

/// The message as it goes out: where spans are recorded, its trace context names the span of this publish.
fn begin<B: Bot>(shared: &Arc<Shared<B>>, row: &Queued) -> (Outgoing, Span) {
    let mut message = row.message.clone();
    let properties: Properties = serde_json::from_value(message.properties.clone()).unwrap_or_default();
    let mut cause =
        Cause { correlation_id: properties.correlation_id.clone().unwrap_or_default(), ..cause_of(&properties) };
    let about = Traced {
        exchange: &row.message.exchange,
        routing_key: &row.message.routing_key,
        queue: None,
        id: properties.message_id.as_deref(),
        event_type: properties.event_type.as_deref(),
        body_bytes: row.message.body.len(),
    };
    let span = shared.spans.published(about, &mut cause);
    if let Ok(own) = serde_json::to_value(traced(properties.clone(), &cause)) {
        message.properties = own;
    }
    (message, span)
}

/// The dead letter of what cannot be delivered, and the event that says so. A message of another that was to be tried
/// again keeps its publisher.
fn undeliverable(speaker: &Speaker, message: &Outgoing, why: &str) -> Vec<Outgoing> {
    let properties: Properties = serde_json::from_value(message.properties.clone()).unwrap_or_default();
    let envelope = Envelope::decode(&message.body).ok();
    let returned = Returned {
        body: &message.body,
        id: envelope.as_ref().map(|e| e.id.as_str()),
        event_type: envelope.as_ref().map(|e| e.event_type.as_str()),
        publisher: properties.text(PUBLISHER).unwrap_or(&speaker.slug),
        replay: properties.count(REPLAY).unwrap_or(0),
        attempt: properties.count(ATTEMPT).unwrap_or(1).max(1),
        cause: cause_of(&properties),
        properties: properties.clone(),
    };
    speaker.dead_letter(&returned, Code::Undeliverable, why, clock::now())
}

/// Rows that the broker refused: since when, and when last.
#[derive(Default)]
struct Refused(HashMap<i64, (Instant, Instant)>);

impl Refused {
    fn is_due(&self, seq: i64, now: Instant) -> bool {
        self.0.get(&seq).is_none_or(|(_, last)| now.duration_since(*last) >= REFUSED_PAUSE)
    }

    /// Refused again: for how long it has been refused without a break.
    fn note(&mut self, seq: i64, now: Instant) -> Duration {
        let (since, last) = self.0.entry(seq).or_insert((now, now));
        if now.duration_since(*last) > REFUSED_GAP_MAX {
            *since = now;
        }
        *last = now;
        now.duration_since(*since)
    }

    fn forget(&mut self, seq: i64) {
        self.0.remove(&seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the configuration, where it says nothing else.
    const REFUSED_MAX: Duration = Duration::from_secs(300);

    #[test]
    fn a_row_is_given_up_after_five_minutes_without_a_break() {
        let (mut refused, begun) = (Refused::default(), Instant::now());
        let at = |s: u64| begun + Duration::from_secs(s);
        for s in (0..300).step_by(5) {
            assert!(refused.is_due(1, at(s)));
            assert!(refused.note(1, at(s)) < REFUSED_MAX, "after {s} s");
            assert!(!refused.is_due(1, at(s + 4)) && refused.is_due(2, at(s)));
        }
        assert_eq!(refused.note(1, at(300)), REFUSED_MAX);
    }

    #[test]
    fn what_cannot_be_delivered_keeps_its_publisher() {
        let speaker = Speaker::new(&"BuildBot".parse().unwrap());
        let m = Returned { body: b"{}", publisher: "ci", replay: 2, attempt: 2, ..Returned::default() };
        let retry = speaker.retry(&m, 3, bot_messages::Tier::Sec5, 4);
        let own = speaker.say_core(
            &<bot_messages::bot::BotStarted as bot_messages::Event>::example(),
            &Cause::default(),
            clock::now(),
        );
        for (row, publisher, replay) in [(retry, "ci", Some(2)), (own.unwrap(), "build-bot", None)] {
            let letter = undeliverable(&speaker, &row, "refused").remove(0);
            let p: Properties = serde_json::from_value(letter.properties).unwrap();
            assert_eq!((p.text(PUBLISHER), p.count(REPLAY)), (Some(publisher), replay));
            assert_eq!((p.text(crate::bus::ERROR_CODE), letter.body), (Some("UNDELIVERABLE"), row.body));
        }
    }

    #[test]
    fn a_late_refusal_alone_gives_nothing_up() {
        let (mut refused, begun) = (Refused::default(), Instant::now());
        refused.note(1, begun);
        let after_an_outage = begun + REFUSED_MAX * 2;
        assert_eq!(refused.note(1, after_an_outage), Duration::ZERO);
        refused.forget(1);
        assert_eq!(refused.note(1, after_an_outage + REFUSED_PAUSE), Duration::ZERO);
    }
}
