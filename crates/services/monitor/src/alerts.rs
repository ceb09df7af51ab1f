//! The book of alerts: each trouble is raised once, counted while it lasts, and resolved once. What has to be said of it
//! waits here until it was said.
use std::collections::{BTreeMap, VecDeque};

use bot_messages::{
    Severity,
    alert::{AlertResolved, AlertTriggered},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// So many resolved ones are remembered for the API.
const RESOLVED_MAX: usize = 200;
/// At most so many may be open; a further one is counted.
const OPEN_MAX: usize = 1000;

/// One trouble.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Alert {
    /// The same for the same trouble.
    #[serde(rename = "alert_id")]
    pub(crate) id: String,
    /// How bad.
    pub(crate) severity: Severity,
    /// What it is about: `bot:build-bot`, `application:staging`.
    pub(crate) subject: String,
    /// One sentence.
    pub(crate) summary: String,
    /// Since when.
    pub(crate) since: DateTime<Utc>,
    /// When it was noticed last.
    pub(crate) last: DateTime<Utc>,
    /// How often it happened while it was open.
    pub(crate) count: u64,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resolved: Option<DateTime<Utc>>,
}

/// What is to be said of an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Announcement {
    /// It began.
    Triggered(AlertTriggered),
    /// It is over.
    Resolved(AlertResolved),
}

/// All alerts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Alerts {
    open: BTreeMap<String, Alert>,
    resolved: VecDeque<Alert>,
    /// Correlation and content, oldest first.
    unsaid: VecDeque<(String, Announcement)>,
    refused: u64,
}

impl Alerts {
    /// There is trouble. Said the first time, counted after that.
    pub(crate) fn raise(&mut self, id: &str, severity: Severity, subject: &str, summary: String, now: DateTime<Utc>) {
        if let Some(alert) = self.open.get_mut(id) {
            alert.count = alert.count.saturating_add(1);
            alert.last = now;
            alert.summary = summary;
            return;
        }
        if self.open.len() >= OPEN_MAX {
            self.refused += 1;
            return;
        }
        let alert = Alert {
            id: id.to_owned(),
            severity,
            subject: subject.to_owned(),
            summary,
            since: now,
            last: now,
            count: 1,
            resolved: None,
        };
        let said = AlertTriggered {
            alert_id: alert.id.clone(),
            severity,
            subject: alert.subject.clone(),
            summary: alert.summary.clone(),
        };
        self.unsaid.push_back((episode(&alert), Announcement::Triggered(said)));
        self.open.insert(id.to_owned(), alert);
    }

    /// The trouble is over, if there was any.
    pub(crate) fn resolve(&mut self, id: &str, summary: impl FnOnce() -> String, now: DateTime<Utc>) {
        let Some(mut alert) = self.open.remove(id) else {
            return;
        };
        let said = AlertResolved {
            alert_id: alert.id.clone(),
            subject: alert.subject.clone(),
            summary: summary(),
            duration_ms: (now - alert.since).num_milliseconds().try_into().unwrap_or(0),
        };
        self.unsaid.push_back((episode(&alert), Announcement::Resolved(said)));
        alert.resolved = Some(now);
        self.resolved.push_front(alert);
        self.resolved.truncate(RESOLVED_MAX);
    }

    /// Whether this trouble is open.
    pub(crate) fn is_open(&self, id: &str) -> bool {
        self.open.contains_key(id)
    }

    /// The open ones, worst first.
    pub(crate) fn open(&self) -> Vec<&Alert> {
        let mut open: Vec<&Alert> = self.open.values().collect();
        open.sort_by_key(|a| (std::cmp::Reverse(a.severity), a.since));
        open
    }

    /// The latest that are over.
    pub(crate) fn resolved(&self) -> impl Iterator<Item = &Alert> {
        self.resolved.iter()
    }

    /// Ids of the open ones that begin so.
    pub(crate) fn open_ids(&self, beginning: &str) -> Vec<String> {
        self.open.keys().filter(|id| id.starts_with(beginning)).cloned().collect()
    }

    /// What is to be said next, with its correlation.
    pub(crate) fn next_unsaid(&self) -> Option<(String, Announcement)> {
        self.unsaid.front().cloned()
    }

    /// The first of what was to be said was said.
    pub(crate) fn said(&mut self) {
        self.unsaid.pop_front();
    }
}

/// Begin and end of one trouble share a correlation; the next time it is another one.
fn episode(alert: &Alert) -> String {
    format!("{}:{}", alert.id, alert.since.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::tests::at;

    #[test]
    fn a_trouble_is_said_once_and_counted() {
        let mut alerts = Alerts::default();
        for ms in [0, 500] {
            alerts.raise("silent:build-bot", Severity::Critical, "bot:build-bot", format!("for {ms}"), at(ms));
        }
        let open = alerts.open();
        assert_eq!((open.len(), open[0].count, open[0].summary.as_str()), (1, 2, "for 500"));
        alerts.resolve("silent:build-bot", || "it is back".into(), at(900));
        alerts.resolve("silent:build-bot", || "it is back".into(), at(901));
        let (first, triggered) = alerts.next_unsaid().unwrap();
        assert!(matches!(&triggered, Announcement::Triggered(a) if a.summary == "for 0"), "{triggered:?}");
        assert_eq!(alerts.next_unsaid().unwrap().1, triggered, "until it was said");
        alerts.said();
        let (second, resolved) = alerts.next_unsaid().unwrap();
        assert!(matches!(&resolved, Announcement::Resolved(a) if a.duration_ms == 900), "{resolved:?}");
        assert_eq!(first, second, "one correlation for begin and end");
        alerts.said();
        assert_eq!((alerts.next_unsaid(), alerts.resolved().count()), (None, 1));
    }

    #[test]
    fn the_book_is_written_and_read_back() {
        let mut alerts = Alerts::default();
        alerts.raise("a", Severity::Warning, "bot:x", "s".into(), at(0));
        alerts.raise("b", Severity::Critical, "bot:y", "s".into(), at(1));
        let back: Alerts = serde_json::from_str(&serde_json::to_string(&alerts).unwrap()).unwrap();
        assert_eq!(back, alerts);
        assert_eq!(back.open()[0].id, "b", "worst first");
    }

    #[test]
    fn even_alerts_have_a_bound() {
        let mut alerts = Alerts::default();
        for i in 0..=OPEN_MAX {
            alerts.raise(&i.to_string(), Severity::Standard, "x", String::new(), at(0));
        }
        assert_eq!((alerts.open().len(), alerts.refused), (OPEN_MAX, 1));
    }
}
