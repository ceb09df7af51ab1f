//! One suite: run in the sandbox, read, judged. The judgement is a function of how the command ended and what was read.
use std::path::Path;

use bot_core::Fail;
use bot_messages::{
    Code, FailureReason,
    pipeline::Suite,
    test::{SuiteResult, TestFailure},
};
use bot_pipeline::{End, Folder, Log, Ran as Command, Runner, Task};
use bot_sandbox::Ending;

use crate::{Config, blocking, libtest, report::Report, reports};

/// So many failing tests are named in a sentence.
const NAMED_MAX: usize = 3;

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
    /// `None`: it passed.
    pub(crate) problem: Option<Problem>,
    /// Its last lines.
    pub(crate) tail: Vec<String>,
}

/// What running a suite takes besides the suite.
pub(crate) struct Suites<'a> {
    pub(crate) runner: Runner<'a>,
    pub(crate) config: &'a Config,
    pub(crate) folder: &'a Folder,
    pub(crate) log: &'a Log<'a>,
}

impl Suites<'_> {
    /// Runs one. An error means that it could not be run, or was told to stop.
    pub(crate) async fn run(&self, name: &str, suite: &Suite) -> Result<Ran, Fail> {
        self.log.line(name, suite.run.lines().next().unwrap_or_default());
        if let Err(why) = self.on_reports(suite, reports::clear).await? {
            return Ok(Ran::unreadable(name, &why));
        }
        let mut printed = libtest::Reader::default();
        let task = Task::from((name, suite));
        let ran = self.runner.run(&task, |line| {
            self.log.line(name, line);
            printed.line(line);
        });
        let ran = ran.await.map_err(Fail::retry)?;
        if ran.end == End::Stopped {
            return Err(Fail::retry(anyhow::anyhow!("suite `{name}` was told to stop")));
        }
        let report =
            if suite.reports.is_empty() { Ok(printed.finish()) } else { self.on_reports(suite, reports::read).await? };
        Ok(Ran::judge(name, &ran, report))
    }

    async fn on_reports<T: Default + Send + 'static>(
        &self,
        suite: &Suite,
        what: fn(&Path, &[String], &Config) -> Result<T, String>,
    ) -> Result<Result<T, String>, Fail> {
        if suite.reports.is_empty() {
            return Ok(Ok(T::default()));
        }
        let (tree, patterns, config) = (self.folder.tree(), suite.reports.clone(), self.config.clone());
        blocking(move || what(&tree, &patterns, &config)).await
    }
}

impl Ran {
    /// How it ended and what was read make the verdict. A suite that says nothing of its tests has not passed.
    fn judge(name: &str, ran: &Command, report: Result<Report, String>) -> Self {
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
        let problem = problem(name, ran, &report);
        let failures = report.failures.into_iter().map(|f| TestFailure {
            suite: name.to_owned(),
            name: f.name,
            message: f.message,
            location: f.location,
        });
        let result = SuiteResult {
            name: name.to_owned(),
            passed: report.passed,
            failed: report.failed,
            skipped: report.skipped,
            duration_ms: ran.duration_ms(),
        };
        Self { result, failures: failures.collect(), problem, tail }
    }

    fn unreadable(name: &str, why: &str) -> Self {
        let result = SuiteResult { name: name.to_owned(), passed: 0, failed: 0, skipped: 0, duration_ms: 0 };
        let message = format!("suite `{name}`: {why}");
        let problem = Problem { reason: FailureReason::Error, code: Code::InvalidField, message };
        Self { result, failures: Vec::new(), problem: Some(problem), tail: Vec::new() }
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
                "suite `{name}` ended well and no test was found: name the JUnit files it writes under `reports`, or let it print as Rust's libtest does"
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
    let mut names: Vec<String> =
        report.failures.iter().take(NAMED_MAX).map(|f| format!("{name}::{}", f.name)).collect();
    if report.failed as usize > names.len() {
        names.push("…".to_owned());
    }
    format!("{} of {} tests failed: {}", report.failed, report.total(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bot_sandbox::Outcome;

    use super::*;
    use crate::report::Failure;

    fn judge(ending: Ending, report: Result<Report, String>) -> Option<(FailureReason, Code, String)> {
        let end = match ending {
            Ending::Exited(0) => End::Succeeded,
            Ending::TimedOut => End::Failed { code: Code::TimedOut, message: "late".into() },
            Ending::MemoryExceeded => End::Failed { code: Code::LimitExceeded, message: "large".into() },
            _ => End::Failed { code: Code::CommandFailed, message: "bad".into() },
        };
        let outcome = Outcome {
            ending,
            wall: Duration::from_millis(1500),
            memory_peak_bytes: 0,
            processes_peak: 0,
            output_bytes: 0,
            tail: vec!["last".into()],
            survivors: Vec::new(),
        };
        let ran = Ran::judge("unit", &Command { end, outcome }, report);
        assert_eq!((ran.result.duration_ms, ran.tail), (1500, vec!["last".to_owned()]));
        ran.problem.map(|p| (p.reason, p.code, p.message))
    }

    fn report(passed: u32, failed: u32, skipped: u32) -> Report {
        let failures = (0..failed).map(|i| Failure::new(&format!("t{i}"), "no", None)).collect();
        Report { passed, failed, skipped, failures }
    }

    fn code(ending: Ending, report: Report) -> Option<(FailureReason, Code)> {
        judge(ending, Ok(report)).map(|(reason, code, _)| (reason, code))
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
