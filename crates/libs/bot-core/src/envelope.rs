//! The documented JSON object every message is, read with care: no input panics, and an error names field and code.
use bot_messages::{BotName, Code, Priority, is_event_type};
use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

/// Larger bodies are neither written nor read.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// The longest id and correlation id.
pub(crate) const ID_BYTES_MAX: usize = 128;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// The same over retries.
    pub id: String,
    /// When it was said.
    pub timestamp: DateTime<Utc>,
    /// Who said it.
    pub source: BotName,
    /// Who is asked, or `*`.
    pub destination: Destination,
    /// Such as `build.completed`.
    pub event_type: String,
    /// `payload.data`.
    pub data: Value,
    /// How urgent.
    pub priority: Priority,
    /// Common to all that follows from one cause.
    pub correlation_id: Option<String>,
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `*`: an event, for whoever hears it.
    Everyone,
    /// A command to one bot.
    Bot(BotName),
}

impl Destination {
    /// As on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Everyone => "*",
            Self::Bot(name) => name.as_str(),
        }
    }
}

/// A body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", if field.is_empty() { String::new() } else { format!("`{field}`: ") })]
pub struct DecodeError {
    /// For programs.
    pub code: Code,
    /// The field, as a path from the top; empty for the body as a whole.
    pub field: String,
    /// What was expected, and what came.
    pub message: String,
    /// The message's id, where that much could be read.
    pub id: Option<String>,
    /// The message's type, where that much could be read.
    pub event_type: Option<String>,
}

impl Envelope {
    /// Reads a body. Unknown members are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let whole =
            |code, message: String| DecodeError { code, field: String::new(), message, id: None, event_type: None };
        if body.len() > BODY_BYTES_MAX {
            let message = format!(
                "the body has {} bytes: at most {BODY_BYTES_MAX} are read; larger things go to the object store",
                body.len()
            );
            return Err(whole(Code::MessageTooLarge, message));
        }
        let value: Value = serde_json::from_slice(body).map_err(|e| {
            whole(Code::InvalidJson, format!("the body is not JSON: {e}; expected one object in UTF-8"))
        })?;
        let Value::Object(map) = value else {
            return Err(whole(Code::InvalidField, format!("the body is {}: expected an object", kind(&value))));
        };
        let id = map.get("id").and_then(Value::as_str).map(|s| s.chars().take(ID_BYTES_MAX).collect());
        let event_type = map.get("type").and_then(Value::as_str).map(|s| s.chars().take(100).collect());
        read(map).map_err(|(code, field, message)| DecodeError {
            code,
            field: field.to_owned(),
            message,
            id,
            event_type,
        })
    }

    /// The body as it goes out.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = json!({
            "id": self.id,
            "timestamp": self.timestamp.to_rfc3339_opts(SecondsFormat::Micros, true),
            "source": self.source.as_str(),
            "destination": self.destination.as_str(),
            "type": self.event_type,
            "payload": {"data": self.data},
            "priority": self.priority,
        });
        if let (Some(correlation_id), Some(map)) = (&self.correlation_id, body.as_object_mut()) {
            map.insert("correlation_id".to_owned(), Value::String(correlation_id.clone()));
        }
        body.to_string().into_bytes()
    }
}

type FieldError = (Code, &'static str, String);

fn read(mut map: Map<String, Value>) -> Result<Envelope, FieldError> {
    let id = text(&map, "id", ID_BYTES_MAX)?;
    let timestamp = text(&map, "timestamp", 64)?;
    let timestamp = DateTime::parse_from_rfc3339(&timestamp).map_err(|e| {
        (
            Code::InvalidField,
            "timestamp",
            format!("`{timestamp}` is no time ({e}): expected RFC 3339 such as 2026-11-01T12:00:00Z"),
        )
    })?;
    let timestamp = timestamp.with_timezone(&Utc);
    if !(0..=9999).contains(&timestamp.year()) {
        let message = format!("it is in the year {} in UTC: expected one of four digits", timestamp.year());
        return Err((Code::InvalidField, "timestamp", message));
    }
    let source: BotName = name(&map, "source")?;
    let destination = match text(&map, "destination", 64)?.as_str() {
        "*" => Destination::Everyone,
        _ => Destination::Bot(name(&map, "destination")?),
    };
    let event_type = text(&map, "type", 100)?;
    if !is_event_type(&event_type) {
        let message = format!(
            "`{event_type}` is no message type: expected lower-case words joined by dots, such as build.completed"
        );
        return Err((Code::InvalidField, "type", message));
    }
    let priority = match map.get("priority") {
        None | Some(Value::Null) => Priority::default(),
        Some(Value::String(s)) if s == "high" => Priority::High,
        Some(Value::String(s)) if s == "medium" => Priority::Medium,
        Some(Value::String(s)) if s == "low" => Priority::Low,
        Some(other) => {
            return Err((
                Code::InvalidField,
                "priority",
                format!("came as {}: expected high, medium or low", shown(other)),
            ));
        }
    };
    let correlation_id = match map.get("correlation_id") {
        None | Some(Value::Null) => None,
        Some(_) => Some(text(&map, "correlation_id", ID_BYTES_MAX)?),
    };
    let data = match map.remove("payload") {
        None | Some(Value::Null) => return Err(missing("payload")),
        Some(Value::Object(mut payload)) => payload.remove("data").ok_or_else(|| missing("payload.data"))?,
        Some(other) => {
            let message = format!("came as {}: expected an object with the member `data`", kind(&other));
            return Err((Code::InvalidField, "payload", message));
        }
    };
    Ok(Envelope { id, timestamp, source, destination, event_type, data, priority, correlation_id })
}

fn missing(field: &'static str) -> FieldError {
    (Code::MissingField, field, "is missing".to_owned())
}

fn text(map: &Map<String, Value>, field: &'static str, bytes_max: usize) -> Result<String, FieldError> {
    match map.get(field) {
        None | Some(Value::Null) => Err(missing(field)),
        Some(Value::String(s)) if s.is_empty() => Err((Code::InvalidField, field, "is empty".to_owned())),
        Some(Value::String(s)) if s.len() > bytes_max => {
            Err((Code::InvalidField, field, format!("has {} bytes: at most {bytes_max} are read", s.len())))
        }
        Some(Value::String(s)) => Ok(s.clone()),
        Some(other) => Err((Code::InvalidField, field, format!("came as {}: expected a string", kind(other)))),
    }
}

fn name(map: &Map<String, Value>, field: &'static str) -> Result<BotName, FieldError> {
    text(map, field, 64)?.parse().map_err(|e| (Code::InvalidField, field, format!("{e}")))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.len() > 40 { kind(value).to_owned() } else { format!("`{text}`") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good() -> Value {
        json!({
            "id": "m-1", "timestamp": "2026-11-01T12:00:00+01:00", "source": "ci", "destination": "*",
            "type": "repository.pushed", "payload": {"data": {"x": 1}, "extra": 2}, "priority": "high", "future": [1],
        })
    }

    fn decode(v: &Value) -> Result<Envelope, DecodeError> {
        Envelope::decode(v.to_string().as_bytes())
    }

    #[test]
    fn a_message_reads_and_writes_back_the_same() {
        let e = decode(&good()).unwrap();
        assert_eq!((e.priority, e.data.clone(), e.correlation_id.clone()), (Priority::High, json!({"x": 1}), None));
        assert_eq!(Envelope::decode(&e.encode()).unwrap(), e);
    }

    #[test]
    fn each_missing_field_is_named() {
        for field in ["id", "timestamp", "source", "destination", "type", "payload"] {
            for gone in [true, false] {
                let mut v = good();
                if gone {
                    v.as_object_mut().unwrap().remove(field);
                } else {
                    v[field] = Value::Null;
                }
                let e = decode(&v).unwrap_err();
                assert_eq!((e.code, e.field.as_str()), (Code::MissingField, field));
            }
        }
        let mut v = good();
        v["payload"] = json!({"other": 1});
        let e = decode(&v).unwrap_err();
        assert_eq!((e.code, e.field.as_str()), (Code::MissingField, "payload.data"));
        assert_eq!(e.id.as_deref(), Some("m-1"));
    }

    #[test]
    fn each_wrong_field_is_named() {
        for (field, value) in [
            ("id", json!("")),
            ("id", json!(7)),
            ("id", json!("x".repeat(129))),
            ("timestamp", json!("yesterday")),
            ("source", json!("a.b")),
            ("destination", json!("#")),
            ("type", json!("Build Completed")),
            ("payload", json!([])),
            ("priority", json!("urgent")),
            ("correlation_id", json!({})),
        ] {
            let mut v = good();
            v[field] = value.clone();
            let e = decode(&v).expect_err(&format!("{field} = {value}"));
            assert_eq!((e.code, e.field.as_str()), (Code::InvalidField, field));
        }
    }

    #[test]
    fn a_body_that_is_no_object_is_told_as_such() {
        assert_eq!(Envelope::decode(b"{\"id\": ").unwrap_err().code, Code::InvalidJson);
        assert_eq!(Envelope::decode(&[0xff, 0xfe]).unwrap_err().code, Code::InvalidJson);
        assert_eq!(Envelope::decode(b"[]").unwrap_err().code, Code::InvalidField);
        assert_eq!(Envelope::decode(&vec![b' '; BODY_BYTES_MAX + 1]).unwrap_err().code, Code::MessageTooLarge);
        assert_eq!(Envelope::decode("[".repeat(100_000).as_bytes()).unwrap_err().code, Code::InvalidJson);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z_]{1,14}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Envelope::decode(&bytes);
        }

        #[test]
        fn any_value_in_any_field_reads_or_names_that_field(
            field in prop::sample::select(vec!["id", "timestamp", "source", "destination", "type", "payload", "priority", "correlation_id"]),
            value in any_json(),
        ) {
            let mut v = good();
            v[field] = value;
            if let Err(e) = decode(&v) {
                prop_assert!(e.field == field || e.field == "payload.data");
                prop_assert!(matches!(e.code, Code::MissingField | Code::InvalidField));
            }
        }
    }
}
