//! What the releases say to each other while a fleet is replaced bot by bot.
use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::release::{SCHEMAS, releases, unpack};

fn files(folder: &Path, ending: &str) -> BTreeMap<String, Value> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let named = entries.map(|entry| entry.unwrap()).filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().strip_suffix(ending)?.to_owned();
        Some((name, serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap()))
    });
    named.collect()
}

/// Payload schemas and whole messages, by type.
fn of(folder: &Path) -> (BTreeMap<String, Value>, BTreeMap<String, Value>) {
    (files(&folder.join("events"), ".schema.json"), files(&folder.join("examples"), ".json"))
}

/// Examples that readers with these schemas would refuse.
fn misunderstood(schemas: &BTreeMap<String, Value>, examples: &BTreeMap<String, Value>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (event_type, schema) in schemas {
        let Some(example) = examples.get(event_type) else { continue };
        let validator = jsonschema::draft202012::new(schema).unwrap();
        let errors = validator.iter_errors(&example["payload"]["data"]);
        wrong.extend(errors.map(|e| format!("{event_type}, {}: {e}", e.instance_path())));
    }
    wrong
}

#[test]
fn each_release_understands_what_the_other_says() {
    let (now, said_now) = of(&tests::workspace().join(SCHEMAS));
    for (version, path) in releases() {
        let dir = tempfile::tempdir().unwrap();
        unpack(&path.join("home.tar.zst"), dir.path());
        let (then, said_then) = of(&dir.path().join(SCHEMAS));
        assert!(then.len() > 30 && said_then.len() == then.len(), "{version}: {} types", then.len());

        let gone: Vec<_> = then.keys().filter(|event_type| !now.contains_key(*event_type)).collect();
        assert!(gone.is_empty(), "bots of {version} say {gone:?}, which nobody knows any more");
        let wrong = misunderstood(&now, &said_then);
        assert!(wrong.is_empty(), "what {version} says is refused: {wrong:#?}");
        let wrong = misunderstood(&then, &said_now);
        assert!(wrong.is_empty(), "what this release says, {version} refuses: {wrong:#?}");
    }
}
