//! Auto-pause: what fails again and again for one reason outside is held back, so that an outage burns nobody's attempts,
//! and tried with one message or job at growing intervals. Pure: the time is given. What follows from it is in `holding`.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bot_messages::{Code, Severity, telemetry::Held};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::config::AutoPause;

/// What is held back where it is no job.
pub(crate) const MESSAGES: &str = "messages";
/// Outcomes that are looked back at.
const RECENT_MAX: usize = 20;
const RECENT: TimeDelta = TimeDelta::minutes(5);
const FIRST_WAIT: TimeDelta = TimeDelta::seconds(5);
/// Trouble that comes back sooner is the same trouble, and is waited for longer.
const SAME_TROUBLE: TimeDelta = TimeDelta::minutes(1);
const ERROR_CHARS_MAX: usize = 300;

/// As in heartbeats and events.
pub(crate) fn what_of(kind: &str) -> String {
    format!("job {kind}")
}

/// How something outside failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outside {
    pub(crate) dependency: String,
    pub(crate) code: Code,
    pub(crate) error: String,
}

impl Outside {
    pub(crate) fn new(dependency: &str, code: Code, error: &str) -> Self {
        Self { dependency: dependency.to_owned(), code, error: error.chars().take(ERROR_CHARS_MAX).collect() }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.dependency == other.dependency && self.code == other.code
    }
}

/// Something that is held back; a row of the store, so that a restart changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hold {
    pub(crate) outside: Outside,
    pub(crate) since: DateTime<Utc>,
    pub(crate) probe_at: DateTime<Utc>,
    wait_s: i64,
    /// One is on its way.
    #[serde(skip)]
    probing: bool,
}

/// What changed, to be told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum News {
    Began { what: String, hold: Hold },
    Ended { what: String, hold: Hold },
}

/// Whether something may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    All,
    /// As a probe.
    One,
    None,
}

/// When something ended, and what outside it failed for.
type Outcome = (DateTime<Utc>, Option<Outside>);

/// All that is held back, and what is remembered to decide about it.
#[derive(Debug, Default)]
pub(crate) struct Relief {
    rules: AutoPause,
    essential: BTreeSet<String>,
    recent: BTreeMap<String, VecDeque<Outcome>>,
    held: BTreeMap<String, Hold>,
    /// What was held back lately.
    over: BTreeMap<String, (DateTime<Utc>, Hold)>,
    news: Vec<News>,
    unwritten: bool,
}

impl Relief {
    /// With what an earlier process held back.
    pub(crate) fn new(rules: &AutoPause, essential: BTreeSet<String>) -> Self {
        Self { rules: rules.clone(), essential, ..Self::default() }
    }

    /// Goes on from what an earlier process wrote.
    pub(crate) fn recall(&mut self, row: &str) {
        if self.rules.enabled {
            self.held = serde_json::from_str(row).unwrap_or_default();
        }
    }

    /// It was handled: whatever came of it, nothing outside was missing.
    pub(crate) fn worked(&mut self, what: &str, now: DateTime<Utc>) {
        self.remember(what, None, now);
        if let Some(hold) = self.held.remove(what) {
            self.recent.remove(what);
            self.over.insert(what.to_owned(), (now, hold.clone()));
            self.news.push(News::Ended { what: what.to_owned(), hold });
            self.unwritten = true;
        }
    }

    /// Something outside failed. `Some`: it is held back for so long from now, and this was no attempt.
    pub(crate) fn failed(&mut self, what: &str, outside: &Outside, now: DateTime<Utc>) -> Option<TimeDelta> {
        if !self.rules.enabled {
            return None;
        }
        if let Some(hold) = self.held.get_mut(what) {
            // Those that were on their way when it began are no probes.
            if hold.probing {
                hold.wait_s = longer(hold.wait_s, self.rules.longest_wait_s);
                hold.probe_at = now + TimeDelta::seconds(hold.wait_s);
                hold.probing = false;
                hold.outside = outside.clone();
                self.unwritten = true;
            }
            return Some((hold.probe_at - now).max(TimeDelta::zero()));
        }
        self.remember(what, Some(outside.clone()), now);
        if !self.is_too_much(what, outside) {
            return None;
        }
        let before = self.over.get(what).filter(|(at, hold)| now - *at < SAME_TROUBLE && hold.outside.is_same(outside));
        let wait_s = before.map_or(FIRST_WAIT.num_seconds(), |(_, h)| longer(h.wait_s, self.rules.longest_wait_s));
        let probe_at = now + TimeDelta::seconds(wait_s);
        let hold = Hold { outside: outside.clone(), since: now, probe_at, wait_s, probing: false };
        self.held.insert(what.to_owned(), hold.clone());
        self.news.push(News::Began { what: what.to_owned(), hold });
        self.unwritten = true;
        Some(TimeDelta::seconds(wait_s))
    }

    /// The probe came to nothing that says anything: it was cancelled, put off, or taken over.
    pub(crate) fn unknown(&mut self, what: &str) {
        if let Some(hold) = self.held.get_mut(what) {
            hold.probing = false;
        }
    }

    /// Whether it may begin. Who begins a probe says so.
    pub(crate) fn leave(&self, what: &str, now: DateTime<Utc>) -> Leave {
        let Some(hold) = self.held.get(what) else { return Leave::All };
        // A clock that was set back must not hold it for ever.
        let is_due = hold.probe_at <= now || hold.probe_at - now > TimeDelta::seconds(self.rules.longest_wait_s.into());
        if is_due && !hold.probing { Leave::One } else { Leave::None }
    }

    pub(crate) fn begin_probe(&mut self, what: &str) {
        if let Some(hold) = self.held.get_mut(what) {
            hold.probing = true;
        }
    }

    /// A person believes that it is over.
    pub(crate) fn try_now(&mut self, now: DateTime<Utc>) {
        for hold in self.held.values_mut() {
            hold.probe_at = hold.probe_at.min(now);
        }
    }

    pub(crate) fn held(&self) -> &BTreeMap<String, Hold> {
        &self.held
    }

    /// What is to be told, oldest first.
    pub(crate) fn news(&self) -> &[News] {
        &self.news
    }

    /// So many were told.
    pub(crate) fn told(&mut self, count: usize) {
        self.news.drain(..count.min(self.news.len()));
    }

    /// The row, where it is another than the one that was taken last.
    pub(crate) fn take_row(&mut self) -> Option<String> {
        std::mem::take(&mut self.unwritten).then(|| serde_json::to_string(&self.held).unwrap_or_default())
    }

    fn remember(&mut self, what: &str, outside: Option<Outside>, now: DateTime<Utc>) {
        let recent = self.recent.entry(what.to_owned()).or_default();
        recent.push_back((now, outside));
        while recent.len() > RECENT_MAX || recent.front().is_some_and(|(at, _)| now - *at > RECENT) {
            recent.pop_front();
        }
    }

    /// At once where the bot cannot work without it; else once most of what came lately failed for it.
    fn is_too_much(&self, what: &str, outside: &Outside) -> bool {
        if self.essential.contains(&outside.dependency) && outside.code.severity() == Severity::Critical {
            return true;
        }
        let Some(recent) = self.recent.get(what) else { return false };
        let same = recent.iter().filter(|(_, o)| o.as_ref().is_some_and(|o| o.is_same(outside))).count();
        same >= self.rules.failures as usize && same * 2 > recent.len()
    }
}

fn longer(wait_s: i64, longest_wait_s: u32) -> i64 {
    (wait_s * 2).min(longest_wait_s.into())
}

impl Hold {
    pub(crate) fn told(&self, what: &str) -> Held {
        Held {
            what: what.to_owned(),
            dependency: self.outside.dependency.clone(),
            code: self.outside.code,
            error: self.outside.error.clone(),
            since: self.since,
            probe_at: self.probe_at,
        }
    }

    /// For people.
    pub(crate) fn why(&self, what: &str) -> String {
        let Outside { dependency, code, error } = &self.outside;
        format!("auto: {what} wait for {dependency} ({}): {error}", code.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD: &str = "job build";

    fn at(s: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_793_534_400 + s, 0).unwrap()
    }

    fn relief() -> Relief {
        Relief::new(&AutoPause::default(), BTreeSet::from(["objects".to_owned()]))
    }

    fn refused(dependency: &str) -> Outside {
        Outside::new(dependency, Code::ConnectionRefused, "connection refused")
    }

    #[test]
    fn most_of_what_comes_has_to_fail_for_one_reason() {
        let mut r = relief();
        for s in 0..4 {
            assert_eq!(r.failed(BUILD, &refused("git:a"), at(s)), None);
            assert_eq!(r.failed(BUILD, &refused("git:b"), at(s)), None, "of another reason");
        }
        assert_eq!(r.failed(BUILD, &refused("git:a"), at(5)).map(|w| w.num_seconds()), Some(5), "5 of 9");
        assert_eq!((r.leave(BUILD, at(5)), r.leave(MESSAGES, at(5))), (Leave::None, Leave::All));
        let mut mixed = relief();
        for s in 0..6 {
            mixed.worked(BUILD, at(s));
        }
        for s in 6..12 {
            assert_eq!(mixed.failed(BUILD, &refused("git:a"), at(s)), None, "{s}: not more than half");
        }
        assert!(mixed.failed(BUILD, &refused("git:a"), at(12)).is_some());
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut r = relief();
        for minute in 0..20 {
            assert_eq!(r.failed(BUILD, &refused("git:a"), at(minute * 120)), None);
        }
    }

    #[test]
    fn one_critical_failure_of_what_is_essential_is_enough() {
        let mut r = relief();
        assert!(r.failed(BUILD, &Outside::new("objects", Code::NotFound, "gone"), at(0)).is_none(), "no critical one");
        assert!(r.failed(BUILD, &refused("objects"), at(0)).is_some());
        let [News::Began { what, hold }] = r.news() else { panic!("{:?}", r.news()) };
        assert_eq!((what.as_str(), hold.outside.code), (BUILD, Code::ConnectionRefused));
    }

    #[test]
    fn probes_come_at_growing_intervals_one_at_a_time_and_a_success_ends_it() {
        let mut r = relief();
        r.failed(BUILD, &refused("objects"), at(0));
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..8 {
            let due = (now..now + 1000).find(|s| r.leave(BUILD, at(*s)) == Leave::One).unwrap();
            waits.push(due - now);
            now = due;
            r.begin_probe(BUILD);
            assert_eq!(r.leave(BUILD, at(now + 1000)), Leave::None, "one at a time");
            assert!(r.failed(BUILD, &refused("objects"), at(now)).is_some(), "a probe is no attempt");
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        r.worked(BUILD, at(now + 300));
        assert_eq!(r.leave(BUILD, at(now + 300)), Leave::All);
        assert!(matches!(r.news().last(), Some(News::Ended { .. })));
        let again = r.failed(BUILD, &refused("objects"), at(now + 301)).map(|w| w.num_seconds());
        assert_eq!(again, Some(300), "the same trouble, as before");
    }

    #[test]
    fn what_was_on_its_way_when_it_began_neither_counts_nor_waits_longer() {
        let mut r = relief();
        r.failed(BUILD, &refused("objects"), at(0));
        for _ in 0..10 {
            assert_eq!(r.failed(BUILD, &refused("objects"), at(2)).map(|w| w.num_seconds()), Some(3));
        }
        assert_eq!(r.leave(BUILD, at(5)), Leave::One);
        r.begin_probe(BUILD);
        r.unknown(BUILD);
        assert_eq!(r.leave(BUILD, at(5)), Leave::One, "a probe that was cancelled makes room for another");
    }

    #[test]
    fn a_restart_changes_nothing_and_a_person_may_have_it_tried_now() {
        let mut before = relief();
        before.failed(BUILD, &refused("objects"), at(0));
        let row = before.take_row().unwrap();
        assert_eq!(before.take_row(), None, "written once");
        let mut r = relief();
        r.recall(&row);
        assert_eq!((r.leave(BUILD, at(4)), r.held()), (Leave::None, before.held()));
        r.try_now(at(4));
        assert_eq!(r.leave(BUILD, at(4)), Leave::One);
        r.recall("no row");
        assert!(r.held().is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nothing_for_ever() {
        let mut r = relief();
        r.failed(BUILD, &refused("objects"), at(1_000_000));
        assert_eq!(r.leave(BUILD, at(0)), Leave::One);
    }

    #[test]
    fn it_can_be_switched_off() {
        let mut r =
            Relief::new(&AutoPause { enabled: false, ..AutoPause::default() }, BTreeSet::from(["objects".into()]));
        for s in 0..50 {
            assert_eq!(r.failed(BUILD, &refused("objects"), at(s)), None);
        }
    }
}
