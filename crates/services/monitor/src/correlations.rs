//! What followed from what: the messages of the recent correlations, how each was handled, and what came of it all.
//! In memory and bounded; what is dropped is counted. The causal tree itself is drawn in `tree.rs`.
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use bot_messages::telemetry::Outcome;
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    lookup::{self, Miss},
    seen::Seen,
};

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Correlations.
    pub(crate) correlations: usize,
    /// Messages of one correlation, and likewise settled deliveries.
    pub(crate) messages_each: usize,
    /// Messages of all; settled deliveries of all are twice as many.
    pub(crate) messages: usize,
}

impl Bounds {
    /// As configured.
    pub(crate) fn of(config: &crate::Config) -> Self {
        Self {
            correlations: config.correlations_max,
            messages_each: config.messages_per_correlation_max,
            messages: config.messages_max,
        }
    }
}

/// What has become of a correlation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// A job is on its way, or nothing has ended yet.
    Running,
    /// The latest end was a good one. A later stage may still begin.
    Completed,
    /// The latest end was a bad one.
    Failed,
}

/// How one bot settled one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Handled {
    /// The bot.
    pub(crate) bot: String,
    /// How.
    pub(crate) outcome: Outcome,
    /// Why, for people.
    pub(crate) reason: String,
    /// How long it took, microseconds.
    pub(crate) duration_us: Option<u64>,
}

/// One message of a correlation.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) parent: Option<String>,
    pub(crate) at: DateTime<Utc>,
    pub(crate) summary: String,
}

/// One correlation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Correlation {
    pub(crate) messages: Vec<Message>,
    pub(crate) handled: HashMap<String, Vec<Handled>>,
    handled_count: usize,
    /// Messages and settled deliveries that did not fit.
    pub(crate) dropped: u64,
    pub(crate) repository: Option<String>,
    pub(crate) commit: Option<String>,
    jobs_open: BTreeSet<String>,
    jobs_ended: BTreeSet<String>,
    end: Option<State>,
}

/// One correlation in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Overview {
    /// Its id.
    pub(crate) id: String,
    /// The type it began with.
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    /// Who began it.
    pub(crate) source: String,
    /// When its first message was said.
    pub(crate) started: DateTime<Utc>,
    /// When its latest message was said.
    pub(crate) last: DateTime<Utc>,
    /// Messages.
    pub(crate) count: u64,
    /// What has become of it.
    pub(crate) state: State,
    /// The repository, where it is about one.
    pub(crate) repository: Option<String>,
    /// The commit, where it is about one.
    pub(crate) commit: Option<String>,
    /// The first message in one line.
    pub(crate) summary: String,
}

/// The recent correlations.
#[derive(Debug)]
pub(crate) struct Correlations {
    bounds: Bounds,
    by_id: HashMap<String, Correlation>,
    /// Oldest first.
    order: VecDeque<String>,
    messages: usize,
    handled: usize,
    forgotten: u64,
}

impl Correlations {
    /// An empty list.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, by_id: HashMap::new(), order: VecDeque::new(), messages: 0, handled: 0, forgotten: 0 }
    }

    /// A message was seen. One whose id is there already (published again for want of a confirm) changes nothing.
    pub(crate) fn seen(&mut self, seen: &Seen) {
        let bound = self.bounds.messages_each;
        let correlation = self.entry(&seen.correlation_id);
        if correlation.messages.iter().any(|m| m.id == seen.id) {
            return;
        }
        correlation.note(seen, bound);
        if correlation.messages.len() >= bound {
            correlation.dropped += 1;
            return;
        }
        correlation.messages.push(Message {
            id: seen.id.clone(),
            event_type: seen.event_type.clone(),
            source: seen.source.clone(),
            parent: seen.parent.clone(),
            at: seen.at,
            summary: seen.summary(),
        });
        self.messages += 1;
        self.shrink();
    }

    /// A delivery was settled. The record may come before the message itself: they travel by different queues.
    pub(crate) fn handled(&mut self, correlation: &str, message: &str, handled: Handled) {
        let bound = self.bounds.messages_each.saturating_mul(4);
        let correlation = self.entry(correlation);
        if correlation.handled_count >= bound {
            correlation.dropped += 1;
            return;
        }
        correlation.handled_count += 1;
        let of_message = correlation.handled.entry(message.to_owned()).or_default();
        // Nearly always one or two; room for four is what a vector begins with.
        of_message.reserve_exact(1);
        of_message.push(handled);
        self.handled += 1;
        self.shrink();
    }

    /// The latest correlations first, those that began with a type that begins with `event_type`.
    pub(crate) fn recent(&self, event_type: &str, limit: usize) -> Vec<Overview> {
        let all = self.order.iter().rev().filter_map(|id| self.by_id.get(id)?.overview(id));
        all.filter(|o| o.event_type.starts_with(event_type)).take(limit).collect()
    }

    /// One of them, by its id or a beginning that fits no other.
    pub(crate) fn find(&self, asked: &str) -> Result<(&str, &Correlation), Miss> {
        let known = self.by_id.iter().filter(|(_, c)| !c.messages.is_empty()).map(|(id, _)| id);
        let id = lookup::find(known, asked)?;
        self.by_id.get(id).map(|c| (id, c)).ok_or(Miss::Unknown)
    }

    /// Correlations that were dropped to make room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Average time from the first to the latest message of what ended after `since`, in seconds.
    pub(crate) fn latency_s(&self, since: DateTime<Utc>) -> Option<f64> {
        let ended = self.by_id.values().filter(|c| c.jobs_open.is_empty() && !c.jobs_ended.is_empty());
        let spans = ended.filter_map(|c| {
            let (first, last) = c.span()?;
            (last >= since).then(|| (last - first).num_milliseconds() as f64 / 1000.0)
        });
        let (sum, count) = spans.fold((0.0, 0_u32), |(sum, count), s| (sum + s, count + 1));
        (count > 0).then(|| sum / f64::from(count))
    }

    fn entry(&mut self, id: &str) -> &mut Correlation {
        if !self.by_id.contains_key(id) {
            self.order.push_back(id.to_owned());
        }
        self.by_id.entry(id.to_owned()).or_default()
    }

    fn shrink(&mut self) {
        while self.order.len() > self.bounds.correlations.max(1) || (self.is_full() && self.order.len() > 1) {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(gone) = self.by_id.remove(&oldest) {
                self.messages -= gone.messages.len();
                self.handled -= gone.handled_count;
                self.forgotten += 1;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.messages > self.bounds.messages || self.handled > self.bounds.messages.saturating_mul(2)
    }
}

impl Correlation {
    /// What a message means for the whole. At most `jobs_max` jobs are told apart.
    fn note(&mut self, seen: &Seen, jobs_max: usize) {
        self.repository = self.repository.take().or_else(|| seen.repository());
        self.commit = self.commit.take().or_else(|| seen.commit());
        let job = seen.job_id();
        match ending(&seen.event_type) {
            None => {
                let begins = |job: &String| seen.event_type.ends_with(".started") && !self.jobs_ended.contains(job);
                if let Some(job) = job.filter(begins)
                    && self.jobs_open.len() < jobs_max
                {
                    self.jobs_open.insert(job);
                }
            }
            Some(end) => {
                if let Some(job) = job {
                    self.jobs_open.remove(&job);
                    if self.jobs_ended.len() < jobs_max {
                        self.jobs_ended.insert(job);
                    }
                }
                // Going back after a failure is how the failure ended, not a success.
                let is_way_back = seen.event_type == "deploy.rolled_back" && self.end == Some(State::Failed);
                // That someone was told of it says nothing of how it ended.
                let is_aside = is_aside(&seen.event_type) && self.end.is_some();
                if !is_way_back && !is_aside {
                    self.end = Some(end);
                }
            }
        }
    }

    /// First and latest time.
    pub(crate) fn span(&self) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let times = || self.messages.iter().map(|m| m.at);
        times().min().zip(times().max())
    }

    pub(crate) fn state(&self) -> State {
        match self.end {
            _ if !self.jobs_open.is_empty() => State::Running,
            Some(end) => end,
            None if self.left_alone() => State::Completed,
            None => State::Running,
        }
    }

    /// Everyone who heard of it had no use for it, so nothing will follow.
    fn left_alone(&self) -> bool {
        let ids: HashSet<&str> = self.messages.iter().map(|m| m.id.as_str()).collect();
        let mut handled =
            self.handled.iter().filter(|(id, _)| ids.contains(id.as_str())).flat_map(|(_, h)| h).peekable();
        handled.peek().is_some() && handled.all(|h| h.outcome == Outcome::Ignored)
    }

    fn overview(&self, id: &str) -> Option<Overview> {
        let first = self.messages.iter().min_by_key(|m| m.at)?;
        let (started, last) = self.span()?;
        Some(Overview {
            id: id.to_owned(),
            event_type: first.event_type.clone(),
            source: first.source.clone(),
            started,
            last,
            count: self.messages.len() as u64 + self.dropped,
            state: self.state(),
            repository: self.repository.clone(),
            commit: self.commit.clone(),
            summary: first.summary.clone(),
        })
    }
}

/// What a type says about the end of something; `None` where something is still to follow.
fn ending(event_type: &str) -> Option<State> {
    if event_type.ends_with(".failed") || event_type == "message.dead_lettered" {
        Some(State::Failed)
    } else if event_type.ends_with(".completed") || event_type == "deploy.rolled_back" || is_aside(event_type) {
        Some(State::Completed)
    } else {
        None
    }
}

/// Said for information: nothing is to follow from it.
fn is_aside(event_type: &str) -> bool {
    let domain = event_type.split('.').next().unwrap_or_default();
    matches!(domain, "bot" | "alert" | "incident" | "config") && !event_type.ends_with(".failed")
        || event_type == "control.replied"
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::seen::tests::{at, observed};
    use serde_json::json;

    pub(crate) const BOUNDS: Bounds = Bounds { correlations: 3, messages_each: 4, messages: 8 };

    pub(crate) fn say(c: &mut Correlations, id: &str, event_type: &str, parent: Option<&str>, ms: i64) {
        let data = json!({"revision": {"repository": "shop/api", "commit": "4f2d9c1e8b7a"}, "job_id": format!("job-{}", event_type.split('.').next().unwrap())});
        c.seen(&Seen::read(&observed(id, event_type, parent, ms, &data)).unwrap());
    }

    fn handled(outcome: Outcome) -> Handled {
        Handled { bot: "BuildBot".into(), outcome, reason: "because".into(), duration_us: Some(9) }
    }

    #[test]
    fn the_state_follows_the_latest_end_and_the_open_jobs() {
        let mut c = Correlations::new(Bounds { messages_each: 50, ..BOUNDS });
        let mut state = |id, event_type| {
            say(&mut c, id, event_type, None, 1);
            c.recent("", 1)[0].state
        };
        assert_eq!(state("1", "repository.pushed"), State::Running);
        assert_eq!(state("2", "build.started"), State::Running);
        assert_eq!(state("3", "build.completed"), State::Completed);
        assert_eq!(state("4", "test.started"), State::Running);
        assert_eq!(state("5", "test.completed"), State::Completed);
        assert_eq!(state("6", "deploy.started"), State::Running);
        assert_eq!(state("7", "deploy.failed"), State::Failed);
        assert_eq!(state("8", "deploy.rolled_back"), State::Failed, "the way back is no success");
        assert_eq!(state("9", "alert.triggered"), State::Failed);
        let overview = &c.recent("repository.", 9)[0];
        assert_eq!((overview.count, overview.repository.as_deref()), (9, Some("shop/api")));
        assert!(c.recent("build.", 9).is_empty(), "it did not begin with a build");
    }

    #[test]
    fn what_everyone_ignored_is_over() {
        let mut c = Correlations::new(BOUNDS);
        c.handled("correlation-1", "1", handled(Outcome::Ignored));
        assert!(c.recent("", 9).is_empty(), "no message yet");
        say(&mut c, "1", "repository.pushed", None, 1);
        assert_eq!(c.recent("", 9)[0].state, State::Completed);
        c.handled("correlation-1", "1", handled(Outcome::Acted));
        assert_eq!(c.recent("", 9)[0].state, State::Running);
    }

    #[test]
    fn everything_has_a_bound_and_dropping_is_counted() {
        let mut c = Correlations::new(BOUNDS);
        for i in 0..9 {
            say(&mut c, &i.to_string(), "a.b", None, i);
            c.handled("correlation-1", "x", handled(Outcome::Acted));
            c.handled("correlation-1", "x", handled(Outcome::Acted));
        }
        say(&mut c, "0", "a.b", None, 0);
        let found = c.find("correlation-1").unwrap().1;
        assert_eq!((found.messages.len(), found.handled_count, found.dropped), (4, 16, 5 + 2));
        for i in 0..9 {
            c.handled(&format!("other-{i}"), "x", handled(Outcome::Acted));
        }
        assert_eq!((c.by_id.len(), c.order.len(), c.forgotten(), c.messages, c.handled), (3, 3, 7, 0, 3));
    }

    #[test]
    fn jobs_without_end_are_bounded_too() {
        let mut c = Correlations::new(BOUNDS);
        for i in 0..9 {
            for (what, id) in [("started", format!("s{i}")), ("completed", format!("c{i}"))] {
                let data = json!({"job_id": format!("job-{what}-{i}")});
                c.seen(&Seen::read(&observed(&id, &format!("build.{what}"), None, i, &data)).unwrap());
            }
        }
        let found = c.find("correlation-1").unwrap().1;
        assert_eq!((found.jobs_open.len(), found.jobs_ended.len()), (4, 4));
    }

    #[test]
    fn many_settled_deliveries_make_room_as_many_messages_do() {
        let mut c = Correlations::new(Bounds { correlations: 100, ..BOUNDS });
        for i in 0..17 {
            c.handled(&format!("other-{i}"), "x", handled(Outcome::Acted));
        }
        assert_eq!((c.handled, c.order.len(), c.forgotten()), (16, 16, 1));
    }

    /// A push leads to 7 to 12 messages, and each is settled by one bot or two.
    #[test]
    fn ten_thousand_usual_correlations_stay() {
        let config = crate::Config::default();
        let mut c = Correlations::new(Bounds::of(&config));
        let id = |n: usize, m: usize| format!("0198c5aa-{n:08}-7000-8000-{m:012}");
        let data = json!({
            "revision": {"repository": "shop/api", "commit": "4f2d9c1e8b7a4f2d9c1e8b7a4f2d9c1e8b7a4f2d"},
            "job_id": "0198c5aa-7000-7000-8000-000000000001", "summary": "3 steps in 12.4 s, artifact of 1.4 MB",
        });
        let first = Seen::read(&observed("1", "build.completed", None, 1, &data)).unwrap();
        for n in 0..config.correlations_max {
            for m in 0..12 {
                let mut seen = first.clone();
                (seen.id, seen.parent) = (id(n, m), (m > 0).then(|| id(n, m - 1)));
                seen.correlation_id = id(n, 0);
                c.seen(&seen);
                let reason = "a job for shop/api was begun".to_owned();
                c.handled(&id(n, 0), &id(n, m), Handled { reason, ..handled(Outcome::Acted) });
            }
        }
        assert_eq!((c.forgotten(), c.order.len()), (0, 10_000));
        assert_eq!(c.find(&id(0, 0)).unwrap().1.messages.len(), 12);
    }

    #[test]
    fn latency_is_the_average_of_what_ended() {
        let mut c = Correlations::new(BOUNDS);
        assert_eq!(c.latency_s(at(0)), None);
        say(&mut c, "1", "build.started", None, 1);
        assert_eq!(c.latency_s(at(0)), None, "still running");
        say(&mut c, "2", "build.completed", Some("1"), 2_001);
        assert_eq!(c.latency_s(at(0)), Some(2.0));
        assert_eq!(c.latency_s(at(9_000)), None, "too long ago");
    }
}
