//! What TestBot remembers of a repository from run to run: how each test went and how long it took, and what share of
//! the lines each branch covers. One document per repository, kept far below what a store or a message may hold: what
//! was not seen for longest goes first.
use std::collections::{BTreeMap, BTreeSet};

use bot_messages::test::{TestHistory, TestReportKind};
use serde::{Deserialize, Serialize};

use crate::{coverage::Covered, report::cut};

/// Runs of one test that are remembered.
const RUNS_MAX: usize = 50;
/// Durations of one test that are remembered.
const DURATIONS_MAX: usize = 10;
/// Tests of one repository.
const TESTS_MAX: usize = 1_000;
/// Of all tests of one repository, roughly as JSON.
const BYTES_MAX: usize = 160 << 10;
/// Refs whose coverage is remembered.
const REFS_MAX: usize = 100;
/// A longer name is cut.
const NAME_BYTES_MAX: usize = 200;
/// Of tests in one answer.
pub(crate) const REPORTED_MAX: usize = 100;

/// How a test went, as one character of its history.
pub(crate) const PASSED: char = 'p';
pub(crate) const FAILED: char = 'f';
pub(crate) const FLAKY: char = 'k';
pub(crate) const SKIPPED: char = 's';

/// One run of all suites, to be remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) git_ref: String,
    pub(crate) coverage: Option<Covered>,
    /// By suite: name, how it went, milliseconds.
    pub(crate) suites: BTreeMap<String, Vec<(String, char, Option<u64>)>>,
}

/// What is remembered of a repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// How many runs there were.
    runs: u64,
    /// By ref.
    coverage: BTreeMap<String, LastCoverage>,
    /// By suite and name.
    suites: BTreeMap<String, BTreeMap<String, Past>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct LastCoverage {
    lines: Covered,
    /// The run.
    seen: u64,
}

/// One test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Past {
    /// A character per run, the last one last.
    went: String,
    /// Milliseconds, the last one last.
    ms: Vec<u64>,
    /// The last run in which it was there.
    seen: u64,
}

impl Record {
    /// Adds a test. The worst of several of one name counts. Trouble is remembered whatever else there is.
    pub(crate) fn add(&mut self, suite: &str, name: &str, went: char, duration_ms: Option<u64>) {
        let count: usize = self.suites.values().map(Vec::len).sum();
        let max = if matches!(went, FAILED | FLAKY) { 2 * TESTS_MAX } else { TESTS_MAX };
        if count < max {
            let name = cut(name, NAME_BYTES_MAX).to_owned();
            self.suites.entry(suite.to_owned()).or_default().push((name, went, duration_ms));
        }
    }
}

impl History {
    /// What the branch covered last.
    pub(crate) fn coverage_of(&self, git_ref: &str) -> Option<Covered> {
        self.coverage.get(git_ref).map(|last| last.lines)
    }

    /// Remembers a run.
    pub(crate) fn remember(&mut self, record: Record) {
        self.runs += 1;
        let seen = self.runs;
        if let Some(lines) = record.coverage {
            self.coverage.insert(record.git_ref, LastCoverage { lines, seen });
        }
        for (suite, tests) in record.suites {
            let known = self.suites.entry(suite).or_default();
            for (name, went, duration_ms) in tests {
                known.entry(name).or_default().went(went, duration_ms, seen);
            }
        }
        self.forget();
    }

    /// Keeps it within its limits.
    fn forget(&mut self) {
        while self.coverage.len() > REFS_MAX {
            let oldest = self.coverage.iter().min_by_key(|(_, last)| last.seen).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| self.coverage.remove(&oldest));
        }
        let mut all: Vec<(u64, bool, usize, &str, &str)> = Vec::new();
        for (suite, tests) in &self.suites {
            for (name, past) in tests {
                let bytes = name.len() + past.went.len() + 12 * past.ms.len() + 50;
                all.push((past.seen, past.has_trouble(), bytes, suite, name));
            }
        }
        all.sort_unstable();
        let mut bytes: usize = all.iter().map(|(_, _, bytes, _, _)| bytes).sum();
        let mut count = all.len();
        let mut gone = BTreeSet::new();
        for (_, _, own, suite, name) in all {
            if count <= TESTS_MAX && bytes <= BYTES_MAX {
                break;
            }
            (count, bytes) = (count - 1, bytes - own);
            gone.insert((suite.to_owned(), name.to_owned()));
        }
        for (suite, name) in gone {
            self.suites.get_mut(&suite).and_then(|tests| tests.remove(&name));
        }
        self.suites.retain(|_, tests| !tests.is_empty());
    }

    /// How many tests are remembered, and those that were asked for, the worst first.
    pub(crate) fn report(&self, kind: TestReportKind, limit: usize) -> (u32, Vec<TestHistory>) {
        let mut all: Vec<TestHistory> = Vec::new();
        for (suite, tests) in &self.suites {
            all.extend(tests.iter().map(|(name, past)| past.told(suite, name)));
        }
        let count = all.len() as u32;
        match kind {
            TestReportKind::Flaky => {
                all.retain(|test| test.flaky > 0);
                all.sort_by(|a, b| b.flaky_percent.total_cmp(&a.flaky_percent));
            }
            TestReportKind::Slow => {
                all.retain(|test| test.recent_ms.is_some());
                all.sort_by_key(|test| std::cmp::Reverse(test.recent_ms));
            }
            TestReportKind::All => {
                all.sort_by_key(|test| std::cmp::Reverse((test.failed + test.flaky, test.recent_ms)));
            }
        }
        all.truncate(limit.clamp(1, REPORTED_MAX));
        (count, all)
    }
}

impl Past {
    fn went(&mut self, went: char, duration_ms: Option<u64>, run: u64) {
        if self.seen == run {
            // Another of its name in the same run.
            let last = self.went.pop().unwrap_or(went);
            let worst = [FAILED, FLAKY, PASSED, SKIPPED].into_iter().find(|w| *w == last || *w == went);
            self.went.push(worst.unwrap_or(went));
            return;
        }
        self.went.push(went);
        let over = self.went.chars().count().saturating_sub(RUNS_MAX);
        self.went = self.went.chars().skip(over).collect();
        self.ms.extend(duration_ms);
        self.ms.drain(..self.ms.len().saturating_sub(DURATIONS_MAX));
        self.seen = run;
    }

    fn has_trouble(&self) -> bool {
        self.went.contains([FAILED, FLAKY])
    }

    fn told(&self, suite: &str, name: &str) -> TestHistory {
        let count = |went: char| self.went.chars().filter(|w| *w == went).count() as u32;
        let ran = self.went.chars().count() as u32 - count(SKIPPED);
        let share = |part: u32| (part * 1000).checked_div(ran).map_or(0.0, |tenths| f64::from(tenths) / 10.0);
        // The newer half held against the older one.
        let (older, newer) = self.ms.split_at(self.ms.len() / 2);
        TestHistory {
            suite: suite.to_owned(),
            name: name.to_owned(),
            runs: ran,
            failed: count(FAILED),
            flaky: count(FLAKY),
            flaky_percent: share(count(FLAKY)),
            recent_ms: mean(newer),
            earlier_ms: mean(older),
        }
    }
}

fn mean(all: &[u64]) -> Option<u64> {
    let sum = all.iter().fold(0_u64, |sum, ms| sum.saturating_add(*ms));
    sum.checked_div(all.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tests: &[(&str, char, u64)]) -> Record {
        let mut record = Record { git_ref: "refs/heads/main".into(), ..Record::default() };
        for (name, went, ms) in tests {
            record.add("unit", name, *went, Some(*ms));
        }
        record
    }

    #[test]
    fn rates_and_trends_follow_from_the_runs() {
        let mut history = History::default();
        for i in 0..8 {
            let shaky = if i % 4 == 0 { FLAKY } else { PASSED };
            history.remember(record(&[("shaky", shaky, 10), ("slower", PASSED, 100 * (i + 1)), ("off", SKIPPED, 0)]));
        }
        let (count, flaky) = history.report(TestReportKind::Flaky, 10);
        assert_eq!((count, flaky.len()), (3, 1));
        assert_eq!(
            (flaky[0].name.as_str(), flaky[0].runs, flaky[0].flaky, flaky[0].flaky_percent),
            ("shaky", 8, 2, 25.0)
        );
        let (_, slow) = history.report(TestReportKind::Slow, 1);
        assert_eq!((slow[0].name.as_str(), slow[0].earlier_ms, slow[0].recent_ms), ("slower", Some(250), Some(650)));
        let (_, all) = history.report(TestReportKind::All, 10);
        assert_eq!((all[0].name.as_str(), all[2].name.as_str(), all[2].runs), ("shaky", "off", 0));
    }

    #[test]
    fn of_one_name_twice_in_a_run_the_worst_counts() {
        let mut history = History::default();
        history.remember(record(&[("a", PASSED, 1), ("a", FAILED, 1), ("a", PASSED, 1)]));
        let (_, all) = history.report(TestReportKind::All, 10);
        assert_eq!((all[0].runs, all[0].failed), (1, 1));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_trouble_stays() {
        let mut history = History::default();
        for run in 0..60 {
            let names: Vec<String> = (0..1_200).map(|i| format!("{}-{run}-{i}", "x".repeat(150))).collect();
            let mut all = record(&[("shaky", FLAKY, 1), ("steady", PASSED, 1)]);
            for name in &names {
                all.add("unit", name, PASSED, Some(u64::MAX));
            }
            all.coverage = Some(Covered { covered: 1, total: 2 });
            for i in 0..3 {
                all.git_ref = format!("refs/heads/{run}-{i}");
                history.remember(all.clone());
            }
        }
        let bytes = serde_json::to_vec(&history).unwrap().len();
        assert!(bytes < 200 << 10, "{bytes}");
        assert_eq!(history.coverage.len(), REFS_MAX);
        assert_eq!(history.coverage_of("refs/heads/59-2"), Some(Covered { covered: 1, total: 2 }));
        assert_eq!(history.coverage_of("refs/heads/0-0"), None, "the oldest went");
        let (count, flaky) = history.report(TestReportKind::Flaky, 10);
        assert!(count <= TESTS_MAX as u32);
        assert_eq!((flaky[0].runs as usize, flaky.len()), (RUNS_MAX, 1));
        let (_, all) = history.report(TestReportKind::All, usize::MAX);
        assert_eq!(all.len(), REPORTED_MAX);
        assert!(serde_json::to_vec(&all).unwrap().len() < 128 << 10, "an answer fits into a message");
    }
}
