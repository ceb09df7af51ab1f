//! What tests came to, however it was written down: counts, each test by name, the failures and where in the source they
//! are, the slowest. All of it is bounded, because what is tested wrote it.
use std::path::Path;

/// So many failing tests are told by name; the rest is counted.
pub(crate) const FAILURES_MAX: usize = 50;
/// So many tests are known by name; the rest is counted.
pub(crate) const TESTS_MAX: usize = 10_000;
/// All their names together, bytes.
const NAMES_BYTES_MAX: usize = 1 << 20;
/// Of a suite and of a job.
pub(crate) const SLOWEST_MAX: usize = 10;
/// A longer message is cut, bytes.
const MESSAGE_BYTES_MAX: usize = 2048;
/// A longer name is cut, bytes.
const NAME_BYTES_MAX: usize = 500;
/// A longer location is none, bytes.
const LOCATION_BYTES_MAX: usize = 300;

/// How one test went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// Where the report says.
    pub(crate) duration_ms: Option<u64>,
}

/// Tests of one suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
    /// The first [`TESTS_MAX`], and fewer where their names are long.
    pub(crate) tests: Vec<Test>,
    pub(crate) names_bytes: usize,
    /// There are more tests than `tests` holds.
    pub(crate) has_more: bool,
    /// The first [`FAILURES_MAX`].
    pub(crate) failures: Vec<Failure>,
    /// Tests that failed at first and passed when they were run again, the first [`FAILURES_MAX`].
    pub(crate) flaky: Vec<Failure>,
    /// At most [`SLOWEST_MAX`], the slowest first: name and milliseconds.
    pub(crate) slowest: Vec<(String, u64)>,
}

/// A test that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) name: String,
    pub(crate) message: String,
    /// `file:line`.
    pub(crate) location: Option<String>,
}

impl Test {
    /// Cuts a name that is too long.
    pub(crate) fn new(name: &str, verdict: Verdict, duration_ms: Option<u64>) -> Self {
        Self { name: cut(name, NAME_BYTES_MAX).to_owned(), verdict, duration_ms }
    }
}

impl Report {
    /// All tests that were found.
    pub(crate) fn total(&self) -> u32 {
        self.passed.saturating_add(self.failed).saturating_add(self.skipped)
    }

    /// Whether every test of this name passed. Of more tests than are known by name, those passed that did not fail.
    pub(crate) fn has_passed(&self, name: &str) -> bool {
        if self.failures.iter().any(|failure| failure.name == name) {
            return false;
        }
        let mut same = self.tests.iter().filter(|test| test.name == name).peekable();
        match same.peek() {
            Some(_) => same.all(|test| test.verdict == Verdict::Passed),
            None => self.has_more,
        }
    }

    /// Counts a test and keeps it.
    pub(crate) fn count(&mut self, test: Test) {
        let count = match test.verdict {
            Verdict::Passed => &mut self.passed,
            Verdict::Failed => &mut self.failed,
            Verdict::Skipped => &mut self.skipped,
        };
        *count = count.saturating_add(1);
        self.keep(test);
    }

    /// Keeps a test that is counted elsewhere.
    pub(crate) fn keep(&mut self, test: Test) {
        if let Some(ms) = test.duration_ms {
            self.may_be_slow(&test.name, ms);
        }
        if self.tests.len() < TESTS_MAX && self.names_bytes + test.name.len() <= NAMES_BYTES_MAX {
            self.names_bytes += test.name.len();
            self.tests.push(test);
        } else {
            self.has_more = true;
        }
    }

    /// Places below this folder (the tree, as the tests saw it) are told as ones of the repository.
    pub(crate) fn relative_to(mut self, tree: &Path) -> Self {
        for location in self.failures.iter_mut().chain(&mut self.flaky).filter_map(|f| f.location.as_mut()) {
            if let Some(below) = Path::new(location).strip_prefix(tree).ok().and_then(Path::to_str) {
                *location = below.to_owned();
            }
        }
        self
    }

    /// Keeps a failure of a test that is counted.
    pub(crate) fn fail(&mut self, failure: Failure) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }

    /// Keeps what a test said that passed when it was run again.
    pub(crate) fn flake(&mut self, failure: Failure) {
        if self.flaky.len() < FAILURES_MAX {
            self.flaky.push(failure);
        }
    }

    /// Both together.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
        self.skipped = self.skipped.saturating_add(other.skipped);
        other.tests.into_iter().for_each(|test| self.keep(test));
        other.failures.into_iter().for_each(|failure| self.fail(failure));
        other.flaky.into_iter().for_each(|failure| self.flake(failure));
        // Of tests that have no place in `tests`.
        for (name, ms) in other.slowest {
            if !self.slowest.contains(&(name.clone(), ms)) {
                self.may_be_slow(&name, ms);
            }
        }
        self.has_more |= other.has_more;
    }

    fn may_be_slow(&mut self, name: &str, ms: u64) {
        let place = self.slowest.iter().position(|(_, other)| *other < ms).unwrap_or(self.slowest.len());
        if place < SLOWEST_MAX {
            self.slowest.insert(place, (name.to_owned(), ms));
            self.slowest.truncate(SLOWEST_MAX);
        }
    }
}

/// Seconds, as most tools write them.
pub(crate) fn milliseconds(seconds: f64) -> Option<u64> {
    (seconds.is_finite() && seconds >= 0.0).then(|| (seconds * 1000.0).round() as u64)
}

impl Failure {
    /// Cuts what is too long; looks for the location in the message where none is given.
    pub(crate) fn new(name: &str, message: &str, location: Option<String>) -> Self {
        let message = message.trim();
        let location = location.or_else(|| locate(message)).filter(|l| l.len() <= LOCATION_BYTES_MAX);
        Self {
            name: cut(name, NAME_BYTES_MAX).to_owned(),
            message: cut(message, MESSAGE_BYTES_MAX).to_owned(),
            location,
        }
    }
}

/// The first bytes, up to a character boundary.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// `file:line` as Rust's panics (`panicked at src/lib.rs:21:9`) or most other tools (`tests/test_sum.py:5: error`)
/// write it; the last of the latter, because stack traces end where it happened.
fn locate(message: &str) -> Option<String> {
    let panic = message.lines().find_map(|line| file_and_line(line.split_once("panicked at ")?.1));
    panic.or_else(|| message.lines().rev().find_map(|line| file_and_line(line.trim_start().trim_start_matches("at "))))
}

/// `file:line` at the beginning of a text, if the file has an ending and the line is a number.
fn file_and_line(text: &str) -> Option<String> {
    // Rust before 1.73 wrote `'message', src/lib.rs:21:9`.
    let text = text.rsplit_once("', ").map_or(text, |(_, place)| place);
    let word = text.split_whitespace().next()?;
    let (file, rest) = word.split_once(':')?;
    let line: u32 = rest.split([':', ',', ')']).next()?.parse().ok()?;
    let has_ending = file.rsplit_once('.').is_some_and(|(stem, ending)| {
        !stem.is_empty() && (1..=5).contains(&ending.len()) && ending.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    (has_ending && line > 0).then(|| format!("{file}:{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_place_is_found_in_what_tools_print() {
        for (text, place) in [
            ("thread 'a' (7) panicked at src/lib.rs:21:9:\nassertion failed", Some("src/lib.rs:21")),
            ("thread 'a' panicked at 'left: 1', src/lib.rs:21:9", Some("src/lib.rs:21")),
            (
                "def test_a():\n>   assert 1 == 2\nE   assert 1 == 2\n\ntests/test_a.py:2: AssertionError",
                Some("tests/test_a.py:2"),
            ),
            ("Error: x\n  at src/sum.test.js:3:5", Some("src/sum.test.js:3")),
            ("http://127.0.0.1:80/ refused", None),
            ("at 12:30 it failed", None),
            ("", None),
        ] {
            assert_eq!(locate(text).as_deref(), place, "{text}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let mut long = Report::default();
        (0..5_000).for_each(|i| long.count(Test::new(&format!("{i}{}", "x".repeat(500)), Verdict::Passed, None)));
        assert!(long.passed == 5_000 && long.tests.len() < 2_200, "{}", long.tests.len());
        assert!(long.has_passed("one that is not known by name"));
        let failure = Failure::new(&"é".repeat(400), &"é".repeat(2000), Some("x".repeat(400)));
        assert_eq!((failure.name.len(), failure.message.len(), failure.location), (500, 2048, None));
        let mut all = Report::default();
        for _ in 0..3 {
            let failures = vec![Failure::new("a", "", None); 30];
            all.add(Report { failed: u32::MAX / 2, failures, ..Report::default() });
        }
        assert_eq!((all.failed, all.failures.len()), (u32::MAX, FAILURES_MAX));
    }

    #[test]
    fn the_slowest_come_first_and_are_few() {
        let mut all = Report::default();
        for ms in (0..40).chain([100, 7]) {
            all.count(Test::new(&format!("t{ms}"), Verdict::Passed, Some(ms)));
        }
        let slowest: Vec<u64> = all.slowest.iter().map(|(_, ms)| *ms).collect();
        assert_eq!(slowest, [100, 39, 38, 37, 36, 35, 34, 33, 32, 31]);
        assert_eq!((milliseconds(0.0015), milliseconds(f64::NAN), milliseconds(-1.0)), (Some(2), None, None));
    }

    #[test]
    fn a_place_in_the_sandbox_is_told_as_one_of_the_repository() {
        let mut report = Report::default();
        for place in ["/workspace/src/a.rs:3", "/usr/lib/b.py:4", "src/c.rs:5"] {
            report.fail(Failure::new("a", "", Some(place.into())));
        }
        let report = report.relative_to(Path::new("/workspace"));
        let places: Vec<_> = report.failures.iter().filter_map(|f| f.location.as_deref()).collect();
        assert_eq!(places, ["src/a.rs:3", "/usr/lib/b.py:4", "src/c.rs:5"]);
    }

    proptest! {
        #[test]
        fn no_message_panics(text in "\\PC{0,200}") {
            let _ = Failure::new(&text, &text, None);
        }
    }
}
