//! What stands beside files that have no room for a word of their own: which they are, and where they come from.
use std::fmt::Write;

use bot_messages::{Kind, catalogue};

use super::{Files, MARK, OWN_FOLDER};

/// Adds them.
pub(super) fn add(files: &mut Files) {
    files.insert(format!("{OWN_FOLDER}/README.md"), schemas());
    files.insert("deploy/rabbitmq/README.md".to_owned(), rabbitmq());
}

fn schemas() -> String {
    let mut text = format!(
        "# The fleet's messages and files, for every language\n\n\
         <!-- {MARK} -->\n\n\
         Everything in this folder is written by `make gen` from the Rust types in `crates/`, the examples and this page \
         included; `make check` fails where it is stale. Schemas are JSON Schema 2020-12.\n\n\
         - [`envelope.schema.json`](envelope.schema.json): the object that every message is\n\
         - [`events/`](events): what `payload.data` holds, by message type; [`examples/`](examples): a whole message of each\n\
         - [`asyncapi.yaml`](asyncapi.yaml): all of it as AsyncAPI 3.0, with who says and who hears what\n\
         - [`pipeline.schema.json`](pipeline.schema.json): the file `.lotabots.yaml` of a repository\n\
         - [`config/`](config): the configuration of each bot\n\
         - [`heartbeat.schema.json`](heartbeat.schema.json), [`log-record.schema.json`](log-record.schema.json): what bots \
         tell of themselves, without an envelope\n\n\
         | type | what it says | kind | schema | example |\n|---|---|---|---|---|\n"
    );
    for entry in catalogue::all() {
        let name = entry.event_type;
        let kind = match entry.kind {
            Kind::Event => "event",
            Kind::Command => "command",
        };
        let schema = super::schemas::event_path(name);
        let version = entry.schema_version;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{name}` | {} | {kind} | [version {version}]({schema}) | [message](examples/{name}.json) |",
            entry.summary
        );
    }
    text
}

fn rabbitmq() -> String {
    format!(
        "# What the broker is set up from\n\n\
         <!-- {MARK} -->\n\n\
         - `contracts.json`: what each bot may hear and say. The command `lota` carries it; with \
         `deploy/config/publishers.yaml` it makes the topology that `lota topology apply` puts on the broker.\n\
         - `topology.json`: that topology with the publishers as shipped, for reading and for other tools. \
         [docs/topology.md](../../docs/topology.md) shows it to people.\n"
    )
}
