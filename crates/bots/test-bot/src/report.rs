//! What tests came to, however it was written down: counts, the failures, and where in the source they are.

/// So many failing tests are told by name; the rest is counted.
pub(crate) const FAILURES_MAX: usize = 50;
/// A longer message is cut, bytes.
const MESSAGE_BYTES_MAX: usize = 2048;
/// A longer name is cut, bytes.
const NAME_BYTES_MAX: usize = 500;
/// A longer location is none, bytes.
const LOCATION_BYTES_MAX: usize = 300;

/// Tests of one suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
    /// The first [`FAILURES_MAX`].
    pub(crate) failures: Vec<Failure>,
}

/// A test that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) name: String,
    pub(crate) message: String,
    /// `file:line`.
    pub(crate) location: Option<String>,
}

impl Report {
    /// All tests that were found.
    pub(crate) fn total(&self) -> u32 {
        self.passed.saturating_add(self.failed).saturating_add(self.skipped)
    }

    /// Both together.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
        self.skipped = self.skipped.saturating_add(other.skipped);
        let room = FAILURES_MAX.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.into_iter().take(room));
    }
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
        let failure = Failure::new(&"é".repeat(400), &"é".repeat(2000), Some("x".repeat(400)));
        assert_eq!((failure.name.len(), failure.message.len(), failure.location), (500, 2048, None));
        let mut all = Report::default();
        for _ in 0..3 {
            let failures = vec![Failure::new("a", "", None); 30];
            all.add(Report { failed: u32::MAX / 2, failures, ..Report::default() });
        }
        assert_eq!((all.failed, all.failures.len()), (u32::MAX, FAILURES_MAX));
    }

    proptest! {
        #[test]
        fn no_message_panics(text in "\\PC{0,200}") {
            let _ = Failure::new(&text, &text, None);
        }
    }
}
