//! The recent jobs, as their events tell: `build.started` begins one, `build.completed` or `build.failed` ends it.
use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::{
    correlations::State,
    lookup::{self, Miss},
    seen::{Seen, cut},
};

/// The last lines of a job travel by another queue than its end: they are waited for so long.
const LATE_LINES: TimeDelta = TimeDelta::seconds(1);

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Job {
    /// Its id.
    pub(crate) id: String,
    /// Whose it is.
    pub(crate) bot: String,
    /// `build`, `test`, `deploy`, …
    pub(crate) kind: String,
    /// What has become of it.
    pub(crate) state: State,
    /// Where it did not complete: `failed`, `error`, `cancelled`, `timed_out`.
    pub(crate) reason: Option<String>,
    /// What went wrong, in words.
    pub(crate) error: Option<String>,
    /// What it belongs to.
    pub(crate) correlation: String,
    /// When it began, as far as was seen.
    pub(crate) started: DateTime<Utc>,
    /// When it ended.
    pub(crate) ended: Option<DateTime<Utc>>,
    /// From begin to end, as the job says, milliseconds.
    pub(crate) duration_ms: Option<u64>,
    /// The repository, where it is about one.
    pub(crate) repository: Option<String>,
    /// The commit, where it is about one.
    pub(crate) commit: Option<String>,
    /// The environment, where it is about one.
    pub(crate) environment: Option<String>,
    /// How far it is, percent.
    pub(crate) percent: Option<u8>,
    /// What it is doing.
    pub(crate) doing: Option<String>,
    /// The object with its full log: digest, size, media type.
    pub(crate) log: Option<Value>,
    /// When this process learned of the end.
    #[serde(skip)]
    ended_here: Option<DateTime<Utc>>,
}

impl Job {
    /// Whether it is over and no line of it is on its way any more.
    pub(crate) fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.ended_here.is_some_and(|at| now - at >= LATE_LINES)
    }
}

/// The recent ones.
#[derive(Debug)]
pub(crate) struct Jobs {
    bound: usize,
    by_id: HashMap<String, Job>,
    /// Oldest first.
    order: VecDeque<String>,
    forgotten: u64,
}

impl Jobs {
    /// None yet; at most `bound` are kept.
    pub(crate) fn new(bound: usize) -> Self {
        Self { bound: bound.max(1), by_id: HashMap::new(), order: VecDeque::new(), forgotten: 0 }
    }

    /// An event that may begin or end a job.
    pub(crate) fn seen(&mut self, seen: &Seen, now: DateTime<Utc>) {
        let (Some(id), Some((kind, what))) = (seen.job_id(), seen.event_type.split_once('.')) else {
            return;
        };
        let state = match what {
            "started" => State::Running,
            "completed" | "rolled_back" => State::Completed,
            "failed" => State::Failed,
            _ => return,
        };
        let job = self.entry(&id, kind, seen);
        job.repository = job.repository.take().or_else(|| seen.repository());
        job.commit = job.commit.take().or_else(|| seen.commit());
        job.environment = job.environment.take().or_else(|| seen.environment());
        // A job has one end; a failed deployment that takes itself back says both, and failed it has.
        if state == State::Running || (job.ended.is_some() && state != State::Failed) {
            return;
        }
        let text = |name: &str| seen.data.get(name).and_then(Value::as_str);
        job.state = state;
        job.reason = text("reason").filter(|_| state == State::Failed).map(|r| cut(r, 40));
        job.error = seen.error().map(|e| cut(e, 500));
        job.ended = Some(seen.at);
        job.ended_here = Some(now);
        job.duration_ms = seen.data.get("duration_ms").and_then(Value::as_u64);
        job.log = seen.data.get("log").filter(|l| l.is_object()).cloned();
        job.doing = None;
        if state == State::Completed {
            job.percent = Some(100);
        }
    }

    /// A job told how far it is.
    pub(crate) fn progress(&mut self, id: &str, percent: Option<u8>, doing: &str) {
        if let Some(job) = self.by_id.get_mut(id).filter(|job| job.ended.is_none()) {
            job.percent = percent.map(|p| p.min(100));
            job.doing = Some(cut(doing, 200));
        }
    }

    /// The latest first.
    pub(crate) fn recent(&self, limit: usize) -> Vec<&Job> {
        self.order.iter().rev().filter_map(|id| self.by_id.get(id)).take(limit).collect()
    }

    /// By its id or a beginning that fits no other.
    pub(crate) fn find(&self, asked: &str) -> Result<&Job, Miss> {
        let id = lookup::find(self.by_id.keys(), asked)?;
        self.by_id.get(id).ok_or(Miss::Unknown)
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.by_id.values().filter(|j| j.ended.is_none()).count()
    }

    /// Jobs that were dropped to make room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn entry(&mut self, id: &str, kind: &str, seen: &Seen) -> &mut Job {
        if !self.by_id.contains_key(id) {
            self.order.push_back(id.to_owned());
            if self.order.len() > self.bound {
                self.forgotten += 1;
                if let Some(oldest) = self.order.pop_front() {
                    self.by_id.remove(&oldest);
                }
            }
        }
        self.by_id.entry(id.to_owned()).or_insert_with(|| Job {
            id: id.to_owned(),
            bot: seen.source.clone(),
            kind: kind.to_owned(),
            state: State::Running,
            reason: None,
            error: None,
            correlation: seen.correlation_id.clone(),
            started: seen.at,
            ended: None,
            duration_ms: None,
            repository: None,
            commit: None,
            environment: None,
            percent: None,
            doing: None,
            log: None,
            ended_here: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::tests::{at, observed};
    use bot_messages::{Event, build, deploy};

    fn say<E: Event>(jobs: &mut Jobs, ms: i64) {
        let data = serde_json::to_value(E::example()).unwrap();
        jobs.seen(&Seen::read(&observed("m", E::TYPE, None, ms, &data)).unwrap(), at(ms));
    }

    #[test]
    fn a_job_begins_goes_on_and_ends_once() {
        let mut jobs = Jobs::new(10);
        say::<build::BuildStarted>(&mut jobs, 10);
        let id = build::BuildStarted::example().job_id;
        jobs.progress(&id, Some(40), "compile");
        let job = jobs.find(&id[..20]).unwrap();
        assert_eq!((job.kind.as_str(), job.state, job.percent, job.ended), ("build", State::Running, Some(40), None));
        assert_eq!(job.repository.as_deref(), Some("shop/api"));
        say::<build::BuildCompleted>(&mut jobs, 90);
        say::<build::BuildStarted>(&mut jobs, 10);
        let job = jobs.find(&id).unwrap();
        assert_eq!(
            (job.state, job.ended, job.duration_ms, job.percent),
            (State::Completed, Some(at(90)), Some(8_466), Some(100))
        );
        assert!(job.log.is_some() && !job.is_over(at(500)) && job.is_over(at(1_090)));
        assert_eq!((jobs.recent(9).len(), jobs.running()), (1, 0));
    }

    #[test]
    fn a_deployment_that_took_itself_back_failed() {
        let mut jobs = Jobs::new(10);
        say::<deploy::DeployStarted>(&mut jobs, 10);
        say::<deploy::DeployRolledBack>(&mut jobs, 20);
        assert_eq!(jobs.recent(1)[0].state, State::Completed);
        say::<deploy::DeployFailed>(&mut jobs, 30);
        say::<deploy::DeployRolledBack>(&mut jobs, 40);
        let job = jobs.recent(1)[0];
        assert_eq!(
            (job.state, job.reason.as_deref(), job.environment.as_deref()),
            (State::Failed, Some("failed"), Some("staging"))
        );
    }

    #[test]
    fn the_oldest_give_way() {
        let mut jobs = Jobs::new(2);
        for i in 0..5 {
            let data = serde_json::json!({"job_id": format!("job-{i}")});
            jobs.seen(&Seen::read(&observed("m", "build.started", None, i, &data)).unwrap(), at(i));
        }
        let ids: Vec<&str> = jobs.recent(9).iter().map(|j| j.id.as_str()).collect();
        assert_eq!((ids, jobs.forgotten()), (vec!["job-4", "job-3"], 3));
    }
}
