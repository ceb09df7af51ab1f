//! Properties and headers as we use them. Every message that leaves is built from this allow-list, so x-death, CC, BCC,
//! expiration and another's user_id never travel on.
use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) const CAUSATION_ID: &str = "x-lota-causation-id";
pub(crate) const SCHEMA: &str = "x-lota-schema";
pub(crate) const ATTEMPT: &str = "x-lota-attempt";
pub(crate) const HOP: &str = "x-lota-hop";
pub(crate) const PUBLISHER: &str = "x-lota-publisher";
pub(crate) const REPLAY: &str = "x-lota-replay";
/// Unix seconds; only what came back through a retry queue is believed.
pub(crate) const NOT_BEFORE: &str = "x-lota-not-before";
pub(crate) const ERROR_CODE: &str = "x-lota-error-code";
pub(crate) const ERROR_MESSAGE: &str = "x-lota-error-message";
pub(crate) const ERROR_BOT: &str = "x-lota-error-bot";
pub(crate) const ERROR_ATTEMPTS: &str = "x-lota-error-attempts";
pub(crate) const ERROR_TIME: &str = "x-lota-error-time";
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

const ALLOWED: [&str; 14] = [
    CAUSATION_ID,
    SCHEMA,
    ATTEMPT,
    HOP,
    PUBLISHER,
    REPLAY,
    NOT_BEFORE,
    ERROR_CODE,
    ERROR_MESSAGE,
    ERROR_BOT,
    ERROR_ATTEMPTS,
    ERROR_TIME,
    TRACEPARENT,
    TRACESTATE,
];
/// All headers together; more are not read.
pub(crate) const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// What travels beside a body.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Properties {
    /// `message_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// `correlation_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// `app_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    /// `timestamp`, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_s: Option<u64>,
    /// Only names of the allow-list; strings and integers.
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
}

impl Properties {
    /// Sets a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    /// Says which message led to this one.
    #[must_use]
    pub fn caused_by(self, id: &str) -> Self {
        self.header(CAUSATION_ID, id)
    }

    /// A header as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(Value::as_str)
    }

    /// A header as a count; text that reads as one is taken too, since clients differ.
    pub fn count(&self, name: &str) -> Option<u32> {
        match self.headers.get(name)? {
            Value::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()),
            Value::String(s) => s.parse().ok(),
            _ => None,
        }
    }

    /// What a delivery carries, cut to the allow-list. `Err` gives the size of headers that are too large.
    pub(crate) fn read(properties: &BasicProperties) -> Result<Self, usize> {
        let (read, bytes) = Self::measured(properties);
        if bytes > HEADERS_BYTES_MAX { Err(bytes) } else { Ok(read) }
    }

    /// The same, however large the other headers are.
    pub(crate) fn allowed(properties: &BasicProperties) -> Self {
        Self::measured(properties).0
    }

    fn measured(properties: &BasicProperties) -> (Self, usize) {
        let short = |s: &Option<lapin::types::ShortString>| s.as_ref().map(|s| s.as_str().to_owned());
        let mut out = Self {
            message_id: short(properties.message_id()),
            correlation_id: short(properties.correlation_id()),
            event_type: short(properties.kind()),
            app_id: short(properties.app_id()),
            timestamp_s: *properties.timestamp(),
            headers: BTreeMap::new(),
        };
        let Some(table) = properties.headers() else {
            return (out, 0);
        };
        let mut bytes = 0;
        for (name, value) in table.inner() {
            bytes += name.as_str().len() + size(value);
            if ALLOWED.contains(&name.as_str())
                && let Some(value) = plain(value)
            {
                out.headers.insert(name.as_str().to_owned(), value);
            }
        }
        (out, bytes)
    }

    pub(crate) fn write(&self, priority: u8, persistent: bool) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in &self.headers {
            if !ALLOWED.contains(&name.as_str()) {
                continue;
            }
            let value = match value {
                Value::Number(n) => AMQPValue::LongLongInt(n.as_i64().unwrap_or(i64::MAX)),
                Value::String(s) => AMQPValue::LongString(s.as_str().into()),
                _ => continue,
            };
            table.insert(name.as_str().into(), value);
        }
        let mut p = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(if persistent { 2 } else { 1 })
            .with_priority(priority)
            .with_headers(table);
        // Short strings hold 255 bytes; ids are at most 128.
        let fits = |s: &Option<String>| s.clone().filter(|s| s.len() <= 255);
        if let Some(s) = fits(&self.message_id) {
            p = p.with_message_id(s.into());
        }
        if let Some(s) = fits(&self.correlation_id) {
            p = p.with_correlation_id(s.into());
        }
        if let Some(s) = fits(&self.event_type) {
            p = p.with_type(s.into());
        }
        if let Some(s) = fits(&self.app_id) {
            p = p.with_app_id(s.into());
        }
        if let Some(t) = self.timestamp_s {
            p = p.with_timestamp(t);
        }
        p
    }
}

fn plain(value: &AMQPValue) -> Option<Value> {
    Some(match value {
        AMQPValue::ShortShortInt(n) => (*n).into(),
        AMQPValue::ShortShortUInt(n) => (*n).into(),
        AMQPValue::ShortInt(n) => (*n).into(),
        AMQPValue::ShortUInt(n) => (*n).into(),
        AMQPValue::LongInt(n) => (*n).into(),
        AMQPValue::LongUInt(n) => (*n).into(),
        AMQPValue::LongLongInt(n) => (*n).into(),
        AMQPValue::ShortString(s) => s.as_str().into(),
        AMQPValue::LongString(s) => String::from_utf8_lossy(s.as_bytes()).into(),
        _ => return None,
    })
}

/// About how many bytes a header value takes.
fn size(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(s) => s.len(),
        AMQPValue::ShortString(s) => s.as_str().len(),
        AMQPValue::ByteArray(b) => b.len(),
        AMQPValue::FieldArray(a) => a.as_slice().iter().map(size).sum(),
        AMQPValue::FieldTable(t) => t.inner().iter().map(|(k, v)| k.as_str().len() + size(v)).sum(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_allow_list_travels_on() {
        let mut table = FieldTable::default();
        for name in ["x-death", "CC", "BCC", "x-lota-hop", "x-first-death-queue"] {
            table.insert(name.into(), AMQPValue::LongString("5".into()));
        }
        let properties =
            BasicProperties::default().with_headers(table).with_expiration("10".into()).with_user_id("x".into());
        let read = Properties::read(&properties).unwrap();
        assert_eq!((read.headers.len(), read.count(HOP)), (1, Some(5)));
        let written = read.write(4, true);
        assert!(written.expiration().is_none() && written.user_id().is_none());
        assert_eq!(written.headers().as_ref().unwrap().inner().len(), 1);
    }

    #[test]
    fn huge_headers_are_refused() {
        let mut table = FieldTable::default();
        table.insert("x-other".into(), AMQPValue::LongString("x".repeat(HEADERS_BYTES_MAX + 1).into()));
        assert!(Properties::read(&BasicProperties::default().with_headers(table)).is_err());
    }
}
