//! Incidents.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Event, Priority, Severity};

/// People work on something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentCreated {
    /// Names the incident.
    pub incident_id: String,
    /// How bad.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// The alerts it began with.
    #[serde(default)]
    pub alert_ids: Vec<String>,
}
impl Event for IncidentCreated {
    const TYPE: &'static str = "incident.created";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "People work on something.";
    fn example() -> Self {
        Self {
            incident_id: "INC-42".into(),
            severity: Severity::Critical,
            title: "staging does not answer".into(),
            alert_ids: vec!["application:staging".into()],
        }
    }
}

/// It is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentResolved {
    /// The incident.
    pub incident_id: String,
    /// What ended it.
    pub resolution: String,
    /// How long it lasted, milliseconds.
    pub duration_ms: u64,
}
impl Event for IncidentResolved {
    const TYPE: &'static str = "incident.resolved";
    const SUMMARY: &'static str = "An incident is over.";
    fn example() -> Self {
        Self { incident_id: "INC-42".into(), resolution: "rolled back".into(), duration_ms: 1_260_000 }
    }
}
