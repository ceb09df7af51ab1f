//! Reads what cargo-nextest prints: a status line per test (`PASS [   0.004s] (1/5) shop tests::adds`), the output of
//! those that failed, and a summary. A test that it ran again until it passed is told as flaky.
use std::collections::BTreeMap;

use super::{Lines, libtest};
use crate::report::{FAILURES_MAX, Failure, Report, TESTS_MAX, Test, Verdict, cut, milliseconds};

/// Kept of one test's output; the message is cut further.
const SECTION_BYTES_MAX: usize = 16 * 1024;

/// A reader. One for the whole output of a suite, which may run nextest several times.
#[derive(Default)]
pub(super) struct Reader {
    /// Of runs that said how they ended.
    done: Report,
    /// Of the run that goes on, in the order of their ends.
    tests: Vec<Seen>,
    places: BTreeMap<String, usize>,
    /// Whose output is being read.
    section: Option<usize>,
    /// How many tests have output that is kept.
    told: usize,
    /// After the summary, failures are told once more.
    is_over: bool,
}

struct Seen {
    name: String,
    verdict: Verdict,
    /// It failed at first.
    failed_once: bool,
    duration_ms: Option<u64>,
    output: Option<String>,
}

/// A status line.
struct Status<'a> {
    verdict: Verdict,
    duration_ms: Option<u64>,
    binary: &'a str,
    test: &'a str,
}

/// Whether only nextest prints such a line.
pub(super) fn is_told_by(line: &str) -> bool {
    is_start(line) || line.trim_start().starts_with("Nextest run ID ") || status(line).is_some()
}

fn is_start(line: &str) -> bool {
    line.trim_start().strip_prefix("Starting ").is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains(" test") && rest.contains(" across ")
    })
}

impl Lines for Reader {
    fn line(&mut self, line: &str) {
        if is_start(line) {
            self.close(None);
            self.is_over = false;
        } else if let Some(summary) = summary(line) {
            self.close(Some(summary));
            self.is_over = true;
        } else if self.is_over {
            // The failures, told once more.
        } else if line.starts_with("───") {
            self.section = None;
        } else if let Some(status) = status(line) {
            self.settle(&status);
        } else if let Some(seen) = self.section.and_then(|place| self.tests.get_mut(place)) {
            seen.hear(line);
        }
    }

    fn finish(mut self: Box<Self>) -> Report {
        self.close(None);
        self.done
    }
}

impl Reader {
    fn settle(&mut self, status: &Status<'_>) {
        let name = format!("{}::{}", cut(status.binary, 200), cut(status.test, 500));
        self.section = None;
        let place = match self.places.get(&name) {
            Some(place) => *place,
            None if self.tests.len() < TESTS_MAX => {
                self.places.insert(name.clone(), self.tests.len());
                let (failed_once, duration_ms, output) = (false, None, None);
                self.tests.push(Seen { name, verdict: status.verdict, failed_once, duration_ms, output });
                self.tests.len() - 1
            }
            None => return,
        };
        let Some(seen) = self.tests.get_mut(place) else { return };
        (seen.verdict, seen.duration_ms) = (status.verdict, status.duration_ms);
        if status.verdict == Verdict::Failed {
            seen.failed_once = true;
            if seen.output.is_none() && self.told < 2 * FAILURES_MAX {
                self.told += 1;
                seen.output = Some(String::new());
            }
            self.section = Some(place);
        }
    }

    /// Ends a run. What it says of itself goes before what was counted.
    fn close(&mut self, told: Option<(u32, u32, u32)>) {
        let mut run = Report::default();
        for seen in std::mem::take(&mut self.tests) {
            run.count(Test::new(&seen.name, seen.verdict, seen.duration_ms));
            match seen.verdict {
                Verdict::Failed => run.fail(seen.failure()),
                Verdict::Passed if seen.failed_once => run.flake(seen.failure()),
                _ => {}
            }
        }
        if let Some((passed, failed, skipped)) = told {
            // Fewer failures than were named would leave some without a count.
            let failed = failed.max(run.failures.len() as u32);
            (run.passed, run.failed, run.skipped) = (passed, failed, skipped);
        }
        self.done.add(run);
        self.places.clear();
        (self.section, self.told) = (None, 0);
    }
}

impl Seen {
    /// A line of its output, indented by four. A new section replaces one that says nothing of a panic.
    fn hear(&mut self, line: &str) {
        let Some(output) = &mut self.output else { return };
        if line.trim_end().ends_with("───") {
            if !output.contains("panicked at ") {
                output.clear();
            }
            return;
        }
        let room = SECTION_BYTES_MAX.saturating_sub(output.len() + 1);
        if room > 0 {
            output.push_str(cut(line.strip_prefix("    ").unwrap_or(line), room));
            output.push('\n');
        }
    }

    fn failure(&self) -> Failure {
        let output = self.output.as_deref().unwrap_or_default();
        let said = output.split("stack backtrace:").next().unwrap_or_default();
        let noise = |line: &&str| !(line.starts_with("running ") && line.ends_with(" test"));
        let said: Vec<&str> = said.lines().filter(noise).collect();
        Failure::new(&self.name, &libtest::message(&said.join("\n")), libtest::place(output))
    }
}

/// `TRY 2 PASS [   0.025s] (3/5) shop tests::once`; lines that only tell that a test takes long are none.
fn status(line: &str) -> Option<Status<'_>> {
    let (word, rest) = line.trim_start().split_once('[')?;
    let word = word.trim_end();
    let word = word.strip_prefix("TRY ").map_or(word, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let verdict = match word.trim_start() {
        "PASS" | "LEAK" | "TMPASS" => Verdict::Passed,
        "FAIL" | "ABORT" | "TIMEOUT" | "TMT" | "XFAIL" | "LKFAIL" | "LEAK-FAIL" => Verdict::Failed,
        signal if signal.len() > 3 && signal.starts_with("SIG") => Verdict::Failed,
        _ => return None,
    };
    let (seconds, rest) = rest.split_once("s]")?;
    let duration_ms = seconds.trim().parse().ok().and_then(milliseconds);
    duration_ms?;
    let rest = rest.trim_start();
    // Where in the run it is; older versions do not say.
    let rest = rest.strip_prefix('(').and_then(|rest| rest.split_once(") ")).map_or(rest, |(_, name)| name);
    let (binary, test) = rest.trim().split_once(' ')?;
    Some(Status { verdict, duration_ms, binary, test: test.trim() })
}

/// `Summary [   2.019s] 5 tests run: 2 passed (1 flaky), 2 failed, 1 timed out, 1 skipped` as passed, failed, skipped.
fn summary(line: &str) -> Option<(u32, u32, u32)> {
    let (_, rest) = line.trim_start().strip_prefix("Summary [")?.split_once("s]")?;
    let (run, parts) = rest.split_once(':')?;
    // `3/5` where it stopped early.
    let run: u32 = run.trim().split([' ', '/']).next()?.parse().ok()?;
    let number = |word: &str| {
        let part = parts.split(',').map(str::trim).find(|part| part.split(' ').nth(1) == Some(word));
        part.and_then(|part| part.split(' ').next()?.parse::<u32>().ok()).unwrap_or(0)
    };
    let passed = number("passed").min(run);
    Some((passed, run - passed, number("skipped")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Report {
        let mut reader = Box::<Reader>::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish()
    }

    #[test]
    fn a_whole_run() {
        let report = read(include_str!("../../tests/fixtures/nextest.txt"));
        assert_eq!((report.passed, report.failed, report.skipped), (2, 3, 1));
        let names: Vec<&str> = report.failures.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["shop::tests::aborts", "shop::tests::adds", "shop::tests::hangs"]);
        let [aborts, adds, hangs] = report.failures.as_slice() else { panic!("{report:?}") };
        assert_eq!(adds.location.as_deref(), Some("src/lib.rs:8"));
        assert!(adds.message.starts_with("thread 'tests::adds'"), "{}", adds.message);
        assert!(adds.message.ends_with("left: 4\n right: 5"), "{}", adds.message);
        assert_eq!(aborts.message, "(test aborted with signal 6: SIGABRT)");
        assert_eq!(hangs.message, "(test timed out)");
        let [flaky] = report.flaky.as_slice() else { panic!("{report:?}") };
        assert_eq!((flaky.name.as_str(), flaky.location.as_deref()), ("shop::tests::once", Some("src/lib.rs:16")));
        assert!(flaky.message.ends_with("the first time"), "{}", flaky.message);
        assert_eq!(report.slowest[0], ("shop::tests::hangs".to_owned(), 2_008));
        assert_eq!(report.tests.len(), 5);
    }

    #[test]
    fn several_runs_are_added_up_and_one_that_stopped_counts_what_ran() {
        let one = "    Starting 5 tests across 2 binaries\n  PASS [ 0.004s] shop::bin/shop tests::a\n     Summary [   0.010s] 2/5 tests run: 1 passed, 1 failed, 3 skipped\n  FAIL [ 0.004s] shop x\n";
        let two = "    Starting 1 test across 1 binary\n        PASS [   0.012s] (1/1) shop tests::b\n";
        let report = read(&format!("{one}{two}"));
        assert_eq!((report.passed, report.failed, report.skipped), (2, 1, 3));
        assert_eq!(report.tests[0].name, "shop::bin/shop::tests::a");
    }

    #[test]
    fn what_is_no_status_is_left() {
        for line in ["PASS", "PASS [", "PASS [x] a b", "PASS [ 0.1s] a", "SLOW [> 1.000s] (───) a b", "Summary [s] : :"]
        {
            assert_eq!(read(line), Report::default(), "{line}");
        }
    }
}
