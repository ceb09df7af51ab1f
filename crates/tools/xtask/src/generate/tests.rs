//! What is generated, held against the standards it claims, against the messages themselves, and against the tree.
use std::path::PathBuf;

use bot_core::Envelope;
use bot_messages::{catalogue, contract::OutsidePublisher};
use jsonschema::{Registry, Validator};
use serde_json::{Value, json};

use super::*;

fn source() -> Source {
    Source::new(fleet()).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

fn in_folder<'a>(files: &'a Files, folder: &str) -> Vec<(&'a str, Value)> {
    let inside = files.iter().filter(|(path, _)| path.starts_with(folder));
    let found: Vec<_> = inside.map(|(path, text)| (path.as_str(), serde_json::from_str(text).unwrap())).collect();
    assert!(!found.is_empty(), "{folder}");
    found
}

fn validator(schema: &Value) -> Validator {
    jsonschema::options().should_validate_formats(true).build(schema).unwrap()
}

#[test]
fn the_files_in_the_tree_are_current() {
    let files = source().files().unwrap();
    let stale = stale(&root(), &files).unwrap();
    let told: String = stale.iter().map(ToString::to_string).collect();
    assert!(stale.is_empty(), "run `make gen`:\n{told}");
}

#[test]
fn every_file_ends_with_a_newline_and_every_one_that_can_says_where_it_comes_from() {
    for (path, text) in source().files().unwrap() {
        assert!(text.ends_with('\n') && !text.ends_with("\n\n") && !text.contains('\r'), "{path}");
        let has_no_room = path.contains("/examples/") || path.ends_with("/contracts.json");
        assert!(has_no_room || text.contains(MARK), "{path}");
    }
}

#[test]
fn every_schema_is_one_of_2020_12() {
    let files = source().files().unwrap();
    let schemas = files.iter().filter(|(path, _)| path.ends_with(".schema.json"));
    for (path, text) in schemas {
        let schema: Value = serde_json::from_str(text).unwrap();
        assert_eq!(schema["$schema"], schemas::DIALECT, "{path}");
        jsonschema::meta::validate(&schema).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(schema["title"].is_string() && schema["description"].is_string(), "{path}");
        assert!(path.ends_with(schema["$id"].as_str().unwrap()), "{path}");
    }
}

#[test]
fn every_example_fits_the_envelope_and_its_type_and_is_read_by_the_fleet() {
    let files = source().files().unwrap();
    let envelope = validator(&serde_json::from_str(&files["proto-schemas/envelope.schema.json"]).unwrap());
    let examples = in_folder(&files, "proto-schemas/examples/");
    assert_eq!(examples.len(), catalogue::all().len());
    for (path, example) in examples {
        envelope.validate(&example).unwrap_or_else(|e| panic!("{path}: {e}"));
        let event_type = example["type"].as_str().unwrap();
        let schema = &files[&format!("proto-schemas/{}", schemas::event_path(event_type))];
        let data = validator(&serde_json::from_str(schema).unwrap());
        data.validate(&example["payload"]["data"]).unwrap_or_else(|e| panic!("{path}: {e}"));
        Envelope::decode(example.to_string().as_bytes()).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

#[test]
fn an_example_without_a_required_member_fits_no_more() {
    let files = source().files().unwrap();
    let envelope: Value = serde_json::from_str(&files["proto-schemas/envelope.schema.json"]).unwrap();
    let envelope_validator = validator(&envelope);
    let mut removed = 0;
    for (path, example) in in_folder(&files, "proto-schemas/examples/") {
        for member in envelope["required"].as_array().unwrap() {
            let mut less = example.clone();
            less.as_object_mut().unwrap().remove(member.as_str().unwrap());
            assert!(!envelope_validator.is_valid(&less), "{path} without {member}");
        }
        let mut less = example.clone();
        less["payload"] = json!({"other": 1});
        assert!(!envelope_validator.is_valid(&less), "{path} without data");

        let schema = &files[&format!("proto-schemas/{}", schemas::event_path(example["type"].as_str().unwrap()))];
        let schema: Value = serde_json::from_str(schema).unwrap();
        for member in schema["required"].as_array().into_iter().flatten() {
            let mut data = example["payload"]["data"].clone();
            data.as_object_mut().unwrap().remove(member.as_str().unwrap());
            assert!(!validator(&schema).is_valid(&data), "{path} without payload.data.{member}");
            removed += 1;
        }
    }
    assert!(removed > 50, "{removed}");
}

#[test]
fn the_envelope_refuses_what_the_fleet_refuses() {
    let files = source().files().unwrap();
    let envelope = validator(&serde_json::from_str(&files["proto-schemas/envelope.schema.json"]).unwrap());
    let (_, good) = in_folder(&files, "proto-schemas/examples/build.completed").remove(0);
    let agree = |field: &str, value: Value, fits: bool| {
        let mut message = good.clone();
        message[field] = value;
        assert_eq!(envelope.is_valid(&message), fits, "schema: {message}");
        assert_eq!(Envelope::decode(message.to_string().as_bytes()).is_ok(), fits, "fleet: {message}");
    };
    agree("future", json!([1]), true);
    agree("id", json!("x".repeat(128)), true);
    agree("timestamp", json!("2026-11-01T12:00:00+01:00"), true);
    agree("destination", json!("DeployBot"), true);
    agree("type", json!("unknown.type"), true);
    for (field, wrong) in [
        ("id", json!("")),
        ("id", json!(7)),
        ("id", json!("x".repeat(129))),
        ("timestamp", json!("yesterday")),
        ("timestamp", json!("2026-11-01 noon")),
        ("source", json!("a.b")),
        ("source", json!("9a")),
        ("destination", json!("#")),
        ("type", json!("build")),
        ("type", json!("Build Completed")),
        ("payload", json!([])),
        ("priority", json!("urgent")),
        ("correlation_id", json!({})),
        ("correlation_id", json!("x".repeat(129))),
    ] {
        agree(field, wrong, false);
    }
}

/// The document with the references that leave it resolved against the generated files.
fn message_validator(files: &Files, document: &Value, event_type: &str) -> Validator {
    let payload = &document["components"]["messages"][event_type]["payload"];
    let mut registry = Registry::new();
    for (path, schema) in files.iter().filter(|(path, _)| path.ends_with(".schema.json")) {
        let schema: Value = serde_json::from_str(schema).unwrap();
        registry = registry.add(format!("https://x/{path}"), schema).unwrap();
    }
    let registry = registry.prepare().unwrap();
    let options = jsonschema::options().with_registry(&registry).with_base_uri("https://x/proto-schemas/asyncapi.yaml");
    options.build(payload).unwrap()
}

#[test]
fn the_asyncapi_document_fits_its_published_schema() {
    let schema: Value = serde_json::from_str(include_str!("../../schemas/asyncapi-3.0.0.json")).unwrap();
    let validator = jsonschema::draft7::new(&schema).unwrap();
    let files = source().files().unwrap();
    let mut document: Value = serde_saphyr::from_str(&files["proto-schemas/asyncapi.yaml"]).unwrap();
    let told: Vec<String> = validator.iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));

    document["operations"]["build-bot.says.build.completed"]["action"] = "shout".into();
    assert!(!validator.is_valid(&document), "a wrong document has to be noticed");
}

#[test]
fn references_inside_the_asyncapi_document_lead_somewhere() {
    fn references(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                into.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, into));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, into)),
            _ => {}
        }
    }
    let files = source().files().unwrap();
    let document: Value = serde_saphyr::from_str(&files["proto-schemas/asyncapi.yaml"]).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in &found {
        let is_there = match reference.strip_prefix('#') {
            Some(pointer) => document.pointer(pointer).is_some(),
            None => files.contains_key(&reference.replacen("./", "proto-schemas/", 1)),
        };
        assert!(is_there, "{reference}");
    }
    assert!(found.len() > 100, "{}", found.len());
}

#[test]
fn the_messages_of_the_asyncapi_document_take_their_own_example_and_no_other() {
    let files = source().files().unwrap();
    let document: Value = serde_saphyr::from_str(&files["proto-schemas/asyncapi.yaml"]).unwrap();
    let examples = in_folder(&files, "proto-schemas/examples/");
    for event_type in ["build.completed", "control.pause", "alert.triggered"] {
        let validator = message_validator(&files, &document, event_type);
        for (path, example) in &examples {
            assert_eq!(validator.is_valid(example), example["type"] == event_type, "{event_type}: {path}");
        }
        let (_, mut wrong) = in_folder(&files, &format!("proto-schemas/examples/{event_type}")).remove(0);
        wrong["payload"]["data"] = json!({});
        assert!(!validator.is_valid(&wrong), "{event_type}");
    }
}

#[test]
fn all_that_bots_say_and_hear_is_an_operation() {
    let source = source();
    let document = asyncapi::document(&source).unwrap();
    for contract in &source.contracts {
        let slug = contract.name.slug();
        for (verb, types, action) in [("says", &contract.says, "send"), ("hears", &contract.hears, "receive")] {
            for t in types {
                assert_eq!(document["operations"][format!("{slug}.{verb}.{t}")]["action"], action, "{slug} {t}");
            }
        }
    }
}

#[test]
fn contracts_and_topology_read_back_the_same() {
    let source = source();
    let files = source.files().unwrap();
    let contracts: Vec<Contract> = serde_json::from_str(&files["deploy/rabbitmq/contracts.json"]).unwrap();
    assert_eq!(contracts, source.contracts);
    let topology: Topology = serde_json::from_str(&files["deploy/rabbitmq/topology.json"]).unwrap();
    assert_eq!(topology, source.topology);
}

#[test]
fn the_page_tells_of_every_bot_queue_exchange_and_user() {
    let source = source();
    let page = &source.files().unwrap()["docs/topology.md"];
    let bots = source.contracts.iter().map(|c| format!("**{}**", c.name));
    let users = source.topology.users.iter().map(|u| format!("| `{}` |", u.name));
    for wanted in bots.chain(users) {
        assert!(page.contains(&wanted), "{wanted}");
    }
    let queues = source.topology.queues.iter().map(|q| &q.name);
    for name in queues.chain(source.topology.exchanges.iter().map(|e| &e.name)) {
        let general = |c: &Contract| format!("| `{}` |", topology::page::generalised(name, &c.name.slug()));
        let is_told =
            page.contains(&format!("| `{name}` |")) || source.contracts.iter().any(|c| page.contains(&general(c)));
        assert!(is_told, "{name}");
    }
    assert!(page.contains("| build-bot | `build.completed` | `deploy-bot.work`, `test-bot.work` |"), "{page}");
}

/// The shipped publishers are what the generated topology stands on.
#[test]
fn the_outside_publisher_is_the_one_that_is_shipped() {
    let shipped = fs::read_to_string(root().join("deploy/config/publishers.yaml")).unwrap();
    let shipped: Value = serde_saphyr::from_str(&shipped).unwrap();
    let shipped: Vec<OutsidePublisher> = serde_json::from_value(shipped["publishers"].clone()).unwrap();
    assert_eq!(shipped, [outside().unwrap()]);
}

#[test]
fn every_shipped_configuration_fits_its_schema() {
    let source = source();
    let files = source.files().unwrap();
    for contract in &source.contracts {
        let slug = contract.name.slug();
        let path = format!("deploy/config/{slug}.yaml");
        let text = fs::read_to_string(root().join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let config: Value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let schema = serde_json::from_str(&files[&format!("proto-schemas/config/{slug}.schema.json")]).unwrap();
        let validator = validator(&schema);
        let told: Vec<String> = validator.iter_errors(&config).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(told.is_empty(), "{path}: {}", told.join("\n"));
    }
}

#[test]
fn gen_writes_what_is_missing_and_removes_what_is_left_over_and_check_does_neither() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let call = |check| {
        let mut out = Vec::new();
        let code = run(folder.path(), check, &mut out).unwrap();
        (code == ExitCode::SUCCESS, String::from_utf8(out).unwrap())
    };
    let (good, told) = call(true);
    assert!(!good && told.contains("docs/topology.md: is missing\n") && !at("docs").exists(), "{told}");
    let (good, told) = call(false);
    assert!(good && told.contains("wrote docs/topology.md\n"), "{told}");
    assert!(call(true).0 && call(false).1.ends_with(" files, 0 of them changed\n"));

    let page = fs::read_to_string(at("docs/topology.md")).unwrap();
    fs::write(at("docs/topology.md"), page.replacen("# Topology", "# Mine", 1)).unwrap();
    fs::write(at("docs/mine.md"), "").unwrap();
    fs::create_dir_all(at("proto-schemas/old")).unwrap();
    fs::write(at("proto-schemas/old/gone.json"), "{}").unwrap();
    let (good, told) = call(true);
    assert!(
        !good && told.contains("-# Mine\n+# Topology\n") && told.ends_with("are stale: run `make gen`\n"),
        "{told}"
    );
    assert!(told.contains("proto-schemas/old/gone.json: nothing generates it any more\n"), "{told}");
    assert!(
        call(false).0 && call(true).0 && !at("proto-schemas/old/gone.json").exists() && at("docs/mine.md").exists()
    );
}
