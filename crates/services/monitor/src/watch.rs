//! Everything the monitor knows, and its judgement: what came by the taps goes in, alerts come out. No I/O, no clock.
use std::collections::BTreeMap;

use bot_core::Observed;
use bot_messages::{
    Event, Severity,
    bot::{BotFailed, BotPaused, BotResumed},
    config::ConfigApplied,
    keys,
    telemetry::{Heartbeat, LogRecord, RecordKind},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Config,
    alerts::Alerts,
    applications::{Applications, Health, Release},
    applied::{Applied, judge_credentials},
    correlations::{self, Correlations, Handled},
    fleet::{Bot, Fleet, Status, slug},
    held,
    jobs::Jobs,
    logs::{self, Logs},
    queues::Snapshot,
    seen::{Seen, cut},
    traffic::Traffic,
};

/// The management API's figures are some seconds old: an empty queue is believed this long after the last dead letter.
const FIGURES_AGE: TimeDelta = TimeDelta::seconds(15);

/// What is kept over a restart of the monitor. The applications are also in the store, by environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// What stands where.
    pub(crate) applications: BTreeMap<String, Release>,
    /// Open and resolved alerts, and what is still to be said.
    pub(crate) alerts: Alerts,
    /// Bots that should be heard.
    pub(crate) bots: Vec<String>,
    /// What they should run.
    pub(crate) applied: Applied,
}

/// Everything the monitor knows.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The bots.
    pub(crate) fleet: Fleet,
    /// What followed from what.
    pub(crate) correlations: Correlations,
    /// The jobs.
    pub(crate) jobs: Jobs,
    /// What the jobs print.
    pub(crate) logs: Logs,
    /// What was deployed.
    pub(crate) applications: Applications,
    /// What is wrong.
    pub(crate) alerts: Alerts,
    /// What was applied.
    applied: Applied,
    credential_days_max: u32,
    /// How much is said.
    pub(crate) traffic: Traffic,
    /// Queue depths; `None` where nobody may be asked, or the latest asking failed.
    pub(crate) queues: Option<Snapshot>,
    /// Why there are no queue depths.
    pub(crate) queues_unknown: Option<String>,
    /// Bodies on a tap that could not be read.
    pub(crate) unreadable: u64,
}

impl Watch {
    /// Knows nothing yet.
    pub(crate) fn new(config: &Config) -> Self {
        let kept = correlations::Bounds::of(config);
        let printed = logs::Bounds {
            jobs: config.logs_jobs_max,
            lines_each: config.logs_lines_max,
            // One noisy job must not push out the logs of all others.
            bytes_each: config.logs_bytes_max / 8,
            bytes: config.logs_bytes_max,
        };
        Self {
            fleet: Fleet::new(TimeDelta::seconds(i64::from(config.silent_after_s))),
            correlations: Correlations::new(kept),
            jobs: Jobs::new(config.jobs_max),
            logs: Logs::new(printed),
            applications: Applications::default(),
            alerts: Alerts::default(),
            applied: Applied::default(),
            credential_days_max: config.credential_days_max,
            traffic: Traffic::default(),
            queues: None,
            queues_unknown: Some("management_url is not set".into()),
            unreadable: 0,
        }
    }

    /// A message on the events tap.
    pub(crate) fn event(&mut self, observed: &Observed) {
        if let Some(why) = observed.forged() {
            let publisher = cut(observed.publisher.as_deref().unwrap_or("unknown"), 64);
            let summary = format!("{publisher} said what it is not: {why}; end it, and change its password");
            let (id, subject) = (format!("forged:{publisher}"), format!("publisher:{publisher}"));
            self.alerts.raise(&id, Severity::Critical, &subject, summary, observed.at);
            return;
        }
        let seen = match Seen::read(observed) {
            Ok(seen) => seen,
            Err(why) => return self.unreadable(&why),
        };
        self.traffic.count(observed.at);
        self.correlations.seen(&seen);
        self.jobs.seen(&seen, observed.at);
        match seen.event_type.as_str() {
            "bot.stopping" => {
                if let Some((bot, instance)) = seen.bot().filter(|(bot, _)| *bot == seen.source) {
                    self.fleet.stopping(bot, instance);
                }
            }
            BotPaused::TYPE => held::paused(&seen, &mut self.alerts, observed.at),
            BotResumed::TYPE => held::resumed(&seen, &mut self.alerts, observed.at),
            BotFailed::TYPE => held::failed(&seen, &mut self.alerts, observed.at),
            "message.dead_lettered" => self.dead_letter(&seen, observed.at),
            ConfigApplied::TYPE => {
                if let Err(why) = self.applied.note(&seen) {
                    self.unreadable(&why);
                }
            }
            _ => {}
        }
    }

    /// A heartbeat. Whose it is, its key says: a bot can publish with no key but its own.
    pub(crate) fn heartbeat(&mut self, observed: &Observed) {
        let key = &observed.routing_key;
        match serde_json::from_slice::<Heartbeat>(&observed.body) {
            Ok(heartbeat) if is_by(&heartbeat.bot, key) => self.fleet.heard(heartbeat, observed.at),
            Ok(other) => self.unreadable(&format!("a heartbeat of `{}` came as {key}", cut(&other.bot, 80))),
            Err(e) => self.unreadable(&format!("expected a heartbeat as {key}, got: {e}")),
        }
    }

    /// A log record.
    pub(crate) fn record(&mut self, observed: &Observed) {
        let key = &observed.routing_key;
        let record = match serde_json::from_slice::<LogRecord>(&observed.body) {
            Ok(record) if is_by(&record.bot, key) => record,
            Ok(other) => {
                return self.unreadable(&format!("a record of `{}` came as {key}", cut(&other.bot, 80)));
            }
            Err(e) => return self.unreadable(&format!("expected a log record as {key}, got: {e}")),
        };
        match (record.kind, record.job_id, record.outcome) {
            (RecordKind::Handled, _, Some(outcome)) => {
                let (Some(correlation), Some(message)) = (record.correlation_id, record.message_id) else {
                    return;
                };
                let reason = cut(&record.message, 300);
                let bot = cut(&record.bot, 128);
                let handled = Handled { bot, outcome, reason, duration_us: record.duration_us };
                self.correlations.handled(&cut(&correlation, 128), &cut(&message, 128), handled);
            }
            (RecordKind::Output, Some(job), _) => {
                self.logs.line(&cut(&job, 128), record.line, &record.message);
            }
            (RecordKind::Progress, Some(job), _) => self.jobs.progress(&job, record.percent, &record.message),
            _ => {}
        }
    }

    /// Raises and resolves alerts by what is known at `now`.
    pub(crate) fn judge(&mut self, now: DateTime<Utc>) {
        self.fleet.forget(now);
        if self.fleet.can_judge(now) {
            let bots = self.fleet.bots(now);
            self.judge_bots(&bots, now);
            held::judge(&bots, &mut self.alerts, now);
            self.applied.judge(&bots, &mut self.alerts, now);
            judge_credentials(&bots, self.credential_days_max, &mut self.alerts, now);
        }
        self.judge_applications(now);
        self.judge_dead_letters(now);
    }

    /// What the next run of the monitor has to know.
    pub(crate) fn memory(&self) -> Memory {
        Memory {
            applications: self.applications.releases(),
            alerts: self.alerts.clone(),
            bots: self.fleet.expected().into_iter().collect(),
            applied: self.applied.clone(),
        }
    }

    /// What an earlier run knew. What handlers have learned since goes before it.
    pub(crate) fn recall(&mut self, memory: Memory, now: DateTime<Utc>) {
        for (environment, release) in &memory.applications {
            if self.applications.get(environment).is_none() {
                self.applications.place(environment, Some(release));
            }
        }
        self.alerts = memory.alerts;
        self.applied = memory.applied;
        self.fleet.remember(&memory.bots, now);
    }

    fn unreadable(&mut self, why: &str) {
        self.unreadable += 1;
        tracing::debug!(why, "unreadable on a tap");
    }

    fn dead_letter(&mut self, seen: &Seen, now: DateTime<Utc>) {
        // Of its own dead letters alone: `bot` in the data is only what it says.
        let (bot, latest) = (seen.source.as_str(), cut(seen.error().unwrap_or("no reason given"), 200));
        let slug = slug(bot);
        let summary = format!("{bot} has new dead letters; the latest: {latest}");
        self.alerts.raise(&format!("dead-letters:{slug}"), Severity::Warning, &format!("bot:{slug}"), summary, now);
    }

    fn judge_bots(&mut self, bots: &[Bot], now: DateTime<Utc>) {
        let mut fine: Vec<String> = self.alerts.open_ids("silent:");
        for bot in bots.iter().filter(|b| b.status == Status::Critical) {
            let slug = slug(&bot.name);
            let id = format!("silent:{slug}");
            fine.retain(|open| *open != id);
            if !self.alerts.is_open(&id) {
                let summary = bot.error.clone().unwrap_or_else(|| format!("{} is silent", bot.name));
                self.alerts.raise(&id, Severity::Critical, &format!("bot:{slug}"), summary, now);
            }
        }
        for id in fine {
            let bot = bots.iter().find(|b| format!("silent:{}", slug(&b.name)) == id);
            let summary = || match bot {
                Some(bot) if bot.state == "stopped" => format!("{} went down in order", bot.name),
                Some(bot) => format!("{} is heard again", bot.name),
                None => "the bot is no longer expected".to_owned(),
            };
            self.alerts.resolve(&id, summary, now);
        }
    }

    fn judge_applications(&mut self, now: DateTime<Utc>) {
        for a in self.applications.all().filter(|a| a.health == Health::Down) {
            let id = format!("application:{}", a.environment);
            if !self.alerts.is_open(&id) {
                let why = a.error.as_deref().unwrap_or("no answer");
                let summary = format!("{} did not answer {} times in a row: {why}", a.environment, a.failures);
                self.alerts.raise(&id, Severity::Critical, &id, summary, now);
            }
        }
        for id in self.alerts.open_ids("application:") {
            let environment = id.trim_start_matches("application:");
            match self.applications.get(environment).map(|a| a.health) {
                Some(Health::Down | Health::Unknown) => {}
                Some(Health::Up) => self.alerts.resolve(&id, || format!("{environment} answers again"), now),
                None => {
                    let summary = || format!("nothing is deployed in {environment} any more");
                    self.alerts.resolve(&id, summary, now);
                }
            }
        }
    }

    /// Only the broker knows when the last dead letter was dealt with.
    fn judge_dead_letters(&mut self, now: DateTime<Utc>) {
        let Some(snapshot) = &self.queues else { return };
        // Not every letter is told of: the broker's own are not, nor those about dead letters.
        let full = snapshot.queues.iter().filter(|(_, depth)| depth.messages > 0);
        for (bot, depth) in full.filter_map(|(queue, depth)| Some((queue.strip_suffix(".dead")?, depth))) {
            let id = format!("dead-letters:{bot}");
            if !self.alerts.is_open(&id) {
                let summary = format!("{bot} has {} dead letters", depth.messages);
                self.alerts.raise(&id, Severity::Warning, &format!("bot:{bot}"), summary, now);
            }
        }
        let over = self.alerts.open().into_iter().filter(|a| {
            let queue = a.id.strip_prefix("dead-letters:").map(keys::dead_queue);
            let depth = queue.and_then(|q| snapshot.queues.get(&q));
            depth.is_some_and(|d| d.messages == 0) && snapshot.at - a.last > FIGURES_AGE
        });
        for id in over.map(|a| a.id.clone()).collect::<Vec<_>>() {
            self.alerts.resolve(&id, || "no dead letters are left".to_owned(), now);
        }
    }
}

/// Whether the key `<what>.<slug>.<rest>` is one of this bot.
fn is_by(bot: &str, routing_key: &str) -> bool {
    routing_key.split('.').nth(1) == Some(slug(bot).as_str())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        alerts::Announcement,
        correlations::State,
        fleet::tests::beat,
        queues::Depth,
        seen::tests::{at, observed},
    };
    use bot_messages::telemetry::{BotState, Outcome};
    use serde_json::json;

    pub(crate) fn tap<T: Serialize>(routing_key: &str, body: &T, ms: i64) -> Observed {
        let body = serde_json::to_vec(body).unwrap();
        Observed { body, routing_key: routing_key.into(), publisher: None, causation_id: None, at: at(ms) }
    }

    pub(crate) fn record(kind: RecordKind, message: &str) -> LogRecord {
        LogRecord {
            bot: "BuildBot".into(),
            instance: "a".into(),
            timestamp: at(0),
            level: "info".into(),
            kind,
            message: message.into(),
            correlation_id: Some("correlation-1".into()),
            message_id: Some("m1".into()),
            job_id: Some("job-abcdef".into()),
            line: None,
            outcome: (kind == RecordKind::Handled).then_some(Outcome::Acted),
            percent: None,
            duration_us: Some(80),
        }
    }

    fn hear(w: &mut Watch, bot: &str, s: i64) {
        let key = format!("health.{}.a", slug(bot));
        w.heartbeat(&tap(&key, &beat(bot, "a", BotState::Running), s * 1000));
        w.judge(at(s * 1000));
    }

    /// What is said, as `+id` and `-id`.
    fn said(w: &mut Watch) -> Vec<String> {
        let mut said = Vec::new();
        while let Some((_, announcement)) = w.alerts.next_unsaid() {
            said.push(match announcement {
                Announcement::Triggered(a) => format!("+{}", a.alert_id),
                Announcement::Resolved(a) => format!("-{}", a.alert_id),
            });
            w.alerts.said();
        }
        said
    }

    #[test]
    fn a_silent_bot_is_told_once_and_so_is_its_return() {
        let mut w = Watch::new(&Config::default());
        hear(&mut w, "BuildBot", 0);
        for s in 0..12 {
            hear(&mut w, "MonitorBot", s * 5);
        }
        assert_eq!(said(&mut w), ["+silent:build-bot"]);
        hear(&mut w, "BuildBot", 58);
        assert_eq!(said(&mut w), ["-silent:build-bot"]);
    }

    #[test]
    fn who_says_that_it_stops_is_not_missed() {
        let mut w = Watch::new(&Config::default());
        hear(&mut w, "BuildBot", 0);
        w.event(&observed(
            "m1",
            "bot.stopping",
            None,
            1,
            &json!({"bot": "BuildBot", "instance": "a", "reason": "SIGTERM"}),
        ));
        for s in 0..20 {
            hear(&mut w, "MonitorBot", s * 5);
        }
        assert_eq!(said(&mut w), [""; 0]);
    }

    #[test]
    fn a_heartbeat_in_anothers_name_is_not_believed() {
        let mut w = Watch::new(&Config::default());
        w.heartbeat(&tap("health.lint-bot.a", &beat("DeployBot", "a", BotState::Running), 0));
        w.record(&tap("log.lint-bot.info", &record(RecordKind::Output, "x"), 0));
        w.heartbeat(&tap("health.lint-bot.a", &json!([]), 0));
        assert_eq!((w.unreadable, w.fleet.bots(at(0)).len(), w.logs.jobs().count()), (3, 0, 0));
    }

    #[test]
    fn records_find_their_correlation_and_their_job() {
        let mut w = Watch::new(&Config::default());
        w.event(&observed("m1", "build.started", None, 1, &json!({"job_id": "job-abcdef"})));
        w.record(&tap("log.build-bot.info", &record(RecordKind::Handled, "started build"), 2));
        w.record(&tap("log.build-bot.info", &LogRecord { line: Some(1), ..record(RecordKind::Output, "hello") }, 2));
        w.record(&tap(
            "log.build-bot.info",
            &LogRecord { percent: Some(30), ..record(RecordKind::Progress, "compile") },
            2,
        ));
        assert_eq!(w.correlations.recent("", 1)[0].state, State::Running);
        assert_eq!(w.correlations.find("correlation-1").unwrap().1.handled["m1"][0].reason, "started build");
        assert_eq!(w.logs.page("job-abcdef", 0).lines[0].text, "hello");
        assert_eq!(w.jobs.find("job-abcdef").unwrap().percent, Some(30));
        assert_eq!(w.traffic.total(), 1);
    }

    #[test]
    fn dead_letters_are_one_alert_until_the_queue_is_empty() {
        let mut w = Watch::new(&Config::default());
        for i in 0..3 {
            w.event(&observed(
                &i.to_string(),
                "message.dead_lettered",
                None,
                i,
                &json!({"bot": "BuildBot", "error": "no commit"}),
            ));
        }
        assert_eq!((said(&mut w), w.alerts.open()[0].count), (vec!["+dead-letters:build-bot".to_owned()], 3));
        let mut queue = |s: i64, messages| {
            let queues = [("build-bot.dead".to_owned(), Depth { messages, ..Depth::default() })].into();
            w.queues = Some(Snapshot { at: at(s * 1000), queues });
            w.judge(at(s * 1000));
            said(&mut w)
        };
        assert_eq!(queue(5, 0), [""; 0], "figures may be older than the dead letter");
        assert_eq!(queue(30, 2), [""; 0]);
        assert_eq!(queue(40, 0), ["-dead-letters:build-bot"]);
        assert_eq!(queue(50, 1), ["+dead-letters:build-bot"], "nobody said so, but there it is");
    }

    #[test]
    fn who_says_what_it_is_not_is_an_alert_and_not_believed() {
        let mut w = Watch::new(&Config::default());
        let forged = observed("1", "message.dead_lettered", None, 1, &json!({"bot": "BuildBot"}));
        w.event(&Observed { publisher: Some("lint-bot".into()), ..forged.clone() });
        w.event(&Observed { routing_key: "build.started".into(), ..forged });
        assert_eq!(said(&mut w), ["+forged:lint-bot", "+forged:build-bot"]);
        assert_eq!(w.traffic.total(), 0);
    }

    #[test]
    fn an_application_that_is_taken_away_alarms_nobody_any_more() {
        let mut w = Watch::new(&Config::default());
        let release: Release =
            serde_json::from_value(json!({"digest": format!("sha256:{}", "a".repeat(64)), "health_url": "http://x/"}))
                .unwrap();
        w.applications.place("staging", Some(&release));
        for _ in 0..2 {
            w.applications.probed("staging", "http://x/", Err("refused".into()), at(0));
        }
        w.judge(at(0));
        assert_eq!(said(&mut w), ["+application:staging"]);
        let mut next = Watch::new(&Config::default());
        next.recall(w.memory(), at(1));
        next.judge(at(1));
        assert_eq!(said(&mut next), [""; 0], "an open alert is known after a restart");
        next.applications.place("staging", None);
        next.judge(at(2));
        assert_eq!(said(&mut next), ["-application:staging"]);
    }
}
