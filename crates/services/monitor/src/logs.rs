//! What jobs print: the latest lines of the latest jobs, for `lota logs -f`. In memory and bounded by lines, jobs and
//! bytes; the full log of a job is an object that its bot stores.
use std::collections::{HashMap, VecDeque};

use serde::Serialize;

/// A longer line is cut.
const LINE_CHARS_MAX: usize = 4096;
/// So many lines are handed out at a time.
pub(crate) const PAGE_LINES_MAX: usize = 1000;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Jobs with lines.
    pub(crate) jobs: usize,
    /// Lines of one job.
    pub(crate) lines_each: usize,
    /// Bytes of one job.
    pub(crate) bytes_each: usize,
    /// Bytes of all.
    pub(crate) bytes: usize,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// Its place in the job, from 1, over all attempts.
    pub(crate) line: u64,
    /// Its text.
    pub(crate) text: String,
}

/// A part of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Page {
    /// In order.
    pub(crate) lines: Vec<Line>,
    /// Ask for what comes after this.
    pub(crate) next: u64,
    /// Whether there is more already.
    pub(crate) more: bool,
    /// Lines of this job that are not kept, or never came.
    pub(crate) dropped: u64,
}

#[derive(Debug, Default)]
struct Log {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Added to what the job counts: a further attempt begins at 1 again.
    base: u64,
    latest: u64,
    touched: u64,
}

/// The logs.
#[derive(Debug)]
pub(crate) struct Logs {
    bounds: Bounds,
    by_job: HashMap<String, Log>,
    bytes: usize,
    /// Counts the lines that came, to know which log was written to the longest time ago.
    clock: u64,
    dropped: u64,
}

impl Logs {
    /// Empty.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, by_job: HashMap::new(), bytes: 0, clock: 0, dropped: 0 }
    }

    /// A job printed a line; `number` is its place in the attempt, where known.
    pub(crate) fn line(&mut self, job: &str, number: Option<u64>, text: &str) {
        self.clock += 1;
        let log = self.by_job.entry(job.to_owned()).or_default();
        log.touched = self.clock;
        let raw = number.unwrap_or(log.latest - log.base + 1);
        if log.base.saturating_add(raw) <= log.latest {
            log.base = log.latest;
        }
        log.latest = log.base.saturating_add(raw);
        let text: String = text.chars().take(LINE_CHARS_MAX).collect();
        log.bytes += text.len();
        self.bytes += text.len();
        log.lines.push_back(Line { line: log.latest, text });
        while log.lines.len() > self.bounds.lines_each || log.bytes > self.bounds.bytes_each {
            let Some(gone) = log.lines.pop_front() else { break };
            log.bytes -= gone.text.len();
            self.bytes -= gone.text.len();
            self.dropped += 1;
        }
        while self.by_job.len() > self.bounds.jobs.max(1) || (self.bytes > self.bounds.bytes && self.by_job.len() > 1) {
            self.drop_stalest();
        }
    }

    /// What a job printed after line `after`. Empty where nothing was heard of it.
    pub(crate) fn page(&self, job: &str, after: u64) -> Page {
        let Some(log) = self.by_job.get(job) else {
            return Page { next: after, ..Page::default() };
        };
        let from = log.lines.partition_point(|l| l.line <= after);
        let lines: Vec<Line> = log.lines.iter().skip(from).take(PAGE_LINES_MAX).cloned().collect();
        Page {
            next: lines.last().map_or(after, |l| l.line),
            more: from + lines.len() < log.lines.len(),
            dropped: log.latest.saturating_sub(log.lines.len() as u64),
            lines,
        }
    }

    /// The jobs whose lines are here.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &String> {
        self.by_job.keys()
    }

    /// Lines that were dropped to make room.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn drop_stalest(&mut self) {
        let Some(job) = self.by_job.iter().min_by_key(|(_, log)| log.touched).map(|(job, _)| job.clone()) else {
            return;
        };
        if let Some(log) = self.by_job.remove(&job) {
            self.bytes -= log.bytes;
            self.dropped += log.lines.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { jobs: 2, lines_each: 3, bytes_each: 12, bytes: 20 };

    fn numbers(page: &Page) -> Vec<u64> {
        page.lines.iter().map(|l| l.line).collect()
    }

    #[test]
    fn one_reads_on_from_where_one_was() {
        let mut logs = Logs::new(BOUNDS);
        logs.line("a", Some(1), "one");
        logs.line("a", Some(2), "two");
        assert_eq!(numbers(&logs.page("a", 0)), [1, 2]);
        assert_eq!(numbers(&logs.page("a", 1)), [2]);
        let page = logs.page("a", 2);
        assert_eq!((page.lines.len(), page.next, page.more, page.dropped), (0, 2, false, 0));
        assert_eq!(logs.page("nobody", 7), Page { next: 7, ..Page::default() });
    }

    #[test]
    fn what_is_lost_and_what_is_dropped_is_counted() {
        let mut logs = Logs::new(BOUNDS);
        for n in [1, 2, 5, 6] {
            logs.line("a", Some(n), "x");
        }
        let page = logs.page("a", 0);
        assert_eq!((numbers(&page), page.dropped), (vec![2, 5, 6], 3), "1 had no room, 3 and 4 never came");
    }

    #[test]
    fn a_further_attempt_goes_on_counting() {
        let mut logs = Logs::new(BOUNDS);
        logs.line("a", Some(1), "x");
        logs.line("a", Some(2), "x");
        logs.line("a", Some(1), "again");
        logs.line("a", None, "y");
        assert_eq!(numbers(&logs.page("a", 0)), [2, 3, 4]);
    }

    #[test]
    fn bytes_and_jobs_are_bounded() {
        let mut logs = Logs::new(BOUNDS);
        logs.line("a", None, "0123456789");
        logs.line("a", None, "0123456789");
        assert_eq!(numbers(&logs.page("a", 0)), [2]);
        logs.line("b", None, "0123456789");
        logs.line("b", None, "x");
        assert_eq!(
            (logs.by_job.contains_key("a"), logs.bytes),
            (false, 11),
            "the one written to the longest time ago gives way"
        );
        logs.line("c", None, "x");
        logs.line("d", None, "x");
        assert_eq!((logs.by_job.len(), logs.by_job.contains_key("b")), (2, false));
        logs.line("huge", None, &"é".repeat(9000));
        assert!(logs.bytes <= BOUNDS.bytes);
    }
}
