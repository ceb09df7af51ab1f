//! JSON Schemas (2020-12): the envelope, each message's `payload.data`, what bots tell besides, and the files people write.
use anyhow::Result;
use bot_messages::{
    catalogue::{self, Entry, schema_of},
    pipeline::Pipeline,
    telemetry::{Heartbeat, LogRecord},
};
use serde_json::{Value, json};

use super::{Files, MARK, OWN_FOLDER, Source, text};

pub(super) const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// 1 to 64 letters, digits, `-`, `_`, beginning with a letter.
const NAME: &str = "[A-Za-z][A-Za-z0-9_-]{0,63}";

/// Adds them.
pub(super) fn add(source: &Source, files: &mut Files) -> Result<()> {
    let mut put = |path: &str, schema: Value| -> Result<()> {
        files.insert(format!("{OWN_FOLDER}/{path}"), text::json(finished(path, schema))?);
        Ok(())
    };
    put("envelope.schema.json", envelope())?;
    for entry in catalogue::all() {
        put(&event_path(entry.event_type), event(&entry))?;
    }
    put("pipeline.schema.json", serde_json::to_value(schema_of::<Pipeline>())?)?;
    put("heartbeat.schema.json", serde_json::to_value(schema_of::<Heartbeat>())?)?;
    put("log-record.schema.json", serde_json::to_value(schema_of::<LogRecord>())?)?;
    for member in &source.fleet {
        let name = &member.contract.name;
        let mut schema = serde_json::to_value(&member.config_schema)?;
        schema["title"] = format!("Configuration of {name}").into();
        put(&format!("config/{}.schema.json", name.slug()), schema)?;
    }
    Ok(())
}

/// Where the schema of a message's data is, from the generated folder.
pub(super) fn event_path(event_type: &str) -> String {
    format!("events/{event_type}.schema.json")
}

fn event(entry: &Entry) -> Value {
    let mut schema = (entry.schema)().to_value();
    schema["title"] = entry.event_type.into();
    schema["description"] = entry.summary.into();
    // Not a keyword of JSON Schema: what stands in the header of that name.
    schema["x-lota-schema"] = entry.schema_version.into();
    schema
}

/// With dialect, mark, and its own file name as `$id`: a relative one resolves to itself wherever the folder is served.
fn finished(path: &str, mut schema: Value) -> Value {
    schema["$schema"] = DIALECT.into();
    schema["$id"] = path.rsplit('/').next().unwrap_or(path).into();
    schema["$comment"] = MARK.into();
    for_people(&mut schema);
    schema
}

/// Descriptions come from doc comments, whose links lead nowhere outside Rust.
fn for_people(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "description" => {
                        *text = text.replace("[`", "`").replace("`]", "`");
                    }
                    _ => for_people(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(for_people),
        _ => {}
    }
}

/// The message as a whole. `data` is left open: what it holds follows from `type`.
fn envelope() -> Value {
    json!({
        "title": "Envelope",
        "description": "One message. The body of at most 256 KiB is this object, in UTF-8. Members that are not named here are ignored.",
        "type": "object",
        "required": ["id", "timestamp", "source", "destination", "type", "payload"],
        "properties": {
            "id": {
                "description": "1 to 128 bytes, the same over retries. The fleet's own are UUIDs of version 7.",
                "type": "string", "minLength": 1, "maxLength": 128,
            },
            "timestamp": {
                "description": "When it was said, RFC 3339.",
                "type": "string", "format": "date-time", "maxLength": 64,
            },
            "source": {
                "description": "Who said it: a bot, or a publisher from outside. The exchange it came by has to prove the same.",
                "type": "string", "pattern": format!("^{NAME}$"),
            },
            "destination": {
                "description": "A bot that is asked, or `*` for whoever hears it.",
                "type": "string", "pattern": format!(r"^(\*|{NAME})$"),
            },
            "type": {
                "description": "Such as build.completed: lower-case words joined by dots.",
                "type": "string", "maxLength": 100, "pattern": r"^[a-z0-9_-]+(\.[a-z0-9_-]+)+$",
            },
            "payload": {
                "description": "`data` is what the type says; its schema is in events/.",
                "type": "object", "required": ["data"], "properties": {"data": true},
            },
            "priority": {
                "description": "How urgent.",
                "type": "string", "enum": ["high", "medium", "low"], "default": "medium",
            },
            "correlation_id": {
                "description": "1 to 128 bytes, common to all that follows from one cause.",
                "type": "string", "minLength": 1, "maxLength": 128,
            },
        },
    })
}
