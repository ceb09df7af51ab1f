//! One delivery: read, checked, handled, committed, acknowledged. Whatever happens, it ends in one of five outcomes.
use std::{
    panic::AssertUnwindSafe,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bot_messages::{
    Code,
    bot::BotFailed,
    telemetry::{Outcome as Settled, RecordKind},
};
use bot_store::{Commit, Committed, InboxKey, InboxMark, StoreError};
use chrono::{DateTime, TimeDelta, Utc};

use super::{
    attempts::{NextOfMessage, after_message},
    entity::{self, Handled, panic_text},
    letters::Letter,
    origin::{Origin, Refused, check, origin},
    outgoing::Returned,
    rate,
    relief::MESSAGES,
    shared::Shared,
};
use crate::{
    bus::{
        ATTEMPT, CAUSATION_ID, Delivery, HEADERS_BYTES_MAX, HOP, NOT_BEFORE, Properties, SCHEMA, TRACEPARENT,
        TRACESTATE,
    },
    clock, config,
    contract::Bot,
    crash::crash_point,
    effects::Fail,
    envelope::Envelope,
    hash,
    meta::{Cause, Meta},
    trace::{Span, Traced},
};

/// The loop guard.
const HOPS_MAX: u32 = 32;
/// How long the inbox remembers; an older message could be handled twice.
pub(crate) const INBOX_DAYS: i64 = 30;
/// A handler that loses every race that often is given back to the broker.
const STALE_MAX: u32 = 50;
/// Deliveries of one body that ended the process before one is put aside.
pub(crate) const CRASHES_MAX: u32 = 3;

/// A delivery that was read and may be believed.
pub(crate) struct Message {
    pub(crate) envelope: Envelope,
    pub(crate) origin: Origin,
    pub(crate) attempt: u32,
    pub(crate) cause: Cause,
    pub(crate) key: String,
    /// It has to wait for a minute with room; then it is about no entity yet.
    pub(crate) not_before: Option<DateTime<Utc>>,
    content_hash: String,
}

/// How it ended, for people.
pub(crate) struct Verdict {
    settled: Settled,
    why: Option<String>,
    /// It was not one of its attempts.
    uncounted: bool,
}

pub(super) fn verdict(settled: Settled, why: impl Into<Option<String>>) -> Verdict {
    Verdict { settled, why: why.into(), uncounted: false }
}

impl<B: Bot> Shared<B> {
    /// Reads a delivery. Pure but for the clock.
    pub(crate) fn read(&self, delivery: &Delivery) -> Result<Message, Box<Letter>> {
        let properties = match &delivery.properties {
            Ok(properties) => properties,
            Err(bytes) => {
                let why = format!("the headers have {bytes} bytes: at most {HEADERS_BYTES_MAX} are read");
                return Err(self.letter(delivery, Code::MessageTooLarge, why));
            }
        };
        let origin = self.origin(delivery, properties).map_err(|r| self.letter(delivery, r.code, r.message))?;
        let envelope = Envelope::decode(&delivery.body).map_err(|e| {
            let mut letter = self.letter(delivery, e.code, e.to_string());
            (letter.id, letter.event_type) = (e.id, e.event_type);
            letter
        })?;
        let cause = Cause {
            correlation_id: envelope.correlation_id.clone().unwrap_or_else(|| envelope.id.clone()),
            causation_id: envelope.id.clone(),
            ..cause_of(properties)
        };
        let refuse = |code, why: String| self.decoded_letter(delivery, &envelope, &cause, code, why);
        check(&origin, &delivery.routing_key, &envelope, &self.contract).map_err(|r| refuse(r.code, r.message))?;
        let key = self.readable(&envelope, properties, &cause).map_err(|(code, why)| refuse(code, why))?;
        Ok(Message {
            attempt: attempt(&origin, properties),
            not_before: not_before(&origin, properties),
            content_hash: hash::full(&[envelope.event_type.as_bytes(), envelope.data.to_string().as_bytes()]),
            envelope,
            origin,
            cause,
            key,
        })
    }

    pub(super) fn origin(&self, delivery: &Delivery, properties: &Properties) -> Result<Origin, Refused> {
        origin(&delivery.exchange, &delivery.routing_key, properties, &self.speaker.slug, &self.operator)
    }

    /// Whether this bot can make something of it; the entity it is about.
    fn readable(&self, envelope: &Envelope, properties: &Properties, cause: &Cause) -> Result<String, (Code, String)> {
        if cause.hop > HOPS_MAX {
            let why = format!(
                "{} messages led here: at most {HOPS_MAX} may; two triggers seem to feed each other",
                cause.hop
            );
            return Err((Code::HopLimit, why));
        }
        if clock::now() - envelope.timestamp > TimeDelta::days(INBOX_DAYS) {
            let why = format!(
                "it is of {}: the inbox remembers {INBOX_DAYS} days; send it anew if it still matters",
                envelope.timestamp
            );
            return Err((Code::Expired, why));
        }
        let event_type = &envelope.event_type;
        let heard = self.handlers.get(event_type.as_str()).ok_or_else(|| {
            (
                Code::UnknownType,
                format!(
                    "{} does not hear {event_type}: it hears {}",
                    self.contract.name,
                    self.contract.hears.join(", ")
                ),
            )
        })?;
        let version = properties.count(SCHEMA).unwrap_or(1);
        if version > heard.schema_version {
            let why = format!(
                "{event_type} came in schema version {version}: {} reads up to {}; update it",
                self.contract.name, heard.schema_version
            );
            return Err((Code::UnsupportedSchema, why));
        }
        let key = AssertUnwindSafe(|| (heard.key)(&self.bot, &envelope.data));
        std::panic::catch_unwind(key)
            .map_err(|panic| {
                let why = format!("finding what {event_type} is about panicked: {}", panic_text(panic.as_ref()));
                (Code::UnknownError, why)
            })?
            .map_err(|why| (Code::InvalidField, why))
    }

    /// Handles a delivery to its end. `Err`: the store cannot be written; the delivery is given back.
    pub(crate) async fn settle(
        &self,
        delivery: &Delivery,
        read: Result<Message, Box<Letter>>,
    ) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.figures.in_flight.fetch_add(1, Ordering::Relaxed);
        let (mut cause, id, event_type) = match &read {
            Ok(m) => (m.cause.clone(), Some(m.envelope.id.clone()), Some(m.envelope.event_type.clone())),
            Err(l) => (l.cause.clone(), l.id.clone(), l.event_type.clone()),
        };
        let mut span = self.begin_span(delivery, id.as_deref(), event_type.as_deref(), &mut cause);
        crash_point("inbox: read");
        let done = match read {
            Ok(message) => self.handle(delivery, &Message { cause: cause.clone(), ..message }).await,
            Err(letter) => self.bury_unread(delivery, &Letter { cause: cause.clone(), ..*letter }).await,
        };
        self.figures.in_flight.fetch_sub(1, Ordering::Relaxed);
        let done = match done {
            Ok(done) => done,
            Err(e) => {
                tracing::warn!(message_id = id.as_deref(), "given back: {e}");
                self.store_failed(&e);
                delivery.give_back().await;
                span.end(Some("given back"));
                return Err(e);
            }
        };
        if !delivery.ack().await {
            self.figures.stale_acks.fetch_add(1, Ordering::Relaxed);
        }
        crash_point("inbox: acknowledged");
        let failed = matches!(done.settled, Settled::Retried | Settled::DeadLettered);
        let took = begun.elapsed();
        self.figures.settled(took, failed, Instant::now());
        let why = done.why.unwrap_or_default();
        span.outcome(&word(done.settled));
        span.end(failed.then_some(why.as_str()));
        tracing::info!(
            message_id = id.as_deref(), correlation_id = %cause.correlation_id, event_type, outcome = ?done.settled, why, took_us = took.as_micros() as u64,
            "settled"
        );
        let mut record = self.record(if failed { "warn" } else { "info" }, RecordKind::Handled, why);
        record.correlation_id = Some(cause.correlation_id).filter(|c| !c.is_empty());
        record.message_id = id;
        record.outcome = Some(done.settled);
        record.duration_us = u64::try_from(took.as_micros()).ok();
        self.send_record(&record);
        Ok(())
    }

    fn begin_span(&self, d: &Delivery, id: Option<&str>, event_type: Option<&str>, cause: &mut Cause) -> Span {
        let (exchange, routing_key, body_bytes) = (d.exchange.as_str(), d.routing_key.as_str(), d.body.len());
        let queue = bot_messages::keys::work(&self.speaker.slug);
        self.spans.handled(Traced { exchange, routing_key, queue: Some(&queue), id, event_type, body_bytes }, cause)
    }

    async fn handle(&self, delivery: &Delivery, m: &Message) -> Result<Verdict, StoreError> {
        let inbox_key =
            InboxKey { publisher: m.origin.publisher.clone(), id: m.envelope.id.clone(), replay: m.origin.replay };
        if let Some(known) = self.store.inbox(&inbox_key).await? {
            if known.content_hash != m.content_hash {
                return self.conflict(delivery, m).await;
            }
            if known.settled || known.attempt > m.attempt {
                return Ok(verdict(Settled::Duplicate, "handled before".to_owned()));
            }
        }
        for _ in 0..STALE_MAX {
            let now = clock::now();
            let (mut commit, done) = self.decide(delivery, m, now).await?;
            let settled = done.settled != Settled::Retried;
            commit.inbox = Some(InboxMark {
                key: inbox_key.clone(),
                content_hash: m.content_hash.clone(),
                attempt: m.attempt,
                settled,
                counts: !done.uncounted,
            });
            crash_point("inbox: handled");
            match self.commit(commit).await? {
                Committed::Done => {
                    crash_point("inbox: committed");
                    return Ok(done);
                }
                Committed::Stale => {}
                Committed::Duplicate | Committed::OldAttempt | Committed::Fenced | Committed::StepDone => {
                    return Ok(verdict(Settled::Duplicate, "handled meanwhile".to_owned()));
                }
                Committed::Conflict => return self.conflict(delivery, m).await,
            }
        }
        Err(StoreError::Directory {
            dir: m.key.clone(),
            why: format!("the state of this entity changed {STALE_MAX} times while it was handled"),
        })
    }

    /// Runs the handler; what is to be committed, and how it ends.
    async fn decide(
        &self,
        delivery: &Delivery,
        m: &Message,
        now: DateTime<Utc>,
    ) -> Result<(Commit, Verdict), StoreError> {
        let mut commit = Commit::default();
        let event_type = m.envelope.event_type.as_str();
        if let Some(time) = m.not_before {
            return Ok(self.put_off(delivery, m, time, now, commit));
        }
        if !config::is_triggered(&self.triggers, event_type) {
            let why = format!("no trigger of its configuration fits {event_type}");
            return Ok((commit, verdict(Settled::Ignored, why)));
        }
        let Some(heard) = self.handlers.get(event_type) else {
            return Ok((commit, verdict(Settled::Ignored, format!("{event_type} is not heard"))));
        };
        let meta = Meta {
            id: m.envelope.id.clone(),
            publisher: m.origin.publisher.clone(),
            correlation_id: m.cause.correlation_id.clone(),
            priority: m.envelope.priority,
            attempt: m.attempt,
            now,
        };
        let run = |state: &mut B::State| (heard.handle)(&self.bot, state, &meta, m.envelope.data.clone());
        let (outcome, state) = match entity::handle::<B>(&self.store, &m.key, run).await? {
            Handled::Ran { outcome, state } => (outcome, state),
            Handled::Unreadable(why) => (Err(Fail::reject(Code::UnsupportedSchema, anyhow::anyhow!(why))), None),
        };
        let held = self.note_outcome(MESSAGES, outcome.as_ref().err());
        let fail = match outcome {
            Ok(effects) => {
                let acted = !effects.list.is_empty() || state.is_some();
                let note = effects.note.clone();
                match self.speaker.write(effects.list, &m.cause, now, &mut commit) {
                    Ok(()) => {
                        commit.state = state;
                        return Ok((commit, verdict(if acted { Settled::Acted } else { Settled::Ignored }, note)));
                    }
                    Err(why) => Fail::reject(Code::Rejected, anyhow::anyhow!(why)),
                }
            }
            Err(fail) => fail,
        };
        let mut commit = Commit::default();
        let next = after_message(m.attempt, &self.constraints.retry_policy, &fail, held);
        let done = self.follow(delivery, m, next, now, &mut commit);
        Ok((commit, done))
    }

    /// Has a message wait for its minute. It is not one of its attempts.
    fn put_off(
        &self,
        delivery: &Delivery,
        m: &Message,
        time: DateTime<Utc>,
        now: DateTime<Utc>,
        mut commit: Commit,
    ) -> (Commit, Verdict) {
        let tier = rate::tier((time - now).to_std().unwrap_or_default());
        let priority = m.envelope.priority.amqp();
        commit.outbox.push(self.speaker.put_off(&Self::returned(delivery, m), time, tier, priority));
        let why = format!("not before {time}: {} says more than is handled in a minute", m.origin.publisher);
        (commit, Verdict { uncounted: true, ..verdict(Settled::Retried, why) })
    }

    fn follow(
        &self,
        delivery: &Delivery,
        m: &Message,
        next: NextOfMessage,
        now: DateTime<Utc>,
        commit: &mut Commit,
    ) -> Verdict {
        let returned = Self::returned(delivery, m);
        match next {
            NextOfMessage::Again { attempt, tier, counts, why } => {
                commit.outbox.push(self.speaker.retry(&returned, attempt, tier, m.envelope.priority.amqp()));
                Verdict { uncounted: !counts, ..verdict(Settled::Retried, why) }
            }
            NextOfMessage::Bury { code, why } => {
                commit.outbox.extend(self.speaker.dead_letter(&returned, code, &why, now));
                verdict(Settled::DeadLettered, format!("{}: {why}", code.as_str()))
            }
        }
    }

    pub(super) fn returned<'a>(delivery: &'a Delivery, m: &'a Message) -> Returned<'a> {
        Returned {
            body: &delivery.body,
            id: Some(&m.envelope.id),
            event_type: Some(&m.envelope.event_type),
            properties: delivery.properties.clone().unwrap_or_default(),
            publisher: &m.origin.publisher,
            replay: m.origin.replay,
            attempt: m.attempt,
            cause: m.cause.clone(),
        }
    }

    /// Tells that the bot cannot go on, as far as it can be told.
    pub(crate) async fn announce_failure(&self, why: &str) {
        let failed = BotFailed {
            bot: self.contract.name.to_string(),
            instance: self.tools.instance.clone(),
            error: bot_messages::SafeError::new(Code::UnknownError, why, clock::now()),
        };
        let said = self.speaker.say_core(&failed, &Cause::default(), clock::now());
        let _ = tokio::time::timeout(Duration::from_secs(2), self.announce(said)).await;
    }
}

/// Whose exchange it is, as far as that says something.
pub(crate) fn proven_publisher(exchange: &str) -> &str {
    exchange.strip_prefix(bot_messages::keys::EGRESS_PREFIX).unwrap_or("unknown")
}

/// As on the log stream.
fn word(settled: Settled) -> String {
    serde_json::to_value(settled).ok().and_then(|v| v.as_str().map(ToOwned::to_owned)).unwrap_or_default()
}

/// Which attempt it is: only what came back through a queue of ours says so.
pub(super) fn attempt(origin: &Origin, properties: &Properties) -> u32 {
    if origin.returned { properties.count(ATTEMPT).unwrap_or(1).max(1) } else { 1 }
}

/// Until when it has to wait, likewise.
fn not_before(origin: &Origin, properties: &Properties) -> Option<DateTime<Utc>> {
    let seconds = properties.count(NOT_BEFORE).filter(|_| origin.returned)?;
    DateTime::from_timestamp(seconds.into(), 0).filter(|time| *time > clock::now())
}

pub(crate) fn cause_of(properties: &Properties) -> Cause {
    Cause {
        correlation_id: properties.correlation_id.clone().unwrap_or_default(),
        causation_id: properties.text(CAUSATION_ID).unwrap_or_default().to_owned(),
        hop: properties.count(HOP).unwrap_or(0),
        traceparent: properties.text(TRACEPARENT).map(ToOwned::to_owned),
        tracestate: properties.text(TRACESTATE).map(ToOwned::to_owned),
    }
}
