//! What the runs of a suite come to: a function of how its commands ended and what was read. Nothing here runs anything.
use std::time::Duration;

use bot_messages::{
    Code, FailureReason,
    pipeline::Flaky,
    test::{SlowTest, SuiteResult, TestFailure},
};
use bot_pipeline::{End, Ran as Command};
use bot_sandbox::{Ending, Outcome};

use crate::{
    coverage::Lines,
    report::{Failure, Report, Test},
};

/// So many failing tests are named in a sentence.
const NAMED_MAX: usize = 3;
/// With more failing tests a suite is not run again: that is no flaw of a few tests.
const RETRIED_MAX: u32 = 20;

/// Why a suite did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) reason: FailureReason,
    pub(crate) code: Code,
    /// One sentence.
    pub(crate) message: String,
}

/// What a suite came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ran {
    pub(crate) result: SuiteResult,
    pub(crate) failures: Vec<TestFailure>,
    /// Failed and then passed.
    pub(crate) flaky: Vec<TestFailure>,
    pub(crate) slowest: Vec<SlowTest>,
    /// Every test, as far as names are kept.
    pub(crate) tests: Vec<Test>,
    /// Where it names coverage files; an error says why there is none.
    pub(crate) coverage: Option<Result<Lines, String>>,
    /// `None`: it passed.
    pub(crate) problem: Option<Problem>,
    /// Its last lines.
    pub(crate) tail: Vec<String>,
}
/// One run of a suite.
pub(crate) struct Run {
    pub(crate) command: Command,
    pub(crate) report: Result<Report, String>,
    pub(crate) coverage: Option<Result<Lines, String>>,
}

impl Run {
    pub(crate) fn not_begun(why: String) -> Self {
        let outcome = Outcome {
            ending: Ending::Exited(0),
            wall: Duration::ZERO,
            memory_peak_bytes: 0,
            processes_peak: 0,
            output_bytes: 0,
            tail: Vec::new(),
            survivors: Vec::new(),
        };
        Self { command: Command { end: End::Succeeded, outcome }, report: Err(why), coverage: None }
    }

    /// How many tests failed, where it was only tests and few of them, each with its name.
    pub(crate) fn may_be_flaky(&self, name: &str) -> Option<u32> {
        let report = self.report.as_ref().ok()?;
        let only_tests = problem(name, &self.command, report).is_some_and(|p| p.code == Code::TestsFailed);
        let failed = report.failed;
        (only_tests && failed <= RETRIED_MAX && report.failures.len() == failed as usize).then_some(failed)
    }

    /// The second run says how the suite went; what passed in it and failed before is flaky. A second run that says
    /// nothing of tests (it took too long, it crashed) changes nothing.
    pub(crate) fn and(self, mut again: Self, name: &str) -> Self {
        let wall = self.command.outcome.wall + again.command.outcome.wall;
        let ended = again.report.as_ref().ok().map(|report| problem(name, &again.command, report));
        let says = matches!(&ended, Some(None)) || matches!(&ended, Some(Some(p)) if p.code == Code::TestsFailed);
        let (Ok(before), Ok(report), true) = (&self.report, &mut again.report, says) else {
            let mut first = self;
            first.command.outcome.wall = wall;
            return first;
        };
        for failure in &before.failures {
            if report.failures.iter().any(|again| again.name == failure.name) {
                continue;
            }
            if report.has_passed(&failure.name) {
                report.flake(failure.clone());
            } else {
                // It was not run again, so nothing takes its failure back.
                report.failed = report.failed.saturating_add(1);
                report.fail(failure.clone());
            }
        }
        for flaky in &before.flaky {
            let is_told = report.flaky.iter().chain(&report.failures).any(|other| other.name == flaky.name);
            if !is_told {
                report.flake(flaky.clone());
            }
        }
        again.command.outcome.wall = wall;
        again
    }
}

impl Ran {
    /// How it ended and what was read make the verdict. A suite that says nothing of its tests has not passed.
    pub(crate) fn judge(name: &str, flaky: Flaky, run: Run) -> Self {
        let Run { command: ran, report, coverage } = run;
        let tail = ran.outcome.tail.clone();
        let report = match report {
            Ok(report) => report,
            // The command's own failure explains a broken report, never the other way round.
            Err(_) if ran.end != End::Succeeded => Report::default(),
            Err(why) => {
                let mut own = Self::unreadable(name, &why);
                (own.result.duration_ms, own.tail) = (ran.duration_ms(), tail);
                return own;
            }
        };
        let problem = problem(name, &ran, &report).or_else(|| too_flaky(name, flaky, &report));
        let named = |all: Vec<Failure>| {
            all.into_iter().map(|Failure { name: test, message, location }| TestFailure {
                suite: name.to_owned(),
                name: test,
                message,
                location,
            })
        };
        let slow = |(test, duration_ms)| SlowTest { suite: name.to_owned(), name: test, duration_ms };
        let result = SuiteResult {
            name: name.to_owned(),
            passed: report.passed,
            failed: report.failed,
            skipped: report.skipped,
            flaky: report.flaky.len() as u32,
            duration_ms: ran.duration_ms(),
        };
        Self {
            result,
            failures: named(report.failures).collect(),
            flaky: named(report.flaky).collect(),
            slowest: report.slowest.into_iter().map(slow).collect(),
            tests: report.tests,
            coverage,
            problem,
            tail,
        }
    }

    /// Nothing is known of its tests.
    fn empty(name: &str) -> Self {
        let result = SuiteResult { name: name.to_owned(), passed: 0, failed: 0, skipped: 0, flaky: 0, duration_ms: 0 };
        Self {
            result,
            failures: Vec::new(),
            flaky: Vec::new(),
            slowest: Vec::new(),
            tests: Vec::new(),
            coverage: None,
            problem: None,
            tail: Vec::new(),
        }
    }

    fn unreadable(name: &str, why: &str) -> Self {
        let message = format!("suite `{name}`: {why}");
        let problem = Problem { reason: FailureReason::Error, code: Code::InvalidField, message };
        Self { problem: Some(problem), ..Self::empty(name) }
    }
}

fn problem(name: &str, ran: &Command, report: &Report) -> Option<Problem> {
    let failed = |code, message| Some(Problem { reason: FailureReason::Failed, code, message });
    let (code, message) = match (&ran.end, ran.outcome.ending) {
        (End::Failed { code: Code::TimedOut, message }, _) => {
            return Some(Problem { reason: FailureReason::TimedOut, code: Code::TimedOut, message: message.clone() });
        }
        (End::Failed { code, message }, _) if *code != Code::CommandFailed => (*code, message.clone()),
        _ if report.failed > 0 => return failed(Code::TestsFailed, of_failing(name, report)),
        (End::Failed { code, .. }, Ending::Exited(status)) => {
            (*code, format!("suite `{name}` ended with exit code {status} and reported no failing test; see the log"))
        }
        (End::Failed { code, message }, _) => (*code, message.clone()),
        (End::Succeeded, _) if report.total() == 0 => {
            let message = format!(
                "suite `{name}` ended well and no test was found: name the files it writes under `reports` (JUnit XML, TAP, go test -json), or let it print as libtest, cargo-nextest, go test -json or TAP do"
            );
            (Code::NoTests, message)
        }
        (End::Succeeded, _) => return None,
        (End::Stopped, _) => {
            let message = format!("suite `{name}` was told to stop");
            return Some(Problem { reason: FailureReason::Cancelled, code: Code::Cancelled, message });
        }
    };
    failed(code, message)
}

fn of_failing(name: &str, report: &Report) -> String {
    let names = first_names(name, &report.failures, report.failed as usize);
    format!("{} of {} tests failed: {names}", report.failed, report.total())
}

/// Where the suite says that flaky is as bad as failed.
fn too_flaky(name: &str, flaky: Flaky, report: &Report) -> Option<Problem> {
    let count = report.flaky.len();
    let message = || {
        let names = first_names(name, &report.flaky, count);
        format!("{count} of {} tests failed and then passed, and the suite says `flaky: fail`: {names}", report.total())
    };
    (flaky == Flaky::Fail && count > 0).then(|| Problem {
        reason: FailureReason::Failed,
        code: Code::TestsFailed,
        message: message(),
    })
}

fn first_names(suite: &str, failures: &[Failure], count: usize) -> String {
    let mut names: Vec<String> = failures.iter().take(NAMED_MAX).map(|f| format!("{suite}::{}", f.name)).collect();
    if count > names.len() {
        names.push("…".to_owned());
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;

    fn run(ending: Ending, report: Result<Report, String>) -> Run {
        let mut run = Run::not_begun(String::new());
        run.command.end = match ending {
            Ending::Exited(0) => End::Succeeded,
            Ending::TimedOut => End::Failed { code: Code::TimedOut, message: "late".into() },
            Ending::MemoryExceeded => End::Failed { code: Code::LimitExceeded, message: "large".into() },
            _ => End::Failed { code: Code::CommandFailed, message: "bad".into() },
        };
        let outcome = &mut run.command.outcome;
        (outcome.ending, outcome.wall, outcome.tail) = (ending, Duration::from_millis(1500), vec!["last".into()]);
        run.report = report;
        run
    }

    fn judge(ending: Ending, report: Result<Report, String>) -> Option<(FailureReason, Code, String)> {
        let ran = Ran::judge("unit", Flaky::Pass, run(ending, report));
        assert_eq!((ran.result.duration_ms, ran.tail), (1500, vec!["last".to_owned()]));
        ran.problem.map(|p| (p.reason, p.code, p.message))
    }

    fn report(passed: u32, failed: u32, skipped: u32) -> Report {
        let failures = (0..failed).map(|i| Failure::new(&format!("t{i}"), "no", None)).collect();
        Report { passed, failed, skipped, failures, ..Report::default() }
    }

    /// Tests by name, those that begin with `!` failing.
    fn tests(names: &[&str]) -> Run {
        let mut report = Report::default();
        for name in names {
            match name.strip_prefix('!') {
                Some(name) => {
                    report.count(Test::new(name, Verdict::Failed, None));
                    report.fail(Failure::new(name, "no", None));
                }
                None => report.count(Test::new(name, Verdict::Passed, None)),
            }
        }
        run(Ending::Exited(i32::from(report.failed > 0)), Ok(report))
    }

    /// What two runs come to: failed, flaky.
    fn both(first: Run, again: Run) -> (Vec<String>, Vec<String>) {
        let ran = Ran::judge("unit", Flaky::Pass, first.and(again, "unit"));
        assert_eq!((ran.result.failed as usize, ran.result.flaky as usize), (ran.failures.len(), ran.flaky.len()));
        assert_eq!(ran.problem.is_some(), !ran.failures.is_empty());
        assert_eq!(ran.result.duration_ms, 3000);
        let names = |all: Vec<TestFailure>| all.into_iter().map(|f| f.name).collect();
        (names(ran.failures), names(ran.flaky))
    }

    fn code(ending: Ending, report: Report) -> Option<(FailureReason, Code)> {
        judge(ending, Ok(report)).map(|(reason, code, _)| (reason, code))
    }

    #[test]
    fn what_passes_in_the_second_run_is_flaky_and_what_fails_again_failed() {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(both(tests(&["a", "!b"]), tests(&["a", "b"])), (own(&[]), own(&["b"])));
        assert_eq!(both(tests(&["!a", "!b"]), tests(&["!a", "b"])), (own(&["a"]), own(&["b"])));
        assert_eq!(
            both(tests(&["a", "!b"]), tests(&["!a", "b"])),
            (own(&["a"]), own(&["b"])),
            "the second run decides"
        );
        assert_eq!(both(tests(&["a", "!b"]), tests(&["a"])), (own(&["b"]), own(&[])), "it was not run again");
        let late = run(Ending::TimedOut, Ok(report(1, 0, 0)));
        assert_eq!(both(tests(&["a", "!b"]), late), (own(&["b"]), own(&[])));
        let broken = run(Ending::Exited(0), Err("no report".into()));
        assert_eq!(both(tests(&["a", "!b"]), broken), (own(&["b"]), own(&[])));
    }

    #[test]
    fn only_a_few_tests_that_have_names_are_run_again() {
        assert_eq!(tests(&["a", "!b"]).may_be_flaky("unit"), Some(1));
        assert_eq!(tests(&["a"]).may_be_flaky("unit"), None);
        assert_eq!(run(Ending::TimedOut, Ok(report(1, 1, 0))).may_be_flaky("unit"), None);
        assert_eq!(run(Ending::Exited(1), Ok(report(1, 0, 0))).may_be_flaky("unit"), None);
        assert_eq!(run(Ending::Exited(1), Ok(report(1, 21, 0))).may_be_flaky("unit"), None);
        let unnamed = Report { failed: 2, ..report(1, 1, 0) };
        assert_eq!(run(Ending::Exited(1), Ok(unnamed)).may_be_flaky("unit"), None);
    }

    #[test]
    fn a_suite_may_say_that_flaky_is_failed() {
        let again = || tests(&["a", "!b"]).and(tests(&["a", "b"]), "unit");
        assert_eq!(Ran::judge("unit", Flaky::Pass, again()).problem, None);
        let problem = Ran::judge("unit", Flaky::Fail, again()).problem.unwrap();
        assert_eq!(problem.code, Code::TestsFailed);
        assert!(
            problem.message.contains("unit::b") && problem.message.contains("`flaky: fail`"),
            "{}",
            problem.message
        );
    }

    #[test]
    fn the_exit_code_and_the_report_have_to_agree() {
        use FailureReason::{Failed, TimedOut};
        assert_eq!(code(Ending::Exited(0), report(3, 0, 1)), None);
        assert_eq!(code(Ending::Exited(0), report(0, 0, 1)), None);
        assert_eq!(code(Ending::Exited(0), report(0, 0, 0)), Some((Failed, Code::NoTests)));
        assert_eq!(code(Ending::Exited(0), report(3, 1, 0)), Some((Failed, Code::TestsFailed)));
        assert_eq!(code(Ending::Exited(101), report(3, 1, 0)), Some((Failed, Code::TestsFailed)));
        assert_eq!(code(Ending::Exited(101), report(3, 0, 0)), Some((Failed, Code::CommandFailed)));
        assert_eq!(code(Ending::Signalled(11), report(3, 0, 0)), Some((Failed, Code::CommandFailed)));
        assert_eq!(code(Ending::TimedOut, report(3, 1, 0)), Some((TimedOut, Code::TimedOut)));
        assert_eq!(code(Ending::MemoryExceeded, report(3, 0, 0)), Some((Failed, Code::LimitExceeded)));
    }

    #[test]
    fn a_broken_report_is_told_where_nothing_else_explains_it() {
        let broken = || Err("the report junit.xml is no JUnit XML".to_owned());
        assert_eq!(judge(Ending::Exited(0), broken()).unwrap().1, Code::InvalidField);
        assert_eq!(judge(Ending::Exited(2), broken()).unwrap().1, Code::CommandFailed);
    }

    #[test]
    fn the_sentence_names_the_first_failing_tests() {
        let told = |failed| judge(Ending::Exited(1), Ok(report(1, failed, 0))).unwrap().2;
        assert_eq!(told(1), "1 of 2 tests failed: unit::t0");
        assert_eq!(told(5), "5 of 6 tests failed: unit::t0, unit::t1, unit::t2, …");
    }
}
