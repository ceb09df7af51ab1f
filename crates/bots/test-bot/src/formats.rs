//! The formats in which tools tell of tests. A report file or a suite's output is read line by line (JUnit XML as a
//! whole); which format it is in shows in the first line that only one of them can have, unless the suite names it.
//! What is tested wrote it all: no input ends the reading, and what is kept is bounded.
mod go;
mod junit;
mod libtest;
mod nextest;
mod tap;

use bot_messages::pipeline::ReportFormat;

use crate::report::{Report, cut};

/// More of what is wrong with a file is not told.
pub(crate) const ERROR_BYTES_MAX: usize = 500;

/// Reads a format line by line.
trait Lines: Send {
    /// The next line, without its end and without colours.
    fn line(&mut self, line: &str);
    /// What all lines came to.
    fn finish(self: Box<Self>) -> Report;
}

/// What a suite prints, read as it comes. Lines before the first that tells a format are left.
#[derive(Default)]
pub(crate) struct Output {
    reader: Option<Box<dyn Lines>>,
}

impl Output {
    /// In this format, or in the one that shows.
    pub(crate) fn new(format: Option<ReportFormat>) -> Self {
        Self { reader: format.and_then(reader) }
    }

    /// The next line.
    pub(crate) fn line(&mut self, line: &str) {
        let line = plain(line);
        if self.reader.is_none() {
            self.reader = told_by(&line).and_then(reader);
        }
        if let Some(reader) = &mut self.reader {
            reader.line(&line);
        }
    }

    /// What it came to; `None` if no line told a format.
    pub(crate) fn finish(self) -> Option<Report> {
        self.reader.map(Lines::finish)
    }
}

/// Reads a whole report file. An error says what was expected.
pub(crate) fn read_file(text: &str, format: Option<ReportFormat>) -> Result<Report, String> {
    let is_xml = text.trim_start_matches('\u{feff}').trim_start().starts_with('<') || text.trim().is_empty();
    if format == Some(ReportFormat::Junit) || (format.is_none() && is_xml) {
        // A reader of XML quotes what it stumbled over, however long.
        return junit::parse(text).map_err(|e| format!("is no JUnit XML: {}", cut(&e.to_string(), ERROR_BYTES_MAX)));
    }
    let mut output = Output::new(format);
    text.lines().for_each(|line| output.line(line));
    let unknown = "is in no format that is known: expected JUnit XML, TAP, `go test -json`, or what cargo-nextest or \
                   libtest prints";
    output.finish().ok_or_else(|| unknown.to_owned())
}

/// JUnit has no lines to speak of.
fn reader(format: ReportFormat) -> Option<Box<dyn Lines>> {
    Some(match format {
        ReportFormat::Junit => return None,
        ReportFormat::Libtest => Box::<libtest::Reader>::default(),
        ReportFormat::Nextest => Box::<nextest::Reader>::default(),
        ReportFormat::GoTestJson => Box::<go::Reader>::default(),
        ReportFormat::Tap => Box::<tap::Reader>::default(),
    })
}

/// The one format in which this line is told.
fn told_by(line: &str) -> Option<ReportFormat> {
    match line {
        _ if nextest::is_told_by(line) => Some(ReportFormat::Nextest),
        _ if go::is_told_by(line) => Some(ReportFormat::GoTestJson),
        _ if tap::is_told_by(line) => Some(ReportFormat::Tap),
        _ if libtest::is_told_by(line) => Some(ReportFormat::Libtest),
        _ => None,
    }
}

/// Without the colours that `CARGO_TERM_COLOR=always` and the like bring.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = rest.strip_prefix(|c: char| c.is_ascii_alphabetic()).unwrap_or(rest);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{FAILURES_MAX, SLOWEST_MAX, TESTS_MAX};
    use proptest::prelude::*;

    fn read(text: &str) -> Option<Report> {
        let mut output = Output::default();
        text.lines().for_each(|line| output.line(line));
        output.finish()
    }

    fn counts(report: &Report) -> (u32, u32, u32) {
        (report.passed, report.failed, report.skipped)
    }

    #[test]
    fn the_format_shows_in_what_a_tool_prints() {
        for (line, format) in [
            ("running 3 tests", Some(ReportFormat::Libtest)),
            ("test a ... ok", Some(ReportFormat::Libtest)),
            ("    Starting 5 tests across 1 binary (1 test skipped)", Some(ReportFormat::Nextest)),
            ("{\"Action\":\"run\",\"Package\":\"p\",\"Test\":\"T\"}", Some(ReportFormat::GoTestJson)),
            ("TAP version 14", Some(ReportFormat::Tap)),
            ("1..4", Some(ReportFormat::Tap)),
            ("not ok 2 - b", Some(ReportFormat::Tap)),
            ("ok", None),
            ("ok  \texample.com/shop\t0.003s", None),
            ("{\"action\": \"opened\"}", None),
            ("running late", None),
            ("   Compiling shop v0.1.0", None),
        ] {
            assert_eq!(told_by(line), format, "{line}");
        }
    }

    #[test]
    fn what_comes_before_is_left_and_colours_are_no_part_of_a_verdict() {
        let noise = "   Compiling shop\n    Finished\n";
        let colour = "test a ... \u{1b}[32mok\u{1b}[0m\ntest b ... \u{1b}[31mFAILED\u{1b}[0m";
        assert_eq!(counts(&read(&format!("{noise}{colour}")).unwrap()), (1, 1, 0));
        assert_eq!(read(noise), None);
    }

    #[test]
    fn a_suite_may_name_its_format() {
        let mut output = Output::new(Some(ReportFormat::Tap));
        for line in ["running 1 test", "test a ... ok", "ok", "not ok"] {
            output.line(line);
        }
        assert_eq!(counts(&output.finish().unwrap()), (1, 1, 0));
        assert!(read_file("<testsuite/>", Some(ReportFormat::Junit)).is_ok());
        assert!(read_file("ok 1", Some(ReportFormat::Junit)).unwrap_err().starts_with("is no JUnit XML"));
    }

    #[test]
    fn files_are_read_in_every_format() {
        assert_eq!(
            counts(&read_file("\u{feff} <testsuite><testcase name='a'/></testsuite>", None).unwrap()),
            (1, 0, 0)
        );
        assert_eq!(counts(&read_file("TAP version 13\n1..1\nok 1 - a\n", None).unwrap()), (1, 0, 0));
        assert!(read_file("hello", None).unwrap_err().contains("no format that is known"));
        assert!(read_file("", None).unwrap_err().contains("it is empty"));
    }

    /// Pieces of every format, so that they meet each other in every order.
    fn pieces() -> impl Strategy<Value = String> {
        prop_oneof![
            "[\\PC\u{1b}\\[]{0,40}",
            Just("running 2 tests".to_owned()),
            Just("test a ... FAILED".to_owned()),
            Just("---- a stdout ----".to_owned()),
            Just("test result: ok. 1 passed; 0 failed".to_owned()),
            Just("    Starting 2 tests across 1 binary".to_owned()),
            "(TRY 1 |TRY 2 )?(PASS|FAIL|SIGABRT|LEAK) \\[ {0,3}[0-9.]{0,5}s\\] (\\(1/2\\) )?[a-z ]{0,9}",
            "     Summary \\[ 0.1s\\] [0-9/]{0,4} tests run: [0-9]{0,3} passed, 1 skipped",
            "  (stdout|stderr) ───",
            "TAP version 1[34]",
            " {0,12}(not )?ok [0-9]{0,2} [-#] [a-zA-Z ]{0,8}(# (SKIP|todo).{0,3})?",
            " {0,8}[01]\\.\\.[0-9]{1,4}",
            " {0,8}(---|\\.\\.\\.|message: [a-z\"']{0,3}|Bail out!.{0,3}|# .{0,9})",
            "\\{\"Action\":\"(run|pass|fail|skip|output)\",\"Package\":\"p\"(,\"Test\":\"[AB](/x)?\")?(,\"Output\":\"o\")?(,\"Elapsed\":[0-9e.]{1,5})?\\}",
        ]
    }

    proptest! {
        #[test]
        fn no_output_panics_and_what_is_kept_is_bounded(lines in proptest::collection::vec(pieces(), 0..60)) {
            let all = [None, Some(ReportFormat::Libtest), Some(ReportFormat::Nextest), Some(ReportFormat::GoTestJson), Some(ReportFormat::Tap)];
            for format in all {
                let mut output = Output::new(format);
                for line in &lines {
                    output.line(line);
                }
                let report = output.finish().unwrap_or_default();
                prop_assert!(report.failures.len() <= FAILURES_MAX && report.flaky.len() <= FAILURES_MAX);
                prop_assert!(report.failures.len() <= report.failed as usize, "{report:?}");
            }
        }
    }

    /// One line, a great many times: what is kept of it has to stay small.
    #[test]
    fn endless_output_is_kept_small() {
        let many = |format, line: &dyn Fn(usize) -> String| {
            let mut output = Output::new(Some(format));
            (0..30_000).for_each(|i| output.line(&line(i)));
            let report = output.finish().unwrap();
            let lists = (report.tests.len(), report.failures.len(), report.slowest.len());
            assert!(lists <= (TESTS_MAX, FAILURES_MAX, SLOWEST_MAX), "{lists:?}");
            report.total()
        };
        let event = |i: usize, action: &str| format!("{{\"Action\":\"{action}\",\"Package\":\"p\",\"Test\":\"T{i}\"}}");
        assert_eq!(many(ReportFormat::Tap, &|i| format!("not ok {i} - t{i}")), 30_000);
        assert_eq!(many(ReportFormat::Tap, &|i| format!("    not ok {i} - t{i}")), 30_000);
        assert_eq!(many(ReportFormat::GoTestJson, &|i| event(i, "fail")), 30_000);
        assert_eq!(many(ReportFormat::GoTestJson, &|i| event(i, "run")), go::OPEN_MAX as u32);
        assert_eq!(many(ReportFormat::Nextest, &|i| format!("FAIL [   0.004s] shop t{i}")), TESTS_MAX as u32);
        assert_eq!(many(ReportFormat::Libtest, &|i| format!("test t{i} ... FAILED")), 30_000);
    }
}
