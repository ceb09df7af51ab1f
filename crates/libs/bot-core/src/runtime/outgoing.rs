//! From effects to rows of the store: messages with their headers, retries, dead letters, jobs, timers. Pure but for ids and the time of a log record.
use bot_messages::{
    BotName, Code, Event, ObjectRef, Tier, keys,
    message::MessageDeadLettered,
    telemetry::{Heartbeat, LogRecord, RecordKind},
};
use bot_store::{Commit, NewJob, NewTimer, Outgoing};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    bus::{
        ATTEMPT, CAUSATION_ID, ERROR_ATTEMPTS, ERROR_BOT, ERROR_CODE, ERROR_MESSAGE, ERROR_TIME, HOP, NOT_BEFORE,
        PUBLISHER, Properties, REPLAY, SCHEMA, TRACEPARENT, TRACESTATE,
    },
    effects::{Effect, Effects},
    envelope::{BODY_BYTES_MAX, Destination, Envelope},
    guard,
    meta::Cause,
};

/// Who speaks.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    pub(crate) name: BotName,
    pub(crate) slug: String,
    pub(crate) egress: String,
}

/// What is known of a message that goes to a retry queue or among the dead letters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Returned<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) id: Option<&'a str>,
    pub(crate) event_type: Option<&'a str>,
    pub(crate) properties: Properties,
    pub(crate) publisher: &'a str,
    pub(crate) replay: u32,
    pub(crate) attempt: u32,
    pub(crate) cause: Cause,
}

impl Speaker {
    pub(crate) fn new(name: &BotName) -> Self {
        let slug = name.slug();
        Self { name: name.clone(), egress: keys::egress(&slug), slug }
    }

    /// Writes effects into a commit. `Err`: what was said is too large to be sent.
    pub(crate) fn write(
        &self,
        effects: Vec<Effect>,
        cause: &Cause,
        now: DateTime<Utc>,
        commit: &mut Commit,
    ) -> Result<(), String> {
        let meta = serde_json::to_value(cause).unwrap_or(Value::Null);
        for effect in effects {
            match effect {
                Effect::Say { event_type, data, priority, to, schema_version } => {
                    let to = to.map(|t| t.parse::<BotName>().map_err(|e| e.to_string())).transpose()?;
                    commit.outbox.push(self.say(event_type, data, priority, to, schema_version, cause, now)?);
                }
                Effect::Start { kind, key, exclusive, weight, payload } => commit.jobs.push(NewJob {
                    id: Uuid::now_v7().to_string(),
                    kind: kind.to_owned(),
                    key,
                    exclusive,
                    weight,
                    payload,
                    meta: meta.clone(),
                }),
                Effect::SetTimer { name, key, after, data } => {
                    commit.set_timers.push(NewTimer { name, key, after, data, meta: meta.clone() });
                }
                Effect::ClearTimer { name } => commit.clear_timers.push(name),
                Effect::WakeTimer { name } => commit.wake_timers.push(name),
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one effect")]
    fn say(
        &self,
        event_type: &str,
        mut data: Value,
        priority: bot_messages::Priority,
        to: Option<BotName>,
        schema_version: u32,
        cause: &Cause,
        now: DateTime<Utc>,
    ) -> Result<Outgoing, String> {
        let id = Uuid::now_v7().to_string();
        let correlation_id = if cause.correlation_id.is_empty() { id.clone() } else { cause.correlation_id.clone() };
        guard::clean_document(&mut data);
        let routing_key = match &to {
            Some(bot) => keys::command(&bot.slug(), event_type),
            None => event_type.to_owned(),
        };
        let envelope = Envelope {
            id: id.clone(),
            timestamp: now,
            source: self.name.clone(),
            destination: to.map_or(Destination::Everyone, Destination::Bot),
            event_type: event_type.to_owned(),
            data,
            priority,
            correlation_id: Some(correlation_id.clone()),
        };
        let body = envelope.encode();
        if body.len() > BODY_BYTES_MAX {
            let object = std::any::type_name::<ObjectRef>().rsplit("::").next().unwrap_or_default();
            return Err(format!(
                "{event_type} would have {} bytes: at most {BODY_BYTES_MAX} are sent; store large parts and refer to them by {object}",
                body.len()
            ));
        }
        let mut properties = self.properties(&id, event_type, now);
        properties.correlation_id = Some(correlation_id);
        properties = properties.header(SCHEMA, schema_version).header(HOP, cause.hop.saturating_add(1));
        if !cause.causation_id.is_empty() {
            properties = properties.header(CAUSATION_ID, cause.causation_id.as_str());
        }
        let properties = traced(properties, cause);
        Ok(self.row(self.egress.clone(), routing_key, body, &properties, priority.amqp()))
    }

    fn properties(&self, id: &str, event_type: &str, now: DateTime<Utc>) -> Properties {
        Properties {
            message_id: Some(id.to_owned()),
            event_type: Some(event_type.to_owned()),
            app_id: Some(self.name.to_string()),
            timestamp_s: u64::try_from(now.timestamp()).ok(),
            ..Properties::default()
        }
    }

    #[expect(clippy::unused_self, reason = "reads as what it is at the call")]
    fn row(
        &self,
        exchange: String,
        routing_key: String,
        body: Vec<u8>,
        properties: &Properties,
        priority: u8,
    ) -> Outgoing {
        Outgoing {
            exchange,
            routing_key,
            body,
            properties: serde_json::to_value(properties).unwrap_or(Value::Null),
            priority,
        }
    }

    /// The same message to a retry queue, for its next attempt.
    pub(crate) fn retry(&self, m: &Returned<'_>, next_attempt: u32, tier: Tier, priority: u8) -> Outgoing {
        let properties = self.copied(m).header(ATTEMPT, next_attempt);
        self.row(self.egress.clone(), keys::retry(&self.slug, tier), m.body.to_vec(), &properties, priority)
    }

    /// The same message to a retry queue, for the same attempt, which is not to begin before `time`.
    pub(crate) fn put_off(&self, m: &Returned<'_>, time: DateTime<Utc>, tier: Tier, priority: u8) -> Outgoing {
        let properties = self.copied(m).header(ATTEMPT, m.attempt).header(NOT_BEFORE, time.timestamp());
        self.row(self.egress.clone(), keys::retry(&self.slug, tier), m.body.to_vec(), &properties, priority)
    }

    /// The same message to the dead letters, with the reason; and the event that says so. None says so of an event of that
    /// kind: who hears them would hear its own for ever.
    pub(crate) fn dead_letter(&self, m: &Returned<'_>, code: Code, why: &str, now: DateTime<Utc>) -> Vec<Outgoing> {
        let why: String = guard::clean(why).chars().take(1000).collect();
        let properties = self
            .copied(m)
            .header(ATTEMPT, m.attempt)
            .header(ERROR_CODE, code.as_str())
            .header(ERROR_MESSAGE, why.as_str())
            .header(ERROR_BOT, self.name.as_str())
            .header(ERROR_ATTEMPTS, m.attempt)
            .header(ERROR_TIME, now.to_rfc3339_opts(SecondsFormat::Millis, true));
        let letter = self.row(self.egress.clone(), keys::dead(&self.slug), m.body.to_vec(), &properties, 4);
        if m.event_type == Some(MessageDeadLettered::TYPE) {
            return vec![letter];
        }
        let event = MessageDeadLettered {
            bot: self.name.to_string(),
            message_id: m.id.map(ToOwned::to_owned),
            message_type: m.event_type.map(ToOwned::to_owned),
            publisher: m.publisher.to_owned(),
            code,
            error: why,
            attempts: m.attempt,
        };
        let data = serde_json::to_value(&event).unwrap_or(Value::Null);
        let said = self.say(MessageDeadLettered::TYPE, data, MessageDeadLettered::PRIORITY, None, 1, &m.cause, now);
        // It cannot be too large, as all its parts are bounded; and the letter alone would still keep the message.
        [letter].into_iter().chain(said.ok()).collect()
    }

    fn copied(&self, m: &Returned<'_>) -> Properties {
        let mut properties = m.properties.clone();
        // A publisher could have written one: it would make another message of the next attempt.
        properties.headers.remove(REPLAY);
        properties.headers.remove(NOT_BEFORE);
        properties.app_id = Some(self.name.to_string());
        if properties.message_id.is_none() {
            properties.message_id = m.id.map(ToOwned::to_owned);
        }
        let properties = traced(properties, &m.cause).header(PUBLISHER, m.publisher);
        if m.replay > 0 { properties.header(REPLAY, m.replay) } else { properties }
    }

    /// What the core itself says of its bot.
    pub(crate) fn say_core<E: Event>(&self, event: &E, cause: &Cause, now: DateTime<Utc>) -> Option<Outgoing> {
        let mut commit = Commit::default();
        let effects = Effects::<NoBot>::none_core().say_core(event);
        self.write(effects.list, cause, now, &mut commit).ok()?;
        commit.outbox.pop()
    }

    /// A record for the log stream, to be filled in.
    pub(crate) fn record(&self, instance: &str, level: &str, kind: RecordKind, message: String) -> LogRecord {
        LogRecord {
            bot: self.name.to_string(),
            instance: instance.to_owned(),
            timestamp: crate::clock::now(),
            level: level.to_owned(),
            kind,
            message,
            correlation_id: None,
            message_id: None,
            job_id: None,
            line: None,
            outcome: None,
            percent: None,
            duration_us: None,
        }
    }

    /// A record on the log stream.
    pub(crate) fn log(&self, record: &LogRecord) -> Outgoing {
        let body = light(record);
        self.row(self.egress.clone(), keys::log(&self.slug, &record.level), body, &Properties::default(), 1)
    }

    /// A heartbeat.
    pub(crate) fn health(&self, instance: &str, heartbeat: &Heartbeat) -> Outgoing {
        let body = light(heartbeat);
        self.row(self.egress.clone(), keys::health(&self.slug, instance), body, &Properties::default(), 1)
    }
}

/// The body of a record that may be lost.
fn light(record: &impl serde::Serialize) -> Vec<u8> {
    let mut record = serde_json::to_value(record).unwrap_or(Value::Null);
    guard::clean_document(&mut record);
    record.to_string().into_bytes()
}

/// Stands where effects of the core need a type.
pub(crate) struct NoBot;

/// With the trace context of `cause` in the place of its own.
pub(crate) fn traced(mut properties: Properties, cause: &Cause) -> Properties {
    if let Some(parent) = &cause.traceparent {
        properties.headers.remove(TRACESTATE);
        properties = properties.header(TRACEPARENT, parent.as_str());
        if let Some(state) = &cause.tracestate {
            properties = properties.header(TRACESTATE, state.as_str());
        }
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;
    use bot_messages::bot::BotStarted;

    fn speaker() -> Speaker {
        Speaker::new(&"BuildBot".parse().unwrap())
    }

    fn time() -> DateTime<Utc> {
        DateTime::from_timestamp(1_793_534_400, 0).unwrap()
    }

    #[test]
    fn what_is_said_carries_its_cause() {
        let cause = Cause {
            correlation_id: "c".into(),
            causation_id: "m".into(),
            hop: 3,
            traceparent: Some("00-a-b-01".into()),
            tracestate: None,
        };
        let out = speaker().say_core(&BotStarted::example(), &cause, time()).unwrap();
        let p: Properties = serde_json::from_value(out.properties).unwrap();
        assert_eq!((p.count(HOP), p.text(CAUSATION_ID), p.correlation_id.as_deref()), (Some(4), Some("m"), Some("c")));
        assert_eq!(p.text(TRACEPARENT), Some("00-a-b-01"));
        let body = Envelope::decode(&out.body).unwrap();
        assert_eq!((body.correlation_id.as_deref(), p.message_id.as_deref()), (Some("c"), Some(body.id.as_str())));
        assert_eq!((out.exchange.as_str(), out.routing_key.as_str()), ("lota.egress.build-bot", "bot.started"));
    }

    #[test]
    fn without_a_cause_a_message_is_its_own_correlation() {
        let out = speaker().say_core(&BotStarted::example(), &Cause::default(), time()).unwrap();
        let body = Envelope::decode(&out.body).unwrap();
        assert_eq!(body.correlation_id.as_deref(), Some(body.id.as_str()));
    }

    #[test]
    fn a_dead_letter_keeps_the_bytes_and_says_why() {
        let m = Returned { body: b"\xff{", publisher: "ci", attempt: 1, ..Returned::default() };
        let [letter, said] = &speaker().dead_letter(&m, Code::InvalidJson, "not JSON", time())[..] else {
            panic!("a letter and an event")
        };
        let p: Properties = serde_json::from_value(letter.properties.clone()).unwrap();
        assert_eq!((letter.body.as_slice(), letter.routing_key.as_str()), (b"\xff{".as_slice(), "dead.build-bot"));
        assert_eq!(
            (p.text(ERROR_CODE), p.text(PUBLISHER), p.text(ERROR_BOT)),
            (Some("INVALID_JSON"), Some("ci"), Some("BuildBot"))
        );
        assert_eq!(said.routing_key, "message.dead_lettered");
    }

    #[test]
    fn nobody_is_told_of_a_dead_letter_about_a_dead_letter() {
        let m = Returned { event_type: Some(MessageDeadLettered::TYPE), body: b"{}", ..Returned::default() };
        let out = speaker().dead_letter(&m, Code::HopLimit, "too many", time());
        assert_eq!(out.iter().map(|o| o.routing_key.as_str()).collect::<Vec<_>>(), ["dead.build-bot"]);
    }

    #[test]
    fn a_retry_goes_to_its_tier_with_the_next_attempt() {
        let m = Returned { body: b"{}", publisher: "ci", replay: 2, attempt: 1, ..Returned::default() };
        let out = speaker().retry(&m, 2, Tier::Sec30, 8);
        let p: Properties = serde_json::from_value(out.properties).unwrap();
        assert_eq!(
            (out.routing_key.as_str(), p.count(ATTEMPT), p.count(REPLAY)),
            ("retry.build-bot.30s", Some(2), Some(2))
        );
    }

    #[test]
    fn which_replay_it_is_is_not_the_publishers_word() {
        let properties = Properties::default().header(REPLAY, 7);
        let m = Returned { body: b"{}", publisher: "ci", properties, ..Returned::default() };
        let out = speaker().retry(&m, 2, Tier::Sec30, 8);
        assert_eq!(serde_json::from_value::<Properties>(out.properties).unwrap().count(REPLAY), None);
    }

    #[test]
    fn what_is_too_large_is_not_sent() {
        let effect = Effect::Say {
            event_type: "build.failed",
            data: Value::String("x".repeat(BODY_BYTES_MAX)),
            priority: bot_messages::Priority::Medium,
            to: None,
            schema_version: 1,
        };
        let error = speaker().write(vec![effect], &Cause::default(), time(), &mut Commit::default()).unwrap_err();
        assert!(error.contains("ObjectRef"), "{error}");
    }
}
