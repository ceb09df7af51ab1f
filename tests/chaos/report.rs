//! What a run came to: what was lost, what was done twice, how long it took to recover; for people and for programs.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};
use tests::chain::Kind;

use crate::{
    ground::Kept,
    oracle::Books,
    publisher::{Sent, id_of},
};

/// A message that came through sooner was not held up.
const IN_TIME: Duration = Duration::from_secs(5);
const SHOWN: usize = 20;

/// A round that is over, and how long it was until a message that was sent after it had come through the chain.
pub(crate) struct Recovery {
    pub(crate) kind: &'static str,
    pub(crate) took: Duration,
}

/// All that was seen.
pub(crate) struct Run<'a> {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) took: Duration,
    pub(crate) sent: &'a BTreeMap<u64, Sent>,
    pub(crate) repeated: u64,
    pub(crate) books: &'a Books,
    pub(crate) kept: &'a [Kept; 2],
    pub(crate) unrouted: u64,
    /// The ids of what lies among the dead letters.
    pub(crate) letters: &'a BTreeSet<String>,
    pub(crate) starts: [u32; 2],
    pub(crate) recoveries: &'a [Recovery],
}

#[derive(Default)]
struct Counted {
    settled: u64,
    lost: Vec<String>,
    duplicates: Vec<String>,
    unexpected: Vec<String>,
}

impl Counted {
    /// Has to be one.
    fn once(&mut self, number: u64, what: &str, times: usize) {
        match times {
            0 => self.lost.push(format!("message {number}: no {what}")),
            1 => {}
            _ => self.duplicates.push(format!("message {number}: {what} {times} times")),
        }
    }

    /// Has to be none.
    fn never(&mut self, number: u64, what: &str, times: usize) {
        if times > 0 {
            self.unexpected.push(format!("message {number}: {what} {times} times"));
        }
    }
}

impl Run<'_> {
    fn count(&self) -> Counted {
        let mut counted = Counted::default();
        let mut keys: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for (number, key) in &self.books.keyed {
            keys.entry(*number).or_default().insert(key);
        }
        for (&number, sent) in self.sent {
            let wrong = counted.lost.len() + counted.duplicates.len();
            self.follow(number, sent.kind, keys.get(&number).map_or(0, BTreeSet::len), &mut counted);
            counted.settled += u64::from(wrong == counted.lost.len() + counted.duplicates.len());
        }
        for (id, letters) in &self.books.letters {
            let expected = |code: &str| matches!(code, "REJECTED" | "INVALID_FIELD");
            for code in letters.values().filter(|code| !expected(code)) {
                counted.unexpected.push(format!("{id} is a dead letter: {code}"));
            }
        }
        if self.unrouted > 0 {
            counted.unexpected.push(format!("{} messages have no place, and lie in `unrouted`", self.unrouted));
        }
        for (kept, bot) in self.kept.iter().zip(["WorkBot", "CountBot"]) {
            if kept.left > 0 {
                counted.unexpected.push(format!("{bot} has {} messages or jobs left in its store", kept.left));
            }
        }
        counted
    }

    fn follow(&self, number: u64, kind: Kind, keys: usize, counted: &mut Counted) {
        let [work, count] = self.kept;
        let state = |of: &BTreeMap<u64, u32>| of.get(&number).map_or(0, |times| *times as usize);
        let said = |event_type| self.books.times(event_type, number);
        let letters = self.books.letters.get(&id_of(number)).map_or(0, BTreeMap::len);
        counted.never(number, "build.failed", said("build.failed"));
        match kind {
            Kind::Reject | Kind::Unreadable if !self.letters.contains(&id_of(number)) => {
                return counted.once(number, "letter among the dead ones", 0);
            }
            Kind::Reject => return counted.once(number, "dead letter", letters),
            // Where nobody can say what it is about, the letter has no place in the inbox: it may be written twice.
            Kind::Unreadable => return counted.once(number, "dead letter", letters.min(1)),
            _ => counted.never(number, "dead letter", letters),
        }
        let by_job = matches!(kind, Kind::Work | Kind::WorkAgain);
        counted.once(number, "mark in WorkBot's state", state(&work.handled));
        counted.once(number, "build.completed", said("build.completed"));
        counted.once(number, "mark in CountBot's state", state(&count.handled));
        counted.once(number, "test.completed", said("test.completed"));
        if kind == Kind::Timer {
            counted.once(number, "timer's mark in WorkBot's state", state(&work.fired));
        }
        if by_job {
            counted.once(number, "build.started", said("build.started"));
            counted.once(number, "key at the target", keys);
        }
    }

    /// What is wrong; nothing, if the run was as it has to be.
    pub(crate) fn findings(&self) -> Vec<String> {
        let Counted { lost, duplicates, unexpected, .. } = self.count();
        let told = |what: &str, list: Vec<String>| -> Vec<String> {
            let more = list.len().saturating_sub(SHOWN);
            let shown = list.into_iter().take(SHOWN).map(|line| format!("{what}: {line}"));
            shown.chain((more > 0).then(|| format!("{what}: and {more} more"))).collect()
        };
        [told("lost", lost), told("twice", duplicates), told("unexpected", unexpected)].concat()
    }

    pub(crate) fn json(&self) -> Value {
        let counted = self.count();
        let mut codes: BTreeMap<&str, u64> = BTreeMap::new();
        for code in self.books.letters.values().flat_map(BTreeMap::values) {
            *codes.entry(code).or_default() += 1;
        }
        let mut of_kind: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for recovery in self.recoveries {
            of_kind.entry(recovery.kind).or_default().push(recovery.took.as_millis() as u64);
        }
        let all: Vec<u64> = of_kind.values().flatten().copied().collect();
        let by_kind: BTreeMap<&str, Value> = of_kind.into_iter().map(|(kind, took)| (kind, figures(took))).collect();
        let (in_time, at_once) = self.in_time();
        let unkeyed = self.unkeyed();
        json!({
            "commit": commit(), "seed": self.seed, "nodes": self.nodes, "seconds": self.took.as_secs(),
            "messages_per_second": (self.sent.len() as f64 / self.took.as_secs_f64() * 10.0).round() / 10.0,
            "sent": self.sent.len(), "settled": counted.settled, "lost": counted.lost.len(),
            "duplicate_effects": counted.duplicates.len(), "unexpected": counted.unexpected.len(),
            "dead_letters": codes, "publishes_repeated": self.repeated,
            "availability_percent": (in_time as f64 / at_once.max(1) as f64 * 10_000.0).round() / 100.0,
            "recovery_ms": figures(all), "faults": by_kind,
            "process_starts": {"WorkBot": self.starts[0], "CountBot": self.starts[1]},
            "may_repeat_or_be_lost": {
                "copies_heard_beyond_the_first": self.copies_beyond(),
                "requests_repeated_to_the_target_with_keys": self.keyed_beyond(),
                "unkeyed_effects": unkeyed,
                "letters_of_unreadable_messages_beyond_the_first": self.letters_beyond(),
                "heartbeats_heard": self.books.heartbeats, "log_and_progress_records_heard": self.books.records,
                "records_dropped_before_they_were_sent": self.books.records_dropped.values().sum::<u64>(),
            },
        })
    }

    /// Of the messages that nothing makes wait: those that came through in time, and all.
    fn in_time(&self) -> (usize, usize) {
        let at_once: Vec<(&u64, &Sent)> = self.sent.iter().filter(|(_, sent)| sent.kind == Kind::Say).collect();
        let through = |number: &u64, sent: &Sent| {
            self.books.through.get(number).is_some_and(|at| at.saturating_duration_since(sent.at) < IN_TIME)
        };
        (at_once.iter().filter(|(number, sent)| through(number, sent)).count(), at_once.len())
    }

    fn copies_beyond(&self) -> u64 {
        let different: usize = self.books.said.values().map(BTreeSet::len).sum();
        let letters: usize = self.books.letters.values().map(BTreeMap::len).sum();
        self.books.copies.saturating_sub((different + letters) as u64 + self.books.others)
    }

    fn keyed_beyond(&self) -> usize {
        let keys: BTreeSet<&(u64, String)> = self.books.keyed.iter().collect();
        self.books.keyed.len() - keys.len()
    }

    fn letters_beyond(&self) -> usize {
        let unreadable = self.sent.iter().filter(|(_, sent)| sent.kind == Kind::Unreadable);
        let letters = unreadable.filter_map(|(number, _)| self.books.letters.get(&id_of(*number)));
        letters.map(|l| l.len().saturating_sub(1)).sum()
    }

    fn unkeyed(&self) -> Value {
        let mut times: BTreeMap<u64, usize> = BTreeMap::new();
        for number in &self.books.unkeyed {
            *times.entry(*number).or_default() += 1;
        }
        let wanted = self.sent.values().filter(|sent| matches!(sent.kind, Kind::Work | Kind::WorkAgain)).count();
        json!({
            "wanted": wanted, "none": wanted - times.len(),
            "more_than_one": times.values().filter(|times| **times > 1).count(),
        })
    }

    /// Writes both forms into a folder.
    pub(crate) fn write(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        let report = self.json();
        fs::write(dir.join("report.json"), serde_json::to_string_pretty(&report).unwrap() + "\n").unwrap();
        fs::write(dir.join("report.md"), markdown(&report, &self.findings())).unwrap();
    }
}

/// Of milliseconds.
fn figures(mut took: Vec<u64>) -> Value {
    took.sort_unstable();
    let median = took.get(took.len().saturating_sub(1) / 2);
    json!({"count": took.len(), "p50": median, "max": took.last()})
}

fn commit() -> String {
    let say = |args: &[&str]| {
        let git = std::process::Command::new("git").current_dir(tests::workspace()).args(args).output();
        git.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let (commit, changed) = (say(&["rev-parse", "--short=12", "HEAD"]), say(&["status", "--porcelain", "-uno"]));
    if changed.is_empty() { commit } else { format!("{commit} with changes") }
}

fn markdown(report: &Value, findings: &[String]) -> String {
    let mut text = "# A run of `make chaos`\n\n| | |\n|---|---|\n".to_owned();
    let mut row = |name: &str, value: &Value| {
        let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        let _ = writeln!(text, "| {name} | {value} |");
    };
    let object = report.as_object().unwrap();
    for (name, value) in object.iter().filter(|(_, value)| !value.is_object()) {
        row(&name.replace('_', " "), value);
    }
    for group in ["dead_letters", "process_starts", "recovery_ms", "may_repeat_or_be_lost"] {
        for (name, value) in report[group].as_object().unwrap() {
            row(&format!("{}: {}", group.replace('_', " "), name.replace('_', " ")), value);
        }
    }
    text.push_str("\n| fault | times | recovered after, ms (p50) | ms (max) |\n|---|---|---|---|\n");
    for (kind, figures) in report["faults"].as_object().unwrap() {
        let _ = writeln!(text, "| {kind} | {} | {} | {} |", figures["count"], figures["p50"], figures["max"]);
    }
    text.push('\n');
    if findings.is_empty() {
        text.push_str("Nothing lost, nothing twice, nothing unexpected.\n");
    }
    for finding in findings {
        let _ = writeln!(text, "- {finding}");
    }
    text
}
