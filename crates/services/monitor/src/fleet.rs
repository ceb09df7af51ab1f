//! The bots as their heartbeats tell: latest heartbeat per process, who is silent, and how each bot is.
use std::collections::{BTreeMap, BTreeSet};

use bot_messages::{
    BotName,
    telemetry::{BotState, Heartbeat},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

/// At most so many processes are remembered.
const INSTANCES_MAX: usize = 1000;
/// A bot that stopped in order is shown for so long.
const STOPPED_SHOWN: TimeDelta = TimeDelta::minutes(10);
/// A gap this long between two heartbeats of anyone means that this process did not hear, not that nobody spoke.
const DEAF_AFTER: TimeDelta = TimeDelta::seconds(15);

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As it should be.
    Healthy,
    /// Works with less than it should have, or does not work because someone wanted it so.
    Degraded,
    /// Does not work.
    Critical,
}

#[derive(Clone, Debug)]
struct Process {
    heartbeat: Heartbeat,
    heard_at: DateTime<Utc>,
    stopping: bool,
    /// From an earlier run of the monitor: expected, not yet heard by this one.
    remembered: bool,
}

/// One process of a bot.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Instance {
    /// Whether it was heard lately and is not on its way down.
    pub(crate) alive: bool,
    /// When its latest heartbeat came; `null` where it is only remembered from an earlier run of the monitor.
    pub(crate) heard_at: Option<DateTime<Utc>>,
    /// Milliseconds since then.
    pub(crate) age_ms: i64,
    /// The heartbeat.
    pub(crate) heartbeat: Heartbeat,
}

/// One bot.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Bot {
    /// As in `source`.
    pub(crate) name: String,
    /// How it is.
    pub(crate) status: Status,
    /// What it does: as in heartbeats, or `stopped` or `silent`.
    pub(crate) state: &'static str,
    /// Why it is not healthy.
    pub(crate) error: Option<String>,
    /// The latest heartbeat of a process that is alive; `null` without any: an old one would look like work.
    pub(crate) heartbeat: Option<Heartbeat>,
    /// Its processes.
    pub(crate) instances: Vec<Instance>,
}

impl Bot {
    /// The process heard last.
    pub(crate) fn latest(&self) -> Option<&Instance> {
        self.instances.iter().min_by_key(|i| i.age_ms)
    }
}

/// All bots.
#[derive(Debug)]
pub(crate) struct Fleet {
    silent_after: TimeDelta,
    processes: BTreeMap<(String, String), Process>,
    heard_last: Option<DateTime<Utc>>,
    /// Since when heartbeats come without a gap.
    hearing_since: Option<DateTime<Utc>>,
}

impl Fleet {
    /// None yet. Who is not heard for `silent_after` is silent.
    pub(crate) fn new(silent_after: TimeDelta) -> Self {
        Self { silent_after, processes: BTreeMap::new(), heard_last: None, hearing_since: None }
    }

    /// A heartbeat came.
    pub(crate) fn heard(&mut self, heartbeat: Heartbeat, now: DateTime<Utc>) {
        if self.heard_last.is_none_or(|last| now - last > DEAF_AFTER) {
            self.hearing_since = Some(now);
        }
        self.heard_last = Some(now);
        self.processes.retain(|(bot, _), p| *bot != heartbeat.bot || !p.remembered);
        let stopping = heartbeat.state == BotState::Stopping;
        let place = (heartbeat.bot.clone(), heartbeat.instance.clone());
        self.processes.insert(place, Process { heartbeat, heard_at: now, stopping, remembered: false });
        while self.processes.len() > INSTANCES_MAX {
            let Some(stalest) = self.processes.iter().min_by_key(|(_, p)| p.heard_at).map(|(place, _)| place.clone())
            else {
                return;
            };
            self.processes.remove(&stalest);
        }
    }

    /// A process said that it goes down in order.
    pub(crate) fn stopping(&mut self, bot: &str, instance: &str) {
        if let Some(process) = self.processes.get_mut(&(bot.to_owned(), instance.to_owned())) {
            process.stopping = true;
        }
    }

    /// Bots that an earlier run of the monitor expected: they have until `silent_after` to be heard.
    pub(crate) fn remember(&mut self, bots: &[String], now: DateTime<Utc>) {
        for bot in bots.iter().take(INSTANCES_MAX) {
            let heartbeat = Heartbeat { bot: bot.clone(), timestamp: now, ..Heartbeat::default() };
            let process = Process { heartbeat, heard_at: now, stopping: false, remembered: true };
            self.processes.insert((bot.clone(), String::new()), process);
        }
    }

    /// Bots that should be heard: all that did not go down in order.
    pub(crate) fn expected(&self) -> BTreeSet<String> {
        self.processes.iter().filter(|(_, p)| !p.stopping).map(|((bot, _), _)| bot.clone()).collect()
    }

    /// Forgets processes that were replaced, and bots that stopped in order a while ago.
    pub(crate) fn forget(&mut self, now: DateTime<Utc>) {
        let alive: BTreeSet<String> =
            self.processes.iter().filter(|(_, p)| self.is_alive(p, now)).map(|((bot, _), _)| bot.clone()).collect();
        let silent_after = self.silent_after;
        self.processes.retain(|(bot, _), p| {
            let age = now - p.heard_at;
            let is_replaced = alive.contains(bot) && age > silent_after * 2;
            let is_long_gone = p.stopping && age > STOPPED_SHOWN;
            !is_replaced && !is_long_gone
        });
    }

    /// Whether anyone is heard at all. If not, nothing can be said about the bots.
    pub(crate) fn is_hearing(&self, now: DateTime<Utc>) -> bool {
        self.heard_last.is_some_and(|last| now - last <= DEAF_AFTER)
    }

    /// Whether heartbeats have come long enough to say who is missing.
    pub(crate) fn can_judge(&self, now: DateTime<Utc>) -> bool {
        self.is_hearing(now) && self.hearing_since.is_some_and(|since| now - since >= self.silent_after)
    }

    /// Every bot, by name.
    pub(crate) fn bots(&self, now: DateTime<Utc>) -> Vec<Bot> {
        let mut by_name: BTreeMap<&str, Vec<&Process>> = BTreeMap::new();
        for ((bot, _), process) in &self.processes {
            by_name.entry(bot).or_default().push(process);
        }
        by_name.into_iter().map(|(name, processes)| self.bot(name, &processes, now)).collect()
    }

    /// One bot, by its name or its slug.
    pub(crate) fn find(&self, name: &str, now: DateTime<Utc>) -> Option<Bot> {
        self.bots(now).into_iter().find(|b| b.name == name || slug(&b.name) == name)
    }

    fn is_alive(&self, process: &Process, now: DateTime<Utc>) -> bool {
        !process.stopping && !process.remembered && now - process.heard_at < self.silent_after
    }

    fn bot(&self, name: &str, processes: &[&Process], now: DateTime<Utc>) -> Bot {
        let instances = processes.iter().map(|p| Instance {
            alive: self.is_alive(p, now),
            heard_at: (!p.remembered).then_some(p.heard_at),
            age_ms: (now - p.heard_at).num_milliseconds().max(0),
            heartbeat: p.heartbeat.clone(),
        });
        let alive = processes.iter().filter(|p| self.is_alive(p, now));
        let (status, state, error) = self.verdict(name, processes, now);
        Bot {
            name: name.to_owned(),
            status,
            state,
            error,
            heartbeat: alive.max_by_key(|p| p.heard_at).map(|p| p.heartbeat.clone()),
            instances: instances.collect(),
        }
    }

    /// The worst of those that are alive; without any, whether it is meant to be gone.
    fn verdict(
        &self,
        name: &str,
        processes: &[&Process],
        now: DateTime<Utc>,
    ) -> (Status, &'static str, Option<String>) {
        let alive = processes.iter().filter(|p| self.is_alive(p, now));
        if let Some(worst) = alive.max_by_key(|p| (condition(p.heartbeat.state), p.heard_at)) {
            let status = condition(worst.heartbeat.state);
            let reasons = worst.heartbeat.reasons.join("; ");
            let why = if reasons.is_empty() { format!("it is {}", worst.heartbeat.state.as_str()) } else { reasons };
            return (status, worst.heartbeat.state.as_str(), (status != Status::Healthy).then_some(why));
        }
        let Some(latest) = processes.iter().max_by_key(|p| p.heard_at) else {
            return (Status::Critical, "silent", None);
        };
        let age_s = (now - latest.heard_at).num_seconds();
        if latest.stopping {
            return (Status::Degraded, "stopped", Some(format!("{name} went down in order {age_s} s ago")));
        }
        if latest.remembered && age_s < self.silent_after.num_seconds() {
            return (
                Status::Degraded,
                "starting",
                Some(format!("{name} has not been heard yet since the monitor started")),
            );
        }
        (Status::Critical, "silent", Some(format!("{name} has not been heard for {age_s} s")))
    }
}

fn condition(state: BotState) -> Status {
    match state {
        // `enabled: false` is what its configuration asks for.
        BotState::Running | BotState::Disabled => Status::Healthy,
        BotState::Starting | BotState::Degraded | BotState::Paused | BotState::Stopping => Status::Degraded,
    }
}

/// `BuildBot` → `build-bot`; what is no name of a bot stays as it is.
pub(crate) fn slug(bot: &str) -> String {
    bot.parse::<BotName>().map_or_else(|_| bot.to_owned(), |n| n.slug())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::seen::tests::at;

    pub(crate) fn beat(bot: &str, instance: &str, state: BotState) -> Heartbeat {
        Heartbeat {
            bot: bot.into(),
            instance: instance.into(),
            state,
            processed: 7,
            response_p50_us: 2_500,
            ..Heartbeat::default()
        }
    }

    fn fleet() -> Fleet {
        Fleet::new(TimeDelta::seconds(30))
    }

    fn status(f: &Fleet, bot: &str, ms: i64) -> (Status, &'static str) {
        let bot = f.find(bot, at(ms)).unwrap();
        (bot.status, bot.state)
    }

    #[test]
    fn a_bot_is_as_its_heartbeat_says_until_it_is_silent() {
        let mut f = fleet();
        f.heard(beat("BuildBot", "a", BotState::Running), at(0));
        assert_eq!(status(&f, "build-bot", 29_000), (Status::Healthy, "running"));
        assert_eq!(status(&f, "BuildBot", 30_000), (Status::Critical, "silent"));
        f.heard(beat("BuildBot", "a", BotState::Paused), at(31_000));
        assert_eq!(status(&f, "BuildBot", 31_000), (Status::Degraded, "paused"));
        assert!(f.find("TestBot", at(0)).is_none());
    }

    #[test]
    fn who_went_down_in_order_is_not_missed() {
        let mut f = fleet();
        f.heard(beat("BuildBot", "a", BotState::Running), at(0));
        f.stopping("BuildBot", "a");
        assert_eq!(status(&f, "BuildBot", 90_000), (Status::Degraded, "stopped"));
        assert!(f.expected().is_empty());
        f.forget(at(601_000));
        assert!(f.bots(at(601_000)).is_empty());
    }

    #[test]
    fn a_new_process_replaces_a_lost_one() {
        let mut f = fleet();
        f.heard(beat("BuildBot", "a", BotState::Running), at(0));
        f.heard(beat("BuildBot", "b", BotState::Running), at(60_000));
        assert_eq!(status(&f, "BuildBot", 61_000), (Status::Healthy, "running"));
        let heartbeat = |ms| f.find("BuildBot", at(ms)).unwrap().heartbeat.map(|h| h.instance);
        assert_eq!((heartbeat(61_000).as_deref(), heartbeat(99_000)), (Some("b"), None));
        f.forget(at(61_000));
        let instances = f.find("BuildBot", at(61_000)).unwrap().instances;
        assert_eq!(instances.iter().map(|i| i.heartbeat.instance.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn the_worst_replica_counts() {
        let mut f = fleet();
        f.heard(beat("BuildBot", "a", BotState::Degraded), at(0));
        f.heard(beat("BuildBot", "b", BotState::Running), at(1));
        assert_eq!(status(&f, "BuildBot", 2), (Status::Degraded, "degraded"));
    }

    #[test]
    fn who_hears_nobody_judges_nobody() {
        let mut f = fleet();
        assert!(!f.can_judge(at(0)));
        for s in 0..8 {
            f.heard(beat("MonitorBot", "m", BotState::Running), at(s * 5_000));
        }
        assert!(f.can_judge(at(35_000)));
        assert!(!f.can_judge(at(55_000)), "deaf");
        f.heard(beat("MonitorBot", "m", BotState::Running), at(100_000));
        assert!(!f.can_judge(at(100_000)), "the others get their time to be heard again");
    }

    #[test]
    fn bots_of_an_earlier_run_are_expected() {
        let mut f = fleet();
        f.remember(&["BuildBot".into(), "TestBot".into()], at(0));
        f.heard(beat("BuildBot", "new", BotState::Running), at(1));
        assert_eq!(status(&f, "TestBot", 1_000), (Status::Degraded, "starting"));
        assert_eq!(status(&f, "TestBot", 30_000), (Status::Critical, "silent"));
        assert_eq!(f.find("BuildBot", at(2)).unwrap().instances.len(), 1);
        assert_eq!(f.expected().len(), 2);
    }
}
