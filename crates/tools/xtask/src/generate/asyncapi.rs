//! AsyncAPI 3.0: a channel and a message per type, and an operation for each type that a bot says or hears.
use anyhow::Result;
use bot_messages::{
    Contract, Kind, Tap, Tier,
    catalogue::{self, Entry},
    contract::control_types,
    keys,
};
use serde_json::{Map, Value, json};

use super::{Files, MARK, OWN_FOLDER, Source, examples, schemas, text};

const BINDING: &str = "0.3.0";
const OWN_EXCHANGE: &str = "own-exchange";
const DESCRIPTION: &str = "\
What the bots of a LotaBots fleet say to each other over RabbitMQ, and what others may say to them.

Every publisher, bot or not, has a topic exchange of its own, `lota.egress.{publisher}` (`lota.egress.build-bot`), the \
only one it may write to, and only with the routing keys it is granted. Whoever hears a message has a queue that is \
bound to that exchange. Any AMQP 0-9-1 client that publishes such a body is a publisher like any other: properties and \
headers are read where they are there, and none is required. Publish persistent and mandatory, and wait for the confirm.

To hear everything, an outside publisher that is granted it reads its queue `{publisher}.tap.events`.
";

/// Adds it.
pub(super) fn add(source: &Source, files: &mut Files) -> Result<()> {
    files.insert(format!("{OWN_FOLDER}/asyncapi.yaml"), text::yaml(MARK, document(source)?)?);
    Ok(())
}

pub(super) fn document(source: &Source) -> Result<Value> {
    let (mut channels, mut messages, mut operations) = (Map::new(), Map::new(), Map::new());
    for entry in catalogue::all() {
        channels.insert(entry.event_type.to_owned(), channel(source, &entry));
        messages.insert(entry.event_type.to_owned(), message(source, &entry)?);
    }
    for record in &RECORDS {
        channels.insert(record.name.to_owned(), record.channel());
        messages.insert(record.name.to_owned(), record.message());
    }
    for contract in &source.contracts {
        add_operations(contract, &mut operations);
    }
    Ok(json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "LotaBots",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"fleet": {
            "host": "rabbitmq.example.org:5672",
            "protocol": "amqp",
            "protocolVersion": "0.9.1",
            "pathname": format!("/{}", keys::VHOST),
            "description": "The fleet's broker; yours is elsewhere. `lota connection` says where, and as whom.",
        }},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {"headers": headers()},
            "channelBindings": {OWN_EXCHANGE: routed_by_key()},
        },
    }))
}

/// What bots tell outside the envelope.
struct Record {
    name: &'static str,
    tap: Tap,
    address: &'static str,
    schema: &'static str,
    summary: &'static str,
}

const RECORDS: [Record; 2] = [
    Record {
        name: "heartbeat",
        tap: Tap::Health,
        address: "health.{bot}.{instance}",
        schema: "./heartbeat.schema.json",
        summary: "How a process of a bot is, every 5 s. Transient.",
    },
    Record {
        name: "log-record",
        tap: Tap::Logs,
        address: "log.{bot}.{level}",
        schema: "./log-record.schema.json",
        summary: "What a bot did with a delivery, a line of a job, its progress. Transient, best effort.",
    },
];

impl Record {
    fn channel(&self) -> Value {
        let mut parameters = Map::new();
        let names = self.address.split('.').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'));
        for name in names {
            let what = match name {
                "bot" => json!({"description": "The bot, such as build-bot."}),
                "level" => json!({"description": "How grave.", "enum": ["info", "warn", "error"]}),
                _ => json!({"description": "Which of its processes."}),
            };
            parameters.insert(name.to_owned(), what);
        }
        json!({
            "address": self.address,
            "summary": self.summary,
            "parameters": parameters,
            "messages": {self.name: {"$ref": format!("#/components/messages/{}", self.name)}},
            "bindings": {"$ref": format!("#/components/channelBindings/{OWN_EXCHANGE}")},
        })
    }

    fn message(&self) -> Value {
        json!({
            "name": self.name,
            "summary": self.summary,
            "contentType": "application/json",
            "payload": {"$ref": self.schema},
        })
    }
}

/// AsyncAPI knows no choice of exchange; the description says what stands for the word in braces.
fn routed_by_key() -> Value {
    let exchange = json!({
        "name": keys::egress("{publisher}"), "type": "topic", "durable": true, "autoDelete": false, "vhost": keys::VHOST,
    });
    json!({"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": BINDING}})
}

fn channel(source: &Source, entry: &Entry) -> Value {
    let mut channel = json!({
        "address": entry.event_type,
        "summary": entry.summary,
        "messages": {entry.event_type: {"$ref": format!("#/components/messages/{}", entry.event_type)}},
        "bindings": {"$ref": format!("#/components/channelBindings/{OWN_EXCHANGE}")},
    });
    if entry.kind == Kind::Command {
        let is_control = control_types().contains(&entry.event_type);
        let hears = |c: &&Contract| is_control || c.hears.iter().any(|heard| heard == entry.event_type);
        let bots: Vec<String> = source.contracts.iter().filter(hears).map(|c| c.name.slug()).collect();
        channel["address"] = keys::command("{bot}", entry.event_type).into();
        channel["parameters"] = json!({"bot": {"description": "The bot that is asked.", "enum": bots}});
    }
    channel
}

/// The envelope, with what the type fixes in it.
fn message(source: &Source, entry: &Entry) -> Result<Value> {
    let destination = match entry.kind {
        Kind::Event => json!({"const": "*"}),
        Kind::Command => json!({"not": {"const": "*"}}),
    };
    let data = json!({"$ref": format!("./{}", schemas::event_path(entry.event_type))});
    let own = json!({
        "type": "object",
        "properties": {
            "type": {"const": entry.event_type},
            "destination": destination,
            "payload": {"type": "object", "properties": {"data": data}},
        },
    });
    Ok(json!({
        "name": entry.event_type,
        "title": entry.event_type,
        "summary": entry.summary,
        "contentType": "application/json",
        "correlationId": {
            "description": "Common to all that follows from one cause.",
            "location": "$message.payload#/correlation_id",
        },
        "headers": {"$ref": "#/components/schemas/headers"},
        "payload": {"allOf": [{"$ref": "./envelope.schema.json"}, own]},
        "bindings": {"amqp": {
            "contentEncoding": "utf-8", "messageType": entry.event_type, "bindingVersion": BINDING,
        }},
        "examples": [{"name": "example", "payload": examples::message(source, entry)?}],
    }))
}

/// The headers that are read and passed on; all others are left behind.
fn headers() -> Value {
    let text = |what: &str| json!({"type": "string", "description": what});
    let count = |what: &str| json!({"type": "integer", "minimum": 0, "description": what});
    json!({
        "type": "object",
        "description": "None is required, none overrides the body, and all together take 16 KiB at most.",
        "properties": {
            "traceparent": text("W3C trace context."),
            "tracestate": text("W3C trace context."),
            "x-lota-causation-id": text("Id of the message that led to this one."),
            "x-lota-schema": count("Version of the schema of `payload.data`; 1 where it is missing."),
            "x-lota-attempt": count("On a retry: which attempt is next."),
            "x-lota-hop": count("How many messages led here; above 32 the message is a dead letter."),
            "x-lota-publisher": text("On a retry or replay: who said it first, as its exchange proved."),
            "x-lota-replay": count("On a replay: the how many-th."),
            "x-lota-error-code": text("On a dead letter: why, for programs."),
            "x-lota-error-message": text("On a dead letter: why, for people."),
            "x-lota-error-bot": text("On a dead letter: whose it is."),
            "x-lota-error-attempts": count("On a dead letter: how often it was tried."),
            "x-lota-error-time": {"type": "string", "format": "date-time", "description": "On a dead letter: since when."},
        },
    })
}

fn add_operations(contract: &Contract, operations: &mut Map<String, Value>) {
    let (bot, slug) = (&contract.name, contract.name.slug());
    let operation = |action: &str, on: &str, summary: String, binding: Value| {
        json!({
            "action": action,
            "channel": {"$ref": format!("#/channels/{on}")},
            "messages": [{"$ref": format!("#/channels/{on}/messages/{on}")}],
            "summary": summary,
            "bindings": {"amqp": binding},
        })
    };
    for said in contract.all_says() {
        let priority = catalogue::find(said).map(|entry| entry.priority).unwrap_or_default();
        let binding = json!({
            "deliveryMode": 2, "mandatory": true, "priority": priority.amqp(), "timestamp": true, "bindingVersion": BINDING,
        });
        let summary = format!("{bot} says {said} to {}.", keys::egress(&slug));
        operations.insert(format!("{slug}.says.{said}"), operation("send", said, summary, binding));
    }
    let work = contract.hears.iter().map(|heard| (heard.as_str(), keys::work(&slug)));
    let control = control_types().map(|heard| (heard, keys::control(&slug)));
    for (heard, queue) in work.chain(control) {
        let binding = json!({"ack": true, "bindingVersion": BINDING});
        let retries = if queue.ends_with(".work") { retries() } else { String::new() };
        let summary = format!("{bot} hears {heard} from its queue {queue}{retries}.");
        operations.insert(format!("{slug}.hears.{heard}"), operation("receive", heard, summary, binding));
    }
    for record in &RECORDS {
        let name = record.name;
        let binding = json!({"deliveryMode": 1, "mandatory": false, "bindingVersion": BINDING});
        let summary = format!("{bot} says {name} to {}.", keys::egress(&slug));
        operations.insert(format!("{slug}.says.{name}"), operation("send", name, summary, binding));
        if contract.observes.contains(&record.tap) {
            let queue = keys::tap_queue(&slug, record.tap.as_str());
            let binding = json!({"ack": true, "bindingVersion": BINDING});
            let summary = format!("{bot} observes every {name} from its queue {queue}.");
            operations.insert(format!("{slug}.hears.{name}"), operation("receive", name, summary, binding));
        }
    }
}

fn retries() -> String {
    let delays: Vec<&str> = Tier::ALL.iter().map(|tier| tier.as_str()).collect();
    format!("; what fails comes back after {}", delays.join(", "))
}
