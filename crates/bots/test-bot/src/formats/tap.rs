//! Reads TAP, the Test Anything Protocol, versions 13 and 14 (<https://testanything.org>): plans, test points with their
//! directives, subtests, diagnostics in YAML or as comments. A test with subtests counts by them, and by itself only
//! where it failed and none of them did. A test that is expected to fail (`# TODO`) and does is skipped.
use serde::Deserialize;

use super::Lines;
use crate::report::{FAILURES_MAX, Failure, Report, TESTS_MAX, Test, Verdict, cut, milliseconds};

/// Deeper subtests count as ones of this depth.
const DEPTH_MAX: usize = 16;
/// Kept of one test's diagnostics; the message is cut further.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// A reader. One for the whole output of a suite, which may hold several streams.
#[derive(Default)]
pub(super) struct Reader {
    report: Report,
    /// Points by depth that wait for the end of the test above them.
    levels: Vec<Vec<Point>>,
    /// All of `levels`.
    waiting: usize,
    /// Depth of the last point: diagnostics are its.
    last: Option<usize>,
    /// The YAML block that is being read.
    yaml: Option<String>,
    /// How many points have a message that is kept.
    told: usize,
    /// Of the stream that is being read.
    planned: Option<u64>,
    points: u64,
}

/// `not ok 2 - adds # TODO later`
struct Point {
    number: Option<u64>,
    name: String,
    verdict: Verdict,
    duration_ms: Option<u64>,
    said: String,
    location: Option<String>,
}

/// What producers write into YAML blocks; other keys are not asked for.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Diagnostics {
    message: Option<String>,
    error: Option<String>,
    stack: Option<String>,
    location: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    at: Option<At>,
    duration_ms: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct At {
    file: Option<String>,
    line: Option<u32>,
}

/// Whether only TAP has such a line. A bare `ok` may be anything.
pub(super) fn is_told_by(line: &str) -> bool {
    line.starts_with("TAP version ") || plan(line).is_some() || point(line).is_some_and(|point| point.number.is_some())
}

impl Lines for Reader {
    fn line(&mut self, line: &str) {
        let text = line.trim();
        let depth = ((line.len() - line.trim_start().len()) / 4).min(DEPTH_MAX);
        if let Some(mut yaml) = self.yaml.take() {
            if text == "..." {
                self.diagnose(&yaml);
            } else {
                let room = TEXT_BYTES_MAX.saturating_sub(yaml.len() + 1);
                yaml.push_str(cut(line, room));
                yaml.push('\n');
                self.yaml = Some(yaml);
            }
        } else if text == "---" && self.last.is_some() {
            self.yaml = Some(String::new());
        } else if let Some(point) = point(text) {
            self.begin(depth, point);
        } else if depth == 0 && text.starts_with("TAP version ") {
            self.end_stream();
        } else if let Some(plan) = plan(text) {
            self.plan(depth, plan);
        } else if let Some(why) = text.strip_prefix("Bail out!") {
            self.fail("Bail out!", why.trim());
        } else if let Some(comment) = text.strip_prefix('#') {
            self.hear(comment.strip_prefix(' ').unwrap_or(comment));
        }
    }

    fn finish(mut self: Box<Self>) -> Report {
        self.end_stream();
        self.report
    }
}

impl Reader {
    fn begin(&mut self, depth: usize, mut point: Point) {
        if depth == 0 {
            // A new stream that does not say so.
            if point.number == Some(1) && self.planned.is_some_and(|planned| self.points >= planned) {
                self.end_stream();
            }
            self.settle(0);
            self.points += 1;
        }
        let below = self.take_below(depth);
        let below_failed = below.iter().any(|sub| sub.verdict == Verdict::Failed);
        let is_counted = below.is_empty() || (point.verdict == Verdict::Failed && !below_failed);
        for mut sub in below {
            // What is expected to fail may fail in any of its parts.
            if point.verdict == Verdict::Skipped && sub.verdict == Verdict::Failed {
                sub.verdict = Verdict::Skipped;
            }
            cut(&format!("{} > {}", point.name, sub.name.clone()), 500).clone_into(&mut sub.name);
            self.wait(depth, sub);
        }
        self.last = None;
        if is_counted {
            if point.name.is_empty() {
                point.name = format!("test {}", point.number.unwrap_or(self.points));
            }
            self.wait(depth, point);
            self.last = Some(depth);
        }
    }

    /// Points of a depth wait, because a test above them gives them the rest of their names.
    fn wait(&mut self, depth: usize, point: Point) {
        if self.waiting >= TESTS_MAX {
            return self.count(point);
        }
        while self.levels.len() <= depth {
            self.levels.push(Vec::new());
        }
        if let Some(level) = self.levels.get_mut(depth) {
            level.push(point);
            self.waiting += 1;
        }
    }

    /// The points of the level below; those deeper still come from a test that was cut off.
    fn take_below(&mut self, depth: usize) -> Vec<Point> {
        self.settle(depth + 2);
        let below = self.levels.get_mut(depth + 1).map(std::mem::take).unwrap_or_default();
        self.waiting -= below.len();
        below
    }

    /// Counts what waits at this depth or deeper.
    fn settle(&mut self, depth: usize) {
        // At depth 0 what is deeper waits for the point that comes.
        let levels = if depth == 0 { 0..1 } else { depth..self.levels.len().max(depth) };
        for level in levels {
            let points = self.levels.get_mut(level).map(std::mem::take).unwrap_or_default();
            self.waiting -= points.len();
            for point in points {
                self.count(point);
            }
        }
    }

    fn count(&mut self, point: Point) {
        self.report.count(Test::new(&point.name, point.verdict, point.duration_ms));
        if point.verdict == Verdict::Failed {
            self.report.fail(Failure::new(&point.name, &point.said, point.location));
        }
    }

    fn fail(&mut self, name: &str, said: &str) {
        self.report.count(Test::new(name, Verdict::Failed, None));
        self.report.fail(Failure::new(name, said, None));
    }

    fn plan(&mut self, depth: usize, (planned, why): (u64, Option<&str>)) {
        self.last = None;
        if depth > 0 {
            return;
        }
        if self.planned.is_some() {
            self.end_stream();
        }
        self.planned = Some(planned);
        if let (0, Some(why)) = (planned, why) {
            self.report.count(Test::new(&format!("all tests: {why}"), Verdict::Skipped, None));
        }
    }

    /// A stream that was cut off has not passed.
    fn end_stream(&mut self) {
        self.settle(0);
        self.settle(1);
        if let Some(planned) = self.planned.take().filter(|planned| self.points < *planned) {
            self.fail("plan", &format!("{planned} tests were planned, {} came", self.points));
        }
        (self.points, self.last, self.yaml) = (0, None, None);
    }

    fn last_point(&mut self) -> Option<&mut Point> {
        self.levels.get_mut(self.last?)?.last_mut()
    }

    fn diagnose(&mut self, yaml: &str) {
        let may_tell = self.told < 2 * FAILURES_MAX;
        let Some(point) = self.last_point() else { return };
        let read: Diagnostics = serde_saphyr::from_str(yaml).unwrap_or_default();
        point.duration_ms = read.duration_ms.and_then(|ms| milliseconds(ms / 1000.0));
        if point.verdict != Verdict::Failed || !may_tell {
            return;
        }
        point.location = read.location();
        let said = read.message.or(read.error);
        point.said = match (said, read.stack) {
            (Some(said), Some(stack)) => format!("{said}\n{stack}"),
            (Some(said), None) | (None, Some(said)) => said,
            (None, None) => yaml.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"),
        };
        self.told += 1;
    }

    /// Diagnostics of older producers: `Failed test 'adds'`, `at b.t line 3.`
    fn hear(&mut self, comment: &str) {
        let may_tell = self.told < 2 * FAILURES_MAX;
        let Some(point) = self.last_point().filter(|point| point.verdict == Verdict::Failed && may_tell) else {
            return;
        };
        if point.location.is_none() {
            point.location = comment.trim().strip_prefix("at ").and_then(perl_place);
        }
        let is_first = point.said.is_empty();
        let room = TEXT_BYTES_MAX.saturating_sub(point.said.len() + 1);
        point.said.push_str(cut(comment, room));
        point.said.push('\n');
        self.told += usize::from(is_first);
    }
}

impl Diagnostics {
    /// Where it happened goes before where the test stands.
    fn location(&self) -> Option<String> {
        let frame = self.stack.as_deref().unwrap_or_default().lines().find_map(|line| {
            let place = line.rsplit_once('(')?.1.split_once(')')?.0;
            if place.starts_with("node:") { None } else { file_and_line(place.trim_start_matches("file://")) }
        });
        let at = |file: &Option<String>, line: Option<u32>| Some(format!("{}:{}", file.as_ref()?, line?));
        let given = self.at.as_ref().and_then(|place| at(&place.file, place.line));
        frame
            .or(given)
            .or_else(|| at(&self.file, self.line))
            .or_else(|| self.location.as_deref().and_then(file_and_line))
    }
}

/// `src/a.test.js:4:31`
fn file_and_line(place: &str) -> Option<String> {
    let (file, rest) = place.split_once(':')?;
    let line: u32 = rest.split(':').next()?.parse().ok()?;
    (!file.is_empty()).then(|| format!("{file}:{line}"))
}

/// `b.t line 3.`
fn perl_place(place: &str) -> Option<String> {
    let (file, line) = place.rsplit_once(" line ")?;
    let line: u32 = line.trim_end_matches('.').parse().ok()?;
    Some(format!("{file}:{line}"))
}

/// `1..4`, or `1..0 # SKIP not on this machine`: how many, and why none.
fn plan(line: &str) -> Option<(u64, Option<&str>)> {
    let rest = line.trim_end().strip_prefix("1..")?;
    let (number, comment) = rest.split_once('#').map_or((rest, None), |(number, why)| (number, Some(why.trim())));
    let why = comment.map(|c| c.get(..4).filter(|w| w.eq_ignore_ascii_case("skip")).map_or(c, |_| c[4..].trim()));
    Some((number.trim().parse().ok()?, why))
}

fn point(line: &str) -> Option<Point> {
    let (is_ok, rest) = match line.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok")?),
    };
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let rest = rest.trim();
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = rest.split_at(digits);
    let (description, directive) = directive(rest);
    let description = description.trim();
    let description = description.strip_prefix("- ").or(description.strip_prefix('-')).unwrap_or(description);
    let verdict = match (directive, is_ok) {
        (Some("skip"), _) | (Some(_), false) => Verdict::Skipped,
        (_, true) => Verdict::Passed,
        (None, false) => Verdict::Failed,
    };
    // A subtest's end may open the next block: `ok 1 - name {`.
    let name = cut(description.trim().trim_end_matches('{').trim_end(), 500).replace("\\#", "#");
    Some(Point { number: number.parse().ok(), name, verdict, duration_ms: None, said: String::new(), location: None })
}

/// Splits off `# SKIP why` or `# TODO why`; any other `#` belongs to the description.
fn directive(text: &str) -> (&str, Option<&'static str>) {
    for (at, _) in text.match_indices('#') {
        let (before, after) = text.split_at(at);
        let word = after.trim_start_matches('#').trim_start();
        let is = |name: &str| word.get(..name.len()).is_some_and(|word| word.eq_ignore_ascii_case(name));
        let found = ["skip", "todo"].into_iter().find(|name| is(name));
        if found.is_some() && !before.ends_with('\\') {
            return (before, found);
        }
    }
    (text, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Report {
        let mut reader = Box::<Reader>::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish()
    }

    fn counts(text: &str) -> (u32, u32, u32) {
        let r = read(text);
        (r.passed, r.failed, r.skipped)
    }

    #[test]
    fn a_whole_run_of_node() {
        let report = read(include_str!("../../tests/fixtures/node.tap"));
        assert_eq!((report.passed, report.failed, report.skipped), (2, 2, 2));
        let told: Vec<_> = report.failures.iter().map(|f| (f.name.as_str(), f.location.as_deref())).collect();
        assert_eq!(
            told,
            [("broken", Some("/workspace/a.test.js:4")), ("group > inner two", Some("/workspace/a.test.js:9"))]
        );
        let message = &report.failures[0].message;
        assert!(message.starts_with("sums\n\n4 !== 5\n") && message.contains("TestContext.<anonymous>"), "{message}");
        let names: Vec<&str> = report.tests.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["adds", "broken", "later", "someday", "group > inner one", "group > inner two"]);
        assert!(report.tests.iter().all(|t| t.duration_ms.is_some()));
    }

    #[test]
    fn a_whole_run_of_perl() {
        let report = read(include_str!("../../tests/fixtures/perl.tap"));
        assert_eq!((report.passed, report.failed, report.skipped), (1, 1, 2));
        let failure = &report.failures[0];
        assert_eq!((failure.name.as_str(), failure.location.as_deref()), ("broken", Some("b.t:3")));
        assert!(failure.message.contains("got: '4'") && !failure.message.contains("todo"), "{}", failure.message);
    }

    #[test]
    fn a_stream_that_was_cut_off_has_not_passed() {
        let report = read("1..3\nok 1 - a\nok 2 - b\n");
        assert_eq!((report.passed, report.failed), (2, 1));
        assert_eq!(report.failures[0].message, "3 tests were planned, 2 came");
        assert_eq!(counts("ok 1 - a\nBail out! no database\n"), (1, 1, 0));
        assert_eq!(counts("1..3\nok 1\n1..1\nok 1\n"), (2, 1, 0), "each stream has its own plan");
        assert_eq!(counts("ok 1\nok 2\n1..2\nok 1\nok 2\n1..2\n"), (4, 0, 0));
        assert_eq!(counts("TAP version 14\n1..2\nok\nok\nTAP version 14\n1..1\nnot ok\n"), (2, 1, 0));
    }

    #[test]
    fn directives_are_found_in_any_case_and_not_in_a_name() {
        assert_eq!(counts("ok 1 - a # skip why\nok 2 # SKIP\nnot ok 3 - c # todo\nok 4 - d # TODO\n"), (1, 0, 3));
        assert_eq!(counts("not ok 1 - issue #12\nnot ok 2 - \\# SKIP is a word\n"), (0, 2, 0));
        assert_eq!(counts("1..0 # SKIP not on this machine\n"), (0, 0, 1));
    }

    #[test]
    fn a_test_counts_by_its_subtests_and_by_itself_where_only_it_failed() {
        let tap = "    ok 1 - a\n        not ok 1 - deep\n    not ok 2 - b\n    1..2\nnot ok 1 - top\n1..1\n";
        let report = read(tap);
        assert_eq!((report.passed, report.failed), (1, 1));
        assert_eq!(report.failures[0].name, "top > b > deep");
        assert_eq!(counts("    ok 1 - a\nnot ok 1 - top\n"), (1, 1, 0));
        assert_eq!(counts("    not ok 1 - a\nnot ok 1 - top # TODO\n"), (0, 0, 1));
        assert_eq!(counts("ok 1 - x\n    not ok 1 - cut off\n"), (1, 1, 0));
    }

    #[test]
    fn broken_yaml_is_told_as_it_is() {
        let report = read("not ok 1 - a\n  ---\n  : [ : }\n  ...\nok 2 - b\n  ---\n  never ends\n");
        assert_eq!((report.passed, report.failed), (1, 1));
        assert_eq!(report.failures[0].message, ": [ : }");
        let at = read("not ok 1\n  ---\n  message: 'no'\n  at:\n    file: t/a.js\n    line: 7\n  ...\n");
        assert_eq!((at.failures[0].location.as_deref(), at.failures[0].name.as_str()), (Some("t/a.js:7"), "test 1"));
    }
}
