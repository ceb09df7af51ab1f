//! The fleet's health in one answer: how each bot is, what is known of broker and applications, and a score.
use std::collections::BTreeMap;

use bot_messages::Severity;
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    alerts::Alert,
    applications::Health,
    fleet::{Bot, Status},
    watch::Watch,
};

/// What a bot is worth in the score.
const WORTH: [(Status, u32); 3] = [(Status::Healthy, 100), (Status::Degraded, 60), (Status::Critical, 0)];
/// Taken off the score for each application that is down.
const APPLICATION_DOWN: u32 = 25;
/// Taken off the score for each open alert that is no one's silence.
const WARNING: u32 = 5;

/// The whole.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// When.
    pub(crate) timestamp: DateTime<Utc>,
    /// The worst of what follows.
    pub(crate) overall: Status,
    /// 100 is well. Average over the bots (healthy 100, degraded 60, critical 0), less 25 for each application that is
    /// down and 5 for each warning; 0 while no bot is heard.
    pub(crate) score: u32,
    /// By name.
    pub(crate) bots: BTreeMap<String, BotHealth>,
    /// The broker, as far as it is known.
    pub(crate) broker: Broker,
    /// Not known: no bot reports a database.
    pub(crate) database: Option<Status>,
    /// Not known: no bot reports a scheduler.
    pub(crate) scheduler: Option<Status>,
    /// By environment.
    pub(crate) applications: BTreeMap<String, Health>,
    /// The open ones, worst first.
    pub(crate) alerts: Vec<Alert>,
}

/// One bot.
#[derive(Debug, Serialize)]
pub(crate) struct BotHealth {
    /// How it is.
    pub(crate) status: Status,
    /// What it does: as in heartbeats, or `stopped` or `silent`.
    pub(crate) state: &'static str,
    /// When its latest job ended.
    pub(crate) last_execution: Option<DateTime<Utc>>,
    /// Median from delivery to settled over the last minute, milliseconds.
    pub(crate) response_time_ms: f64,
    /// Why it is not healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The broker.
#[derive(Debug, Serialize)]
pub(crate) struct Broker {
    /// Healthy while heartbeats arrive.
    pub(crate) status: Status,
    /// Messages that wait in all queues; `null` where nobody may be asked.
    pub(crate) messages: Option<u64>,
    /// Messages by queue; `null` where nobody may be asked.
    pub(crate) queue_depths: Option<BTreeMap<String, u64>>,
    /// Why something is `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unknown: Option<String>,
}

impl Report {
    /// How everything is at `now`.
    pub(crate) fn of(watch: &Watch, now: DateTime<Utc>) -> Self {
        let bots = watch.fleet.bots(now);
        let hearing = watch.fleet.is_hearing(now);
        let open = watch.alerts.open();
        let down = watch.applications.all().filter(|a| a.health == Health::Down).count() as u32;
        let worst_alert = open.iter().map(|a| match a.severity {
            Severity::Critical => Status::Critical,
            Severity::Warning | Severity::Standard => Status::Degraded,
        });
        let worst = bots.iter().map(|b| b.status).chain(worst_alert).max().unwrap_or(Status::Healthy);
        let warnings = open.iter().filter(|a| a.severity != Severity::Critical).count() as u32;
        let depths = watch
            .queues
            .as_ref()
            .map(|s| s.queues.iter().map(|(q, d)| (q.clone(), d.messages)).collect::<BTreeMap<_, _>>());
        Self {
            timestamp: now,
            overall: if hearing && down == 0 { worst } else { Status::Critical },
            score: if hearing { score(&bots, down * APPLICATION_DOWN + warnings * WARNING) } else { 0 },
            bots: bots.iter().map(|b| (b.name.clone(), BotHealth::of(b))).collect(),
            broker: Broker {
                status: if hearing { Status::Healthy } else { Status::Critical },
                messages: depths.as_ref().map(|d| d.values().sum()),
                queue_depths: depths,
                unknown: watch.queues_unknown.clone(),
            },
            database: None,
            scheduler: None,
            applications: watch.applications.all().map(|a| (a.environment.clone(), a.health)).collect(),
            alerts: open.into_iter().cloned().collect(),
        }
    }
}

impl BotHealth {
    fn of(bot: &Bot) -> Self {
        let heartbeat = bot.latest().map(|i| &i.heartbeat);
        Self {
            status: bot.status,
            state: bot.state,
            last_execution: heartbeat.and_then(|h| h.last_execution),
            response_time_ms: heartbeat.map_or(0.0, |h| h.response_p50_us as f64 / 1000.0),
            error: bot.error.clone(),
        }
    }
}

fn score(bots: &[Bot], off: u32) -> u32 {
    let worth = |b: &Bot| WORTH.iter().find(|(s, _)| *s == b.status).map_or(0, |(_, w)| *w);
    let sum: u32 = bots.iter().map(worth).sum();
    (sum / (bots.len() as u32).max(1)).saturating_sub(off)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config,
        fleet::tests::beat,
        seen::tests::{at, observed},
    };
    use bot_messages::telemetry::BotState;
    use serde_json::json;

    fn verdict(w: &Watch, ms: i64) -> (Status, u32) {
        let report = Report::of(w, at(ms));
        (report.overall, report.score)
    }

    #[test]
    fn the_worst_decides_and_the_score_is_an_average() {
        let mut w = Watch::new(&Config::default());
        assert_eq!(verdict(&w, 0), (Status::Critical, 0), "nobody is heard");
        w.fleet.heard(beat("BuildBot", "a", BotState::Running), at(0));
        w.fleet.heard(beat("TestBot", "a", BotState::Running), at(0));
        assert_eq!(verdict(&w, 0), (Status::Healthy, 100));
        w.fleet.heard(beat("TestBot", "a", BotState::Paused), at(1));
        assert_eq!(verdict(&w, 1), (Status::Degraded, 80));
        w.event(&observed("1", "message.dead_lettered", None, 1, &json!({"bot": "BuildBot"})));
        assert_eq!(verdict(&w, 1), (Status::Degraded, 75));
        w.fleet.heard(beat("MonitorBot", "a", BotState::Running), at(40_000));
        assert_eq!(verdict(&w, 40_000), (Status::Critical, 28));
    }

    #[test]
    fn what_is_not_known_is_null() {
        let mut w = Watch::new(&Config::default());
        w.fleet.heard(beat("BuildBot", "a", BotState::Degraded), at(0));
        let report = serde_json::to_value(Report::of(&w, at(1))).unwrap();
        assert_eq!(report["database"], json!(null));
        assert_eq!(
            report["broker"],
            json!({"status": "healthy", "messages": null, "queue_depths": null, "unknown": "management_url is not set"})
        );
        let bot = json!({"status": "degraded", "state": "degraded", "last_execution": null, "response_time_ms": 2.5, "error": "it is degraded"});
        assert_eq!(report["bots"], json!({"BuildBot": bot}));
    }
}
