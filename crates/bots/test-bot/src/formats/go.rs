//! Reads what `go test -json` prints: an event a line. A test with subtests counts by them, and by itself only where it
//! failed and none of them did.
use std::collections::BTreeMap;

use serde::Deserialize;

use super::Lines;
use crate::report::{Failure, Report, Test, Verdict, cut, milliseconds};

/// Tests that have begun and not ended; Go runs as many at a time as there are processors, and parents wait.
pub(super) const OPEN_MAX: usize = 1_000;
/// Kept of one test's output; the message is cut further.
const OUTPUT_BYTES_MAX: usize = 4 * 1024;
/// Of a name that is kept while the test runs.
const NAME_BYTES_MAX: usize = 500;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    action: String,
    #[serde(default)]
    package: String,
    #[serde(default)]
    test: String,
    elapsed: Option<f64>,
    #[serde(default)]
    output: String,
}

/// A reader.
#[derive(Default)]
pub(super) struct Reader {
    report: Report,
    /// By package and test; a package by itself is the test ``.
    open: BTreeMap<(String, String), Open>,
}

#[derive(Default)]
struct Open {
    output: String,
    has_subtests: bool,
    /// It, or what is below it.
    has_failed: bool,
}

/// Whether only Go prints such a line.
pub(super) fn is_told_by(line: &str) -> bool {
    line.starts_with('{') && line.contains("\"Action\":\"") && serde_json::from_str::<Event>(line).is_ok()
}

impl Lines for Reader {
    fn line(&mut self, line: &str) {
        if !line.starts_with('{') {
            return;
        }
        let Ok(event) = serde_json::from_str::<Event>(line) else { return };
        let key = (cut(&event.package, NAME_BYTES_MAX).to_owned(), cut(&event.test, NAME_BYTES_MAX).to_owned());
        match event.action.as_str() {
            "run" | "start" => self.begin(key),
            "output" => self.hear(key, &event.output),
            "pass" | "bench" => self.end(key, Verdict::Passed, event.elapsed),
            "fail" => self.end(key, Verdict::Failed, event.elapsed),
            "skip" => self.end(key, Verdict::Skipped, event.elapsed),
            _ => {}
        }
    }

    fn finish(mut self: Box<Self>) -> Report {
        let mut packages: Vec<String> = self.open.keys().map(|(package, _)| package.clone()).collect();
        packages.dedup();
        for package in packages {
            self.fail_unfinished(&package);
        }
        self.report
    }
}

impl Reader {
    fn begin(&mut self, key: (String, String)) {
        for parent in parents(&key.1) {
            if let Some(open) = self.open.get_mut(&(key.0.clone(), parent.to_owned())) {
                open.has_subtests = true;
            }
        }
        self.opened(key);
    }

    fn opened(&mut self, key: (String, String)) -> Option<&mut Open> {
        // A package that is not kept would count as failed besides its tests.
        let max = if key.1.is_empty() { 2 * OPEN_MAX } else { OPEN_MAX };
        if self.open.len() >= max && !self.open.contains_key(&key) {
            return None;
        }
        Some(self.open.entry(key).or_default())
    }

    fn hear(&mut self, key: (String, String), text: &str) {
        if let Some(open) = self.opened(key) {
            let room = OUTPUT_BYTES_MAX.saturating_sub(open.output.len());
            open.output.push_str(cut(text, room));
        }
    }

    fn end(&mut self, key: (String, String), verdict: Verdict, seconds: Option<f64>) {
        if key.1.is_empty() {
            return self.end_package(&key.0, verdict);
        }
        let open = self.open.remove(&key).unwrap_or_default();
        let (package, test) = key;
        if verdict == Verdict::Failed {
            self.mark_failed(&package, &test);
        }
        // Its subtests tell.
        if open.has_subtests && (verdict != Verdict::Failed || open.has_failed) {
            return;
        }
        let name = format!("{package}.{test}");
        self.report.count(Test::new(&name, verdict, seconds.and_then(milliseconds)));
        if verdict == Verdict::Failed {
            self.report.fail(failure(&name, &open.output));
        }
    }

    /// What is above a failed test failed because of it.
    fn mark_failed(&mut self, package: &str, test: &str) {
        for parent in parents(test) {
            if let Some(open) = self.open.get_mut(&(package.to_owned(), parent.to_owned())) {
                open.has_failed = true;
            }
        }
        if let Some(package) = self.opened((package.to_owned(), String::new())) {
            package.has_failed = true;
        }
    }

    /// A package that failed without a failing test did not compile, or ended by itself.
    fn end_package(&mut self, package: &str, verdict: Verdict) {
        if verdict == Verdict::Failed {
            self.fail_unfinished(package);
        }
        let own = self.open.remove(&(package.to_owned(), String::new())).unwrap_or_default();
        self.open.retain(|(other, _), _| other != package);
        if verdict == Verdict::Failed && !own.has_failed {
            self.report.count(Test::new(package, Verdict::Failed, None));
            self.report.fail(failure(package, &own.output));
        }
    }

    /// Tests that had begun when their package ended, such as one that hung. The deepest tells for those above it.
    fn fail_unfinished(&mut self, package: &str) {
        let open = self.open.keys().filter(|(other, test)| other == package && !test.is_empty());
        let open: Vec<String> = open.map(|(_, test)| test.clone()).collect();
        for test in open.into_iter().rev() {
            self.end((package.to_owned(), test), Verdict::Failed, None);
        }
    }
}

/// `A/b/c`: `A` and `A/b`.
fn parents(test: &str) -> impl Iterator<Item = &str> {
    test.match_indices('/').filter_map(|(at, _)| test.get(..at))
}

fn failure(name: &str, output: &str) -> Failure {
    let noise = |line: &&str| {
        let line = line.trim_start();
        !(line.starts_with("=== ") || line.starts_with("--- ") || line == "FAIL" || line.starts_with("FAIL\t"))
    };
    let said: Vec<&str> = output.lines().filter(noise).collect();
    let indent = said.iter().filter(|line| !line.trim().is_empty()).map(|line| line.len() - line.trim_start().len());
    let indent = indent.min().unwrap_or(0);
    let said: Vec<&str> = said.iter().map(|line| line.get(indent..).unwrap_or_default()).collect();
    // A panic's trace names files of Go itself before and after the test's own.
    let own = said.iter().find_map(|line| {
        let (file, rest) = line.trim_start().split_once("_test.go:")?;
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        (file.starts_with('/') && !number.is_empty()).then(|| format!("{file}_test.go:{number}"))
    });
    Failure::new(name, &said.join("\n"), own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Report {
        let mut reader = Box::<Reader>::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish()
    }

    fn event(action: &str, test: &str, output: &str) -> String {
        format!("{{\"Action\":\"{action}\",\"Package\":\"p\",\"Test\":\"{test}\",\"Output\":\"{output}\"}}\n")
    }

    #[test]
    fn a_whole_run() {
        let report = read(include_str!("../../tests/fixtures/go-test.json"));
        assert_eq!((report.passed, report.failed, report.skipped), (2, 3, 1));
        let told: Vec<_> = report.failures.iter().map(|f| (f.name.as_str(), f.location.as_deref())).collect();
        let want = [
            ("example.com/shop.TestBroken", Some("shop_test.go:9")),
            ("example.com/shop.TestTable/two", Some("shop_test.go:14")),
            ("example.com/shop/sub.TestPanics", Some("/workspace/sub/sub_test.go:7")),
        ];
        assert_eq!(told, want);
        assert_eq!(report.failures[0].message, "shop_test.go:8: adding\nshop_test.go:9: sum: got 4, want 5");
        assert!(report.failures[2].message.starts_with("panic: assignment to entry in nil map"));
    }

    #[test]
    fn a_test_counts_by_its_subtests_and_by_itself_where_only_it_failed() {
        let runs = event("run", "A", "") + &event("run", "A/b", "") + &event("pass", "A/b", "");
        let report = read(&(runs.clone() + &event("fail", "A", "")));
        assert_eq!((report.passed, report.failed), (1, 1));
        let report = read(&(runs + &event("pass", "A", "")));
        assert_eq!((report.passed, report.failed), (1, 0));
    }

    #[test]
    fn a_test_that_never_ended_failed() {
        let report = read(
            &(event("run", "A", "")
                + &event("run", "A/hangs", "")
                + &event("output", "A/hangs", "waiting\\n")
                + &event("fail", "", "")),
        );
        assert_eq!(report.failed, 1, "{report:?}");
        assert_eq!((report.failures[0].name.as_str(), report.failures[0].message.as_str()), ("p.A/hangs", "waiting"));
        assert_eq!(read(&event("run", "A", "")).failed, 1, "nor one that was cut off");
    }

    #[test]
    fn a_package_that_failed_without_a_test_is_told() {
        let report = read(&(event("output", "", "p_test.go:3:5: undefined: x\\n") + &event("fail", "", "")));
        assert_eq!((report.failed, report.failures[0].location.as_deref()), (1, Some("p_test.go:3")));
    }

    #[test]
    fn what_is_no_event_is_left() {
        for line in ["{", "{}", "{\"Action\":1}", "ok  \tp\t0.1s", "{\"Action\":\"pause\",\"Package\":\"p\"}"] {
            assert_eq!(read(line), Report::default(), "{line}");
        }
    }
}
