//! Alerts about bots that hold back work by themselves, or cannot go on: raised by the bot's own event, so at once, or by its
//! heartbeat where that was missed; over once its heartbeats tell so. What is done about it is not the monitor's to do.
use bot_messages::{
    Code, Severity,
    bot::{BotFailed, BotPaused, BotResumed},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use crate::{
    alerts::Alerts,
    fleet::{Bot, Status, slug},
    seen::{Seen, cut},
};

/// A heartbeat that was on its way when it began says nothing of it.
const HEARD_AFTER: TimeDelta = TimeDelta::seconds(10);
const HELD: &str = "held:";
const FAILED: &str = "failed:";

fn id(prefix: &str, bot: &str, what: &str) -> String {
    if what.is_empty() { format!("{prefix}{}", slug(bot)) } else { format!("{prefix}{}:{what}", slug(bot)) }
}

fn raise(alerts: &mut Alerts, id: &str, bot: &str, severity: Severity, summary: &str, now: DateTime<Utc>) {
    alerts.raise(id, severity, &format!("bot:{}", slug(bot)), cut(summary, 400), now);
}

/// Somebody has to look, however harmless one such error is by itself.
fn severity(code: Code) -> Severity {
    code.severity().max(Severity::Warning)
}

/// A bot said that it holds something back. What a person asked for is no alert.
pub(crate) fn paused(seen: &Seen, alerts: &mut Alerts, now: DateTime<Utc>) {
    let Ok(BotPaused { what: Some(what), error: Some(error), reason, .. }) = BotPaused::deserialize(&seen.data) else {
        return;
    };
    let (bot, what) = (seen.source.as_str(), cut(&what, 80));
    raise(alerts, &id(HELD, bot, &what), bot, severity(error.code), &format!("{bot} holds back work; {reason}"), now);
}

/// A bot said that it goes on.
pub(crate) fn resumed(seen: &Seen, alerts: &mut Alerts, now: DateTime<Utc>) {
    if let Ok(BotResumed { what: Some(what), .. }) = BotResumed::deserialize(&seen.data) {
        let bot = seen.source.as_str();
        alerts.resolve(&id(HELD, bot, &cut(&what, 80)), || format!("{bot} goes on with {what}"), now);
    }
}

/// A bot said that it cannot go on.
pub(crate) fn failed(seen: &Seen, alerts: &mut Alerts, now: DateTime<Utc>) {
    if let Ok(BotFailed { error, .. }) = BotFailed::deserialize(&seen.data) {
        let bot = seen.source.as_str();
        let summary = format!("{bot} cannot go on: {}", error.message);
        raise(alerts, &id(FAILED, bot, ""), bot, Severity::Critical, &summary, now);
    }
}

/// By what the bots' heartbeats say.
pub(crate) fn judge(bots: &[Bot], alerts: &mut Alerts, now: DateTime<Utc>) {
    for bot in bots {
        let alive = || bot.instances.iter().filter(|instance| instance.alive);
        for held in alive().flat_map(|instance| &instance.heartbeat.held) {
            let id = id(HELD, &bot.name, &cut(&held.what, 80));
            if !alerts.is_open(&id) {
                let why = format!("{} ({}): {}", held.dependency, held.code.as_str(), held.error);
                let summary = format!("{} holds back {}, since it waits for {why}", bot.name, held.what);
                raise(alerts, &id, &bot.name, severity(held.code), &summary, now);
            }
        }
        // Of all its processes, since each holds back by itself.
        let heard_at = alive().filter_map(|instance| instance.heard_at).min();
        let is_held = |id: &str| {
            let whats = alive().flat_map(|instance| &instance.heartbeat.held).map(|held| cut(&held.what, 80));
            whats.into_iter().any(|what| self::id(HELD, &bot.name, &what) == id)
        };
        let mine = alerts.open_ids(&format!("{HELD}{}:", slug(&bot.name))).into_iter();
        let mine = mine.chain(alerts.open_ids(&id(FAILED, &bot.name, "")));
        for id in mine.collect::<Vec<_>>() {
            let last = alerts.open().iter().find(|alert| alert.id == id).map(|alert| alert.last);
            let is_later = heard_at.zip(last).is_some_and(|(heard_at, last)| heard_at - last > HEARD_AFTER);
            let is_well = if id.starts_with(FAILED) { bot.status != Status::Critical } else { !is_held(&id) };
            if is_later && is_well {
                alerts.resolve(&id, || format!("{} goes on", bot.name), now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bot_messages::telemetry::{BotState, Held};
    use serde_json::json;

    use super::*;
    use crate::{
        Config,
        fleet::tests::beat,
        seen::tests::{at, observed},
        watch::{Watch, tests::tap},
    };

    fn heard(w: &mut Watch, held: Vec<Held>, s: i64) {
        let heartbeat = bot_messages::telemetry::Heartbeat { held, ..beat("BuildBot", "a", BotState::Degraded) };
        w.heartbeat(&tap("health.build-bot.a", &heartbeat, s * 1000));
        w.judge(at(s * 1000));
    }

    fn open(w: &Watch) -> Vec<(String, Severity)> {
        w.alerts.open().iter().map(|alert| (alert.id.clone(), alert.severity)).collect()
    }

    fn held() -> Held {
        Held {
            what: "job build".into(),
            dependency: "objects".into(),
            code: Code::ConnectionRefused,
            error: "refused".into(),
            since: at(0),
            probe_at: at(5),
        }
    }

    #[test]
    fn a_bot_that_holds_back_work_is_told_at_once_and_until_it_goes_on() {
        let mut w = Watch::new(&Config::default());
        let error = json!({"code": "CONNECTION_REFUSED", "message": "refused", "timestamp": at(0)});
        let said = json!({"bot": "BuildBot", "instance": "a", "reason": "auto: job build wait for objects",
            "by": "BuildBot", "what": "job build", "dependency": "objects", "error": error});
        let critical = vec![("held:build-bot:job build".to_owned(), Severity::Critical)];
        w.event(&observed("1", "bot.paused", None, 1, &said));
        assert_eq!(open(&w), critical);
        heard(&mut w, Vec::new(), 2);
        for s in 3..60 {
            heard(&mut w, vec![held()], s);
        }
        assert_eq!(open(&w), critical, "a heartbeat from before says nothing");
        let said = json!({"bot": "BuildBot", "instance": "a", "by": "BuildBot", "what": "job build"});
        w.event(&observed("2", "bot.resumed", None, 60_000, &said));
        assert_eq!(open(&w), []);
    }

    #[test]
    fn events_that_were_missed_are_made_up_for_by_heartbeats() {
        let mut w = Watch::new(&Config::default());
        for s in 0..40 {
            heard(&mut w, vec![held()], s);
        }
        assert_eq!(open(&w).len(), 1);
        for s in 40..90 {
            heard(&mut w, Vec::new(), s);
        }
        assert_eq!(open(&w), []);
    }

    #[test]
    fn what_a_person_asked_for_is_no_alert_and_a_bot_that_cannot_go_on_is_one() {
        let mut w = Watch::new(&Config::default());
        let said = json!({"bot": "BuildBot", "instance": "a", "reason": "maintenance", "by": "operator"});
        w.event(&observed("1", "bot.paused", None, 1, &said));
        assert_eq!(open(&w), []);
        let error = json!({"code": "UNKNOWN_ERROR", "message": "2 messages wait", "timestamp": at(0)});
        w.event(&observed("2", "bot.failed", None, 1, &json!({"bot": "BuildBot", "instance": "a", "error": error})));
        assert_eq!(open(&w), [("failed:build-bot".to_owned(), Severity::Critical)]);
        for s in 0..60 {
            heard(&mut w, Vec::new(), s);
        }
        assert_eq!(open(&w), []);
    }
}
