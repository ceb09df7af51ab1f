//! What an operator applied, held against what the bots' heartbeats say that they run; and how old their passwords are.
use std::collections::BTreeMap;

use bot_messages::{Severity, config::ConfigApplied};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    alerts::Alerts,
    fleet::{Bot, slug},
    seen::{Seen, cut},
};

/// A restart may take so long.
const GRACE: TimeDelta = TimeDelta::seconds(60);
const BOTS_MAX: usize = 1000;
const CONFIGURATION: &str = "configuration:";
const CREDENTIAL: &str = "credential:";

/// Of one bot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct One {
    config_hash: String,
    version: String,
    by: String,
    at: DateTime<Utc>,
}

/// What was applied last, by bot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Applied(BTreeMap<String, One>);

impl Applied {
    /// The error says what is wrong with the message.
    pub(crate) fn note(&mut self, seen: &Seen) -> Result<(), String> {
        let ConfigApplied { bots, by } =
            serde_json::from_value(seen.data.clone()).map_err(|e| format!("config.applied cannot be read: {e}"))?;
        for bot in bots {
            if self.0.len() >= BOTS_MAX && !self.0.contains_key(&bot.bot) {
                return Err(format!("config.applied names more than {BOTS_MAX} bots"));
            }
            let one = One {
                config_hash: cut(&bot.config_hash, 64),
                version: cut(&bot.version, 64),
                by: cut(&by, 128),
                at: seen.at,
            };
            self.0.insert(cut(&bot.bot, 128), one);
        }
        Ok(())
    }

    /// Raises an alert for each bot that runs something else, and resolves those that are over.
    pub(crate) fn judge(&self, bots: &[Bot], alerts: &mut Alerts, now: DateTime<Utc>) {
        let mut fine = alerts.open_ids(CONFIGURATION);
        for bot in bots {
            let Some(differs) = self.difference(bot, now) else { continue };
            let (slug, summary) = (slug(&bot.name), differs);
            let id = format!("{CONFIGURATION}{slug}");
            fine.retain(|open| *open != id);
            if !alerts.is_open(&id) {
                alerts.raise(&id, Severity::Warning, &format!("bot:{slug}"), summary, now);
            }
        }
        for id in fine {
            alerts.resolve(&id, || "it runs what was applied".to_owned(), now);
        }
    }

    fn difference(&self, bot: &Bot, now: DateTime<Utc>) -> Option<String> {
        let applied = self.0.get(&bot.name).filter(|applied| now - applied.at > GRACE)?;
        let other =
            bot.instances.iter().filter(|instance| instance.alive).map(|instance| &instance.heartbeat).find(|h| {
                !h.config_hash.is_empty() && (h.config_hash != applied.config_hash || h.version != applied.version)
            })?;
        Some(format!(
            "{} ({}) runs configuration {} of version {}, and {} applied {} of {} at {}: restart it, or say `lota config apply` \
             if that is meant",
            bot.name,
            other.instance,
            other.config_hash,
            other.version,
            applied.by,
            applied.config_hash,
            applied.version,
            applied.at.format("%Y-%m-%d %H:%M:%S"),
        ))
    }
}

/// Passwords that were not changed for more than `days_max`; 0: nobody looks.
pub(crate) fn judge_credentials(bots: &[Bot], days_max: u32, alerts: &mut Alerts, now: DateTime<Utc>) {
    let mut fine = alerts.open_ids(CREDENTIAL);
    for bot in bots {
        let ages = bot.instances.iter().filter(|instance| instance.alive).filter_map(|i| i.heartbeat.credential_age_s);
        let days = ages.max().unwrap_or_default() / 86_400;
        if days_max == 0 || days <= u64::from(days_max) {
            continue;
        }
        let slug = slug(&bot.name);
        let id = format!("{CREDENTIAL}{slug}");
        fine.retain(|open| *open != id);
        if !alerts.is_open(&id) {
            let summary = format!(
                "the broker password of {} is {days} days old, {days_max} are allowed: `lota credentials rotate {slug}`",
                bot.name
            );
            alerts.raise(&id, Severity::Warning, &format!("bot:{slug}"), summary, now);
        }
    }
    for id in fine {
        alerts.resolve(&id, || "the password was changed".to_owned(), now);
    }
}

#[cfg(test)]
mod tests {
    use bot_core::Observed;
    use bot_messages::{
        Event,
        telemetry::{BotState, Heartbeat},
    };
    use serde_json::json;

    use super::*;
    use crate::{
        Config,
        fleet::tests::beat,
        seen::tests::at,
        watch::{Watch, tests::tap},
    };

    fn hear(w: &mut Watch, s: i64, change: impl FnOnce(&mut Heartbeat)) -> Vec<String> {
        let mut heartbeat = beat("BuildBot", "a", BotState::Running);
        change(&mut heartbeat);
        w.heartbeat(&tap("health.build-bot.a", &heartbeat, s * 1000));
        w.judge(at(s * 1000));
        w.alerts.open().iter().map(|alert| alert.id.clone()).collect()
    }

    fn apply(w: &mut Watch, hash: &str, s: i64) {
        let mut data = serde_json::to_value(ConfigApplied::example()).unwrap();
        data["bots"] = json!([{"bot": "BuildBot", "config_hash": hash, "version": "0.1.0"}]);
        let body = json!({"id": format!("m{s}"), "timestamp": at(s * 1000), "source": "operator", "destination": "*",
            "type": ConfigApplied::TYPE, "payload": {"data": data}});
        let said = tap(ConfigApplied::TYPE, &body, s * 1000);
        w.event(&Observed { publisher: Some("operator".into()), ..said });
    }

    fn runs(hash: &str) -> impl FnOnce(&mut Heartbeat) {
        let hash = hash.to_owned();
        move |heartbeat| {
            heartbeat.config_hash = hash;
            heartbeat.version = "0.1.0".to_owned();
        }
    }

    #[test]
    fn what_runs_and_was_not_applied_is_an_alert_until_it_is() {
        let mut w = Watch::new(&Config::default());
        assert!(hear(&mut w, 0, runs("aaaa")).is_empty(), "nothing was applied yet");
        apply(&mut w, "bbbb", 1);
        assert!(hear(&mut w, 5, runs("aaaa")).is_empty(), "it may be about to restart");
        for s in (10..=60).step_by(5) {
            hear(&mut w, s, runs("aaaa"));
        }
        assert_eq!(hear(&mut w, 65, runs("aaaa")), ["configuration:build-bot"]);
        let alert = w.alerts.open()[0].summary.clone();
        assert!(alert.contains("aaaa") && alert.contains("bbbb") && alert.contains("lota config apply"), "{alert}");
        assert!(hear(&mut w, 70, runs("bbbb")).is_empty());
        assert_eq!(
            hear(&mut w, 75, |h| {
                runs("bbbb")(h);
                h.version = "0.2.0".to_owned();
            }),
            ["configuration:build-bot"]
        );
    }

    #[test]
    fn what_was_applied_is_known_after_a_restart() {
        let mut w = Watch::new(&Config::default());
        apply(&mut w, "bbbb", 1);
        let memory = w.memory();
        let mut next = Watch::new(&Config::default());
        next.recall(memory, at(100_000));
        for s in (100..=130).step_by(5) {
            hear(&mut next, s, runs("aaaa"));
        }
        assert_eq!(hear(&mut next, 135, runs("aaaa")), ["configuration:build-bot"]);
    }

    #[test]
    fn an_old_password_is_an_alert_until_it_is_changed() {
        let mut w = Watch::new(&Config::default());
        for s in (0..=30).step_by(5) {
            hear(&mut w, s, |_| {});
        }
        let aged = |days: u64| move |heartbeat: &mut Heartbeat| heartbeat.credential_age_s = Some(days * 86_400 + 5);
        assert!(hear(&mut w, 35, aged(90)).is_empty());
        assert_eq!(hear(&mut w, 40, aged(91)), ["credential:build-bot"]);
        assert!(hear(&mut w, 45, aged(0)).is_empty());
    }
}
