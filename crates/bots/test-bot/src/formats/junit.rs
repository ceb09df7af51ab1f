//! Reads `JUnit` XML, the report that most test tools can write. Written by what is tested, so it may be anything:
//! size, depth and attributes are bounded, a document type is refused, no entity beyond XML's own five is resolved.
use quick_xml::{
    Reader, XmlVersion,
    escape::resolve_predefined_entity,
    events::{BytesStart, Event},
};

use crate::report::{FAILURES_MAX, Failure, Report, Test, Verdict, cut, milliseconds};

/// Elements in elements; real reports have five.
const DEPTH_MAX: usize = 64;
/// Further attributes of an element are not looked at.
const ATTRIBUTES_MAX: usize = 64;
/// Kept of what a failure says; the message is cut further.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// A report cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Not XML, or cut off.
    #[error("byte {at}: {what}")]
    Xml { at: u64, what: String },
    /// XML, but not this.
    #[error("expected `testsuites` or `testsuite` as its first element, got `{0}`")]
    NoReport(String),
    /// Nothing in it.
    #[error("it is empty: expected `testsuites` or `testsuite`")]
    Empty,
    /// A document type can pull in files and blow up.
    #[error("it declares a document type, which is not read: leave out `<!DOCTYPE …>`")]
    DocumentType,
    /// Too deep.
    #[error("its elements are nested deeper than {DEPTH_MAX}")]
    TooDeep,
}

/// Counts and failures of a report.
pub(crate) fn parse(text: &str) -> Result<Report, Broken> {
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let mut reading = Reading::default();
    loop {
        let event =
            reader.read_event().map_err(|e| Broken::Xml { at: reader.error_position(), what: e.to_string() })?;
        match event {
            Event::Start(element) => reading.begin(&element)?,
            Event::End(element) => reading.end(element.local_name().into_inner()),
            Event::Text(text) => reading.text(&text.xml10_content()),
            Event::CData(text) => reading.text(&text),
            Event::GeneralRef(name) => match name.resolve_char_ref() {
                Ok(Some(c)) => reading.text(c.encode_utf8(&mut [0; 4])),
                _ => reading.text(resolve_predefined_entity(&name).unwrap_or("\u{fffd}")),
            },
            Event::DocType(_) => return Err(Broken::DocumentType),
            Event::Eof if reading.depth > 0 => {
                return Err(Broken::Xml {
                    at: reader.buffer_position(),
                    what: "the file ends inside an element".into(),
                });
            }
            Event::Eof if !reading.has_root => return Err(Broken::Empty),
            Event::Eof => return Ok(reading.report),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Reading {
    report: Report,
    depth: usize,
    has_root: bool,
    case: Option<Case>,
    /// Depth at which the failure began whose text is being read.
    failure_at: Option<usize>,
}

/// The `testcase` that is being read.
#[derive(Default)]
struct Case {
    name: String,
    location: Option<String>,
    duration_ms: Option<u64>,
    failed: bool,
    /// It failed at first, and the tool ran it again until it passed.
    flaked: bool,
    skipped: bool,
    message: String,
    text: String,
}

impl Reading {
    fn begin(&mut self, element: &BytesStart<'_>) -> Result<(), Broken> {
        let name = element.local_name();
        let name = name.into_inner();
        if self.depth == 0 && !matches!(name, "testsuites" | "testsuite") {
            return Err(Broken::NoReport(cut(name, 80).to_owned()));
        }
        self.has_root = true;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Broken::TooDeep);
        }
        match (name, &mut self.case) {
            ("testcase", None) => self.case = Some(Case::new(element)),
            // `error` is an exception, `failure` a failed assertion; for who reads the result they are one.
            ("failure" | "error" | "flakyFailure" | "flakyError", Some(case)) if self.failure_at.is_none() => {
                case.fail(element, !name.starts_with("flaky"));
                self.failure_at = Some(self.depth);
            }
            ("skipped" | "disabled", Some(case)) => case.skipped = true,
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, name: &str) {
        if self.failure_at == Some(self.depth) {
            self.failure_at = None;
        }
        self.depth = self.depth.saturating_sub(1);
        if name == "testcase"
            && let Some(case) = self.case.take()
        {
            self.settle(&case);
        }
    }

    fn text(&mut self, text: &str) {
        if let (Some(_), Some(case)) = (self.failure_at, &mut self.case) {
            let room = TEXT_BYTES_MAX.saturating_sub(case.text.len());
            case.text.push_str(cut(text, room));
        }
    }

    fn settle(&mut self, case: &Case) {
        let verdict = match (case.failed, case.skipped) {
            (true, _) => Verdict::Failed,
            (false, true) => Verdict::Skipped,
            (false, false) => Verdict::Passed,
        };
        self.report.count(Test::new(&case.name, verdict, case.duration_ms));
        let room = if case.failed { &self.report.failures } else { &self.report.flaky };
        if (case.failed || case.flaked) && room.len() < FAILURES_MAX {
            let failure = Failure::new(&case.name, &case.said(), case.location.clone());
            if case.failed { self.report.fail(failure) } else { self.report.flake(failure) }
        }
    }
}

impl Case {
    fn new(element: &BytesStart<'_>) -> Self {
        let [name, class, file, line, status, time] =
            attributes(element, ["name", "classname", "file", "line", "status", "time"]);
        // `Class.method` as Java and Python say it, `module::test` as Rust does.
        let separator = if class.contains("::") { "::" } else { "." };
        let full = match (class.is_empty(), name.starts_with(&class)) {
            (false, false) => format!("{class}{separator}{name}"),
            _ => name,
        };
        let location = (!file.is_empty() && line.parse::<u32>().is_ok()).then(|| format!("{file}:{line}"));
        let skipped = matches!(status.as_str(), "notrun" | "disabled" | "skipped");
        // Java writes `1,234.5` for more than a thousand seconds.
        let duration_ms = time.replace(',', "").parse().ok().and_then(milliseconds);
        Self { name: full, location, duration_ms, skipped, ..Self::default() }
    }

    /// A case may hold several failures; the first says the most.
    fn fail(&mut self, element: &BytesStart<'_>, at_last: bool) {
        let [message, kind, file, line] = attributes(element, ["message", "type", "file", "line"]);
        if !self.failed && !self.flaked {
            self.message = if message.is_empty() { kind } else { message };
        } else if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.failed |= at_last;
        self.flaked |= !at_last;
        if self.location.is_none() && !file.is_empty() && line.parse::<u32>().is_ok() {
            self.location = Some(format!("{file}:{line}"));
        }
    }

    /// Most tools repeat the message in the text.
    fn said(&self) -> String {
        let (message, text) = (self.message.trim(), self.text.trim());
        let first = message.lines().next().unwrap_or_default();
        if text.contains(first) { text.to_owned() } else { format!("{message}\n{text}") }
    }
}

/// The values of these attributes, empty where they are missing or cannot be read. Without the check for doubles, which
/// takes time by the square of their number.
fn attributes<const N: usize>(element: &BytesStart<'_>, names: [&str; N]) -> [String; N] {
    let mut values = names.map(|_| String::new());
    for attribute in element.attributes().with_checks(false).take(ATTRIBUTES_MAX).flatten() {
        let place = names.iter().position(|name| *name == attribute.key.local_name().into_inner());
        if let Some(value) = place.and_then(|i| values.get_mut(i)) {
            let read = attribute.normalized_value(XmlVersion::Implicit1_0);
            cut(&read.unwrap_or_default(), TEXT_BYTES_MAX).clone_into(value);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(text: &str) -> (u32, u32, u32) {
        let r = parse(text).unwrap();
        (r.passed, r.failed, r.skipped)
    }

    #[test]
    fn pytest() {
        let text = r#"<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="0" failures="1" skipped="1" tests="3" time="0.031"><testcase classname="tests.test_sum" name="test_adds" time="0.000" /><testcase classname="tests.test_sum" name="test_broken" time="0.001"><failure message="AssertionError: assert 4 == 5&#10;  +  where 4 = sum([2, 2])">def test_broken():
&gt;       assert sum([2, 2]) == 5
E       AssertionError: assert 4 == 5

tests/test_sum.py:9: AssertionError</failure></testcase><testcase classname="tests.test_sum" name="test_later"><skipped type="pytest.skip" message="not yet">x</skipped></testcase></testsuite></testsuites>"#;
        let report = parse(text).unwrap();
        assert_eq!((report.passed, report.failed, report.skipped), (1, 1, 1));
        let failure = &report.failures[0];
        assert_eq!(failure.name, "tests.test_sum.test_broken");
        assert_eq!(report.slowest[0], ("tests.test_sum.test_broken".to_owned(), 1));
        assert_eq!(failure.location.as_deref(), Some("tests/test_sum.py:9"));
        assert!(failure.message.contains(">       assert sum([2, 2]) == 5"), "{}", failure.message);
    }

    #[test]
    fn nextest() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="2" failures="1" errors="0" uuid="x" time="0.01">
  <testsuite name="shop" tests="2" disabled="0" errors="0" failures="1">
    <testcase name="tests::ok" classname="shop" time="0.004"></testcase>
    <testcase name="tests::adds" classname="shop::bin/shop" time="0.004">
      <failure message="thread &apos;tests::adds&apos; (9) panicked at src/main.rs:7:5" type="test failure with exit code 101">thread &apos;tests::adds&apos; (9) panicked at src/main.rs:7:5:
boom</failure>
      <system-out>running 1 test</system-out>
    </testcase>
  </testsuite>
</testsuites>"#;
        let report = parse(text).unwrap();
        assert_eq!((report.passed, report.failed), (1, 1));
        assert_eq!(report.failures[0].name, "shop::bin/shop::tests::adds");
        assert_eq!(report.failures[0].location.as_deref(), Some("src/main.rs:7"));
        assert!(report.failures[0].message.ends_with("boom") && !report.failures[0].message.contains("running 1 test"));
    }

    #[test]
    fn nested_suites_errors_and_what_was_not_run() {
        let text = r#"<testsuite><properties><property name="a" value="b"/></properties><testsuite><testsuite>
            <testcase name="a" classname="com.shop.A" file="A.java" line="12"><error type="java.lang.NPE"><![CDATA[at <A>]]></error><failure message="second"/></testcase>
            <testcase name="b" status="notrun"/><testcase name="c"><flakyFailure message="once"/><rerunFailure/></testcase>
            </testsuite></testsuite><testcase name="com.shop.A.d" classname="com.shop.A"/></testsuite>"#;
        let report = parse(text).unwrap();
        assert_eq!((report.passed, report.failed, report.skipped), (2, 1, 1), "what passed at last passed");
        let flaky: Vec<_> = report.flaky.iter().map(|f| (f.name.as_str(), f.message.as_str())).collect();
        assert_eq!(flaky, [("c", "once")]);
        let failure = Failure {
            name: "com.shop.A.a".into(),
            message: "java.lang.NPE\nat <A>".into(),
            location: Some("A.java:12".into()),
        };
        assert_eq!(report.failures, [failure]);
    }

    #[test]
    fn a_report_without_tests_is_no_mistake() {
        assert_eq!(counts("<testsuites/>"), (0, 0, 0));
        assert_eq!(counts("\u{feff}<testsuite tests='9'></testsuite>"), (0, 0, 0));
    }

    #[test]
    fn what_is_broken_is_told() {
        let told = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(told(""), "it is empty: expected `testsuites` or `testsuite`");
        assert!(told("<html/>").contains("got `html`"));
        assert!(told("<testsuite><testcase name='a'>").contains("ends inside an element"));
        assert!(told("<testsuite></testcase>").starts_with("byte "));
        assert!(told("<testsuite").starts_with("byte "));
        assert_eq!(parse(&"<testsuite>".repeat(70)), Err(Broken::TooDeep));
    }

    #[test]
    fn no_entity_is_resolved_that_a_report_could_define() {
        let bomb = "<!DOCTYPE t [<!ENTITY a \"xxxxxxxx\"><!ENTITY b SYSTEM \"file:///etc/passwd\">]><testsuite/>";
        assert_eq!(parse(bomb), Err(Broken::DocumentType));
        let text =
            "<testsuite><testcase name='&b;x'><failure message='m'>a&b;c&amp;d&#x41;</failure></testcase></testsuite>";
        assert_eq!(parse(text).unwrap().failures[0].message, "m\na\u{fffd}c&dA");
    }

    #[test]
    fn the_time_of_a_case_is_read_as_tools_write_it() {
        let text = "<testsuite><testcase name='a' time='1,234.5'/><testcase name='b' time='soon'/></testsuite>";
        let tests = parse(text).unwrap().tests;
        assert_eq!((tests[0].duration_ms, tests[1].duration_ms), (Some(1_234_500), None));
    }

    #[test]
    fn huge_input_is_read_in_a_moment_and_kept_small() {
        let case = format!("<testcase name='a'><failure>{}</failure></testcase>", "x".repeat(10_000));
        let report = parse(&format!("<testsuite>{}</testsuite>", case.repeat(1_000))).unwrap();
        assert_eq!(
            (report.failed, report.failures.len(), report.failures[0].message.len()),
            (1_000, FAILURES_MAX, 2048)
        );
        let attributes: String = (0..200_000).fold(String::new(), |all, i| all + " a" + &i.to_string() + "=''");
        assert_eq!(counts(&format!("<testsuite><testcase{attributes}/></testsuite>")), (1, 0, 0));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_arrangement_of_elements_panics(parts in proptest::collection::vec(prop_oneof![
            Just("<testsuite>"), Just("</testsuite>"), Just("<testcase name='a'>"), Just("</testcase>"), Just("<failure>"),
            Just("</failure>"), Just("<skipped/>"), Just("text"), Just("<![CDATA["), Just("]]>"), Just("&amp;"), Just("&x;"), Just("<!--"), Just("-->"),
        ], 0..40)) {
            let _ = parse(&format!("<testsuites>{}", parts.concat()));
        }
    }
}
