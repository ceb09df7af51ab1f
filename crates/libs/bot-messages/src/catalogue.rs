//! Every message type there is, in the order of the documentation. What is generated is generated from this list.
use schemars::{Schema, generate::SchemaSettings};
use serde_json::Value;

use crate::{
    Event, Kind, Priority, alert, approval, bot, build, config, control, deploy, incident, message, objects,
    repository, test,
};

/// One message type, described.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The `type` of the envelope.
    pub event_type: &'static str,
    /// Broadcast or addressed.
    pub kind: Kind,
    /// Where the sender does not choose.
    pub priority: Priority,
    /// One line.
    pub summary: &'static str,
    /// Version of `payload.data`'s schema.
    pub schema_version: u32,
    /// JSON Schema 2020-12 of `payload.data`.
    pub schema: fn() -> Schema,
    /// An example of `payload.data`.
    pub example: fn() -> Value,
    /// Whether a `payload.data` can be read; the error names the field.
    pub check: fn(&Value) -> Result<(), String>,
}

/// The schema of `T` as JSON Schema 2020-12, with what it refers to in `$defs`.
pub fn schema_of<T: schemars::JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>()
}

fn entry<E: Event>() -> Entry {
    Entry {
        event_type: E::TYPE,
        kind: E::KIND,
        priority: E::PRIORITY,
        summary: E::SUMMARY,
        schema_version: E::SCHEMA_VERSION,
        schema: schema_of::<E>,
        example: || serde_json::to_value(E::example()).unwrap_or_default(),
        check: |v| match serde_path_to_error::deserialize::<_, E>(v) {
            Ok(_) => Ok(()),
            Err(e) => {
                let path = e.path().to_string();
                // A missing field, and whatever is flattened, is told at the top.
                let field = if path == "." { String::new() } else { format!(".{path}") };
                Err(format!("`payload.data{field}`: {}", e.inner()))
            }
        },
    }
}

/// All of them.
pub fn all() -> Vec<Entry> {
    vec![
        entry::<repository::RepositoryPushed>(),
        entry::<build::BuildStarted>(),
        entry::<build::BuildCompleted>(),
        entry::<build::BuildFailed>(),
        entry::<test::TestStarted>(),
        entry::<test::TestCompleted>(),
        entry::<test::TestFailed>(),
        entry::<test::TestReportRequested>(),
        entry::<test::TestReported>(),
        entry::<deploy::DeployRequested>(),
        entry::<deploy::DeployStarted>(),
        entry::<deploy::DeployCompleted>(),
        entry::<deploy::DeployFailed>(),
        entry::<deploy::DeployRolledBack>(),
        entry::<deploy::DeployRollbackRequested>(),
        entry::<deploy::DeployHeld>(),
        entry::<deploy::DeployFreezeRequested>(),
        entry::<deploy::DeployUnfreezeRequested>(),
        entry::<deploy::DeployFrozen>(),
        entry::<deploy::DeployUnfrozen>(),
        entry::<deploy::DeployReportRequested>(),
        entry::<deploy::DeployReported>(),
        entry::<deploy::DeployRefused>(),
        entry::<approval::ApprovalRequested>(),
        entry::<approval::ApprovalGranted>(),
        entry::<approval::ApprovalDenied>(),
        entry::<objects::ObjectsCollected>(),
        entry::<alert::AlertTriggered>(),
        entry::<alert::AlertResolved>(),
        entry::<incident::IncidentCreated>(),
        entry::<incident::IncidentResolved>(),
        entry::<bot::BotStarted>(),
        entry::<bot::BotPaused>(),
        entry::<bot::BotResumed>(),
        entry::<bot::BotStopping>(),
        entry::<bot::BotFailed>(),
        entry::<message::MessageDeadLettered>(),
        entry::<message::MessageReplayed>(),
        entry::<message::MessageEdited>(),
        entry::<message::MessageDiscarded>(),
        entry::<config::ConfigChanged>(),
        entry::<config::ConfigApplied>(),
        entry::<control::ControlPause>(),
        entry::<control::ControlResume>(),
        entry::<control::ControlCancel>(),
        entry::<control::ControlRerun>(),
        entry::<control::ControlProbe>(),
        entry::<control::ControlReplied>(),
    ]
}

/// The entry of a type.
pub fn find(event_type: &str) -> Option<Entry> {
    all().into_iter().find(|e| e.event_type == event_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_fits_its_schema_and_reads_back() {
        for e in all() {
            let schema = serde_json::to_value((e.schema)()).unwrap();
            let example = (e.example)();
            jsonschema::draft202012::validate(&schema, &example)
                .unwrap_or_else(|err| panic!("{}: {err}", e.event_type));
            (e.check)(&example).unwrap();
        }
    }

    #[test]
    fn the_twelve_documented_types_are_there_and_no_type_twice() {
        let mut types: Vec<_> = all().iter().map(|e| e.event_type).collect();
        for documented in [
            "build.started",
            "build.completed",
            "build.failed",
            "test.started",
            "test.completed",
            "test.failed",
            "deploy.requested",
            "deploy.completed",
            "deploy.failed",
            "alert.triggered",
            "incident.created",
            "incident.resolved",
        ] {
            assert!(types.contains(&documented), "{documented}");
        }
        assert!(types.iter().all(|t| crate::is_event_type(t)));
        let count = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), count);
    }

    #[test]
    fn a_wrong_payload_names_its_field() {
        let check = find("repository.pushed").unwrap().check;
        let mut data = (find("repository.pushed").unwrap().example)();
        data["commit"] = "main".into();
        assert!(check(&data).unwrap_err().contains("is not a commit"));
    }
}
