//! Reads what Rust's libtest prints, line by line as it comes: `test a::b ... ok`, `test result: …`, and the output of
//! failed tests. Nothing a line holds can end the reading; what is kept is bounded.
use std::collections::{BTreeMap, BTreeSet};

use super::Lines;
use crate::report::{FAILURES_MAX, Failure, Report, Test, Verdict, cut};

/// Kept of one test's output; the message is cut further.
const SECTION_BYTES_MAX: usize = 16 * 1024;

/// A reader. One for the whole output of a suite, which may run many test programs.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Of test programs that said how they ended.
    done: Report,
    /// Of the program that runs.
    now: Counts,
    /// Names of failed tests in order, each once.
    failed: Vec<String>,
    known: BTreeSet<String>,
    outputs: BTreeMap<String, String>,
    /// Whose output is being read.
    section: Option<String>,
    /// What is being read is the output of tests that passed.
    passed_are_told: bool,
}

#[derive(Debug, Default)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Lines for Reader {
    fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(summary) = line.strip_prefix("test result: ") {
            (self.section, self.passed_are_told) = (None, false);
            self.finish_program(summary);
        } else if line == "successes:" {
            // `--show-output` prints them before the failures.
            self.section = Some(String::new());
            self.passed_are_told = true;
        } else if let Some(name) = section_of(line).filter(|_| !self.passed_are_told) {
            self.failed(name);
            self.section = Some(name.to_owned());
        } else if line == "failures:" || self.section.is_none() {
            (self.section, self.passed_are_told) = (None, false);
            self.verdict(line);
        } else if let Some(output) = self.section.as_ref().and_then(|name| self.outputs.get_mut(name)) {
            let room = SECTION_BYTES_MAX.saturating_sub(output.len() + 1);
            if room > 0 {
                output.push_str(cut(line, room));
                output.push('\n');
            }
        }
    }

    /// What all programs came to. One that ended without saying how (it crashed) counts with the tests it had told of.
    fn finish(mut self: Box<Self>) -> Report {
        self.close(None);
        // A test may print what looks like a failure; the counts know better.
        for name in self.failed.iter().take(self.done.failed as usize) {
            let output = self.outputs.get(name).map(String::as_str).unwrap_or_default();
            self.done.fail(Failure::new(name, &message(output), place(output)));
        }
        self.done
    }
}

/// Whether only libtest prints such a line.
pub(super) fn is_told_by(line: &str) -> bool {
    let is_start = || {
        let count = line.strip_prefix("running ")?;
        let count = count.strip_suffix(" tests").or_else(|| count.strip_suffix(" test"))?;
        count.parse::<u32>().ok()
    };
    line.starts_with("test result: ")
        || is_start().is_some()
        || (line.starts_with("test ") && [" ... ok", " ... FAILED", " ... ignored"].iter().any(|v| line.contains(v)))
}

impl Reader {
    /// `test a::b ... ok`; anything else is no verdict.
    fn verdict(&mut self, line: &str) {
        let Some((name, verdict)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) else {
            return;
        };
        let name = name.trim_end_matches(" - should panic");
        let (count, verdict) = match verdict.split([',', ':', ' ']).next().unwrap_or_default() {
            "ok" | "bench" => (&mut self.now.passed, Verdict::Passed),
            "FAILED" | "failed" => (&mut self.now.failed, Verdict::Failed),
            "ignored" => (&mut self.now.skipped, Verdict::Skipped),
            _ => return,
        };
        *count = count.saturating_add(1);
        self.done.keep(Test::new(name, verdict, None));
        if verdict == Verdict::Failed {
            self.failed(name);
        }
    }

    fn failed(&mut self, name: &str) {
        if self.failed.len() < FAILURES_MAX && self.known.insert(name.to_owned()) {
            self.failed.push(name.to_owned());
            self.outputs.insert(name.to_owned(), String::new());
        }
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`: what the program says of itself goes before what was counted,
    /// because a test that prints without a line end hides its own verdict.
    fn finish_program(&mut self, summary: &str) {
        let mut told = Counts::default();
        let mut is_told = false;
        for part in summary.split(['.', ';']) {
            let Some((number, word)) = part.trim().split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u32>() else {
                continue;
            };
            is_told = true;
            match word {
                "passed" | "measured" => told.passed = told.passed.saturating_add(number),
                "failed" => told.failed = number,
                "ignored" => told.skipped = number,
                _ => {}
            }
        }
        self.close(is_told.then_some(told));
    }

    fn close(&mut self, told: Option<Counts>) {
        let counted = std::mem::take(&mut self.now);
        let Counts { passed, failed, skipped } = told.unwrap_or(counted);
        self.done.add(Report { passed, failed, skipped, ..Report::default() });
    }
}

/// `---- a::b stdout ----`
fn section_of(line: &str) -> Option<&str> {
    let inner = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
    inner.strip_suffix(" stdout").or_else(|| inner.strip_suffix(" stderr"))
}

/// What a failed test said, without what libtest adds for people at a terminal.
pub(super) fn message(output: &str) -> String {
    let noise = |line: &&str| !line.starts_with("note: run with `RUST_BACKTRACE=");
    output.trim().lines().filter(noise).collect::<Vec<_>>().join("\n")
}

/// Where it panicked: the last place, because output before it may tell of other panics.
pub(super) fn place(output: &str) -> Option<String> {
    let panic = output.lines().rev().find(|line| line.contains(" panicked at "))?;
    Failure::new("", panic, None).location
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Report {
        let mut reader = Box::<Reader>::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish()
    }

    fn counts(text: &str) -> (u32, u32, u32) {
        let r = read(text);
        (r.passed, r.failed, r.skipped)
    }

    /// As cargo 1.95 prints it.
    const FAILING: &str = "\
running 4 tests
test tests::adds ... FAILED
test tests::later ... ignored, not yet
test tests::panics - should panic ... ok
test tests::subtracts ... ok

failures:

---- tests::adds stdout ----
adding

thread 'tests::adds' (4711) panicked at src/lib.rs:21:9:
assertion `left == right` failed: sums
  left: 4
 right: 5
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace


failures:
    tests::adds

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: test failed, to rerun pass `--lib`
";

    #[test]
    fn failures_are_told_with_message_and_place() {
        let report = read(FAILING);
        assert_eq!((report.passed, report.failed, report.skipped), (2, 1, 1));
        let [failure] = report.failures.as_slice() else { panic!("{report:?}") };
        assert_eq!((failure.name.as_str(), failure.location.as_deref()), ("tests::adds", Some("src/lib.rs:21")));
        assert!(failure.message.starts_with("adding\n\nthread 'tests::adds'"), "{}", failure.message);
        assert!(failure.message.ends_with("right: 5"), "{}", failure.message);
    }

    #[test]
    fn several_programs_are_added_up() {
        let one = "running 1 test\ntest a ... ok\ntest result: ok. 1 passed; 0 failed; 2 ignored; 0 measured\n";
        let docs =
            "   Doc-tests x\ntest src/lib.rs - adds (line 4) ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        let none = "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored\n";
        assert_eq!(counts(&format!("{one}{docs}{none}")), (2, 0, 2));
        assert_eq!(counts(none), (0, 0, 0));
    }

    #[test]
    fn what_passed_tests_printed_is_no_failure() {
        let text = "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nsuccesses:\n\n---- a stdout ----\nfine\n\n\nsuccesses:\n    a\n\nfailures:\n\n---- b stdout ----\nbad\n\nfailures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        let report = read(text);
        let told: Vec<_> = report.failures.iter().map(|f| (f.name.as_str(), f.message.as_str())).collect();
        assert_eq!(told, [("b", "bad")]);
    }

    #[test]
    fn a_program_that_crashed_counts_with_what_it_told() {
        assert_eq!(
            counts("running 3 tests\ntest a ... ok\ntest b ... FAILED\nthread 'c' has overflowed its stack\n"),
            (1, 1, 0)
        );
    }

    #[test]
    fn a_test_that_prints_over_its_verdict_is_counted_by_the_summary() {
        let text =
            "running 2 tests\ntest a ... hello\nok\ntest b ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored";
        assert_eq!(counts(text), (2, 0, 0));
    }

    #[test]
    fn what_is_no_verdict_is_left() {
        for line in
            ["test", "test ", "test x", "test x ...", "testing ... ok", "test x has been running for over 60 seconds"]
        {
            assert_eq!(counts(line), (0, 0, 0), "{line}");
        }
        assert_eq!(counts("test result: "), (0, 0, 0));
        assert_eq!(counts("test result: ok. 99999999999 passed"), (0, 0, 0));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let many: String =
            (0..9000).map(|i| i.to_string()).fold(String::new(), |all, i| all + "test t" + &i + " ... FAILED\n");
        let report = read(&many);
        assert_eq!((report.failed, report.failures.len()), (9000, FAILURES_MAX));
        let mut reader = Reader::default();
        reader.line("---- a stdout ----");
        for _ in 0..10_000 {
            reader.line(&"x".repeat(100));
        }
        assert!(reader.outputs["a"].len() <= SECTION_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn no_output_panics(lines in proptest::collection::vec("(test |---- |failures:|test result: ok. )?[\\PC\u{1b}\\[]{0,40}( \\.\\.\\. ok| stdout ----|; 1 passed)?", 0..20)) {
            let _ = read(&lines.join("\n"));
        }
    }
}
