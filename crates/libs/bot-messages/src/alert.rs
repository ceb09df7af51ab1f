//! Alerts.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Event, Priority, Severity};

/// Something needs a look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertTriggered {
    /// The same for the same trouble, so that it can be resolved and not be raised twice.
    pub alert_id: String,
    /// How bad.
    pub severity: Severity,
    /// What it is about, such as `bot:build-bot` or `application:staging`.
    pub subject: String,
    /// One sentence.
    pub summary: String,
}
impl Event for AlertTriggered {
    const TYPE: &'static str = "alert.triggered";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Something needs a look.";
    fn example() -> Self {
        Self {
            alert_id: "silent:build-bot".into(),
            severity: Severity::Critical,
            subject: "bot:build-bot".into(),
            summary: "BuildBot has not been heard for 32 s".into(),
        }
    }
}

/// It is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertResolved {
    /// The alert.
    pub alert_id: String,
    /// What it was about.
    pub subject: String,
    /// One sentence.
    pub summary: String,
    /// How long it lasted, milliseconds.
    pub duration_ms: u64,
}
impl Event for AlertResolved {
    const TYPE: &'static str = "alert.resolved";
    const SUMMARY: &'static str = "An alert is over.";
    fn example() -> Self {
        Self {
            alert_id: "silent:build-bot".into(),
            subject: "bot:build-bot".into(),
            summary: "BuildBot is heard again".into(),
            duration_ms: 41_000,
        }
    }
}
