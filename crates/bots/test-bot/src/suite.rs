//! One suite: run in the sandbox, read, judged. The judgement is a function of how the command ended and what was read.
use std::{io, path::Path, time::Duration};

use bot_core::{Fail, JobCx};
use bot_messages::{
    Code, FailureReason,
    pipeline::Suite,
    test::{SuiteResult, TestFailure},
};
use bot_sandbox::{Command, Ending, Limits, Outcome, Program, Sandbox, Toolchains, Workspace as Folders};
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt,
    sync::mpsc,
};

use crate::{
    Config, TestBot, bytes, libtest,
    report::Report,
    workspace::{self, Workspace, blocking},
};

/// Lines on their way from the command to who follows.
const LINES_WAITING: usize = 256;
/// As the pipeline file promises: the first command that fails ends the suite, also inside a pipe. An old `sh` does not
/// know `pipefail`.
const STRICT: &str = "set -e; if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi\n";
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
pub(crate) struct Runner<'a> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) toolchains: &'a Toolchains,
    pub(crate) config: &'a Config,
    pub(crate) workspace: &'a Workspace,
    pub(crate) cx: &'a JobCx<TestBot>,
}

impl Runner<'_> {
    /// Runs one. An error means that it could not be run, or was told to stop.
    pub(crate) async fn run(&self, name: &str, suite: &Suite) -> Result<Ran, Fail> {
        let header = format!("== suite {name}: {}", suite.run.lines().next().unwrap_or_default());
        self.cx.line(&header);
        if let Err(why) = self.on_reports(suite, workspace::clear_reports).await? {
            return Ok(Ran::unreadable(name, &why));
        }
        let (outcome, printed) = self.execute(suite).await?;
        if outcome.ending == Ending::Cancelled {
            return Err(Fail::retry(anyhow::anyhow!("suite `{name}` was told to stop")));
        }
        self.keep_log(&header).await.map_err(Fail::retry)?;
        let report = if suite.reports.is_empty() {
            Ok(printed)
        } else {
            self.on_reports(suite, workspace::read_reports).await?
        };
        Ok(Ran::judge(name, &outcome, self.limit(suite), report))
    }

    fn limit(&self, suite: &Suite) -> Duration {
        suite.timeout.map_or(Duration::from_secs(self.config.suite_timeout_s), |span| span.0)
    }

    async fn execute(&self, suite: &Suite) -> Result<(Outcome, Report), Fail> {
        let folders = Folders { tree: self.workspace.tree(), home: self.workspace.home() };
        let limits = Limits {
            time: self.limit(suite),
            memory_bytes: bytes(self.config.memory_mib),
            processes: self.config.processes,
            output_bytes: bytes(self.config.output_mib),
            line_bytes: 16 * 1024,
            file_bytes: bytes(self.config.file_mib),
            open_files: 4096,
        };
        let (lines, mut printed) = mpsc::channel(LINES_WAITING);
        let program = Program::Shell(format!("{STRICT}{}", suite.run));
        let mut command = Command::new(self.cx.id.as_str(), program, folders, limits);
        command.env.insert("CI".into(), "true".into());
        command.env.extend(suite.env.clone());
        command.toolchains = self.toolchains.clone();
        command.network = suite.network;
        command.output = Some(lines);
        command.log_file = Some(self.workspace.suite_log());
        command.cancel = self.cx.cancelled.clone();
        let read = async {
            let mut reader = libtest::Reader::default();
            while let Some(line) = printed.recv().await {
                self.cx.line(&line.text);
                reader.line(&line.text);
            }
            reader.finish()
        };
        let (outcome, report) = tokio::join!(self.sandbox.run(command), read);
        Ok((outcome.map_err(Fail::retry)?, report))
    }

    async fn on_reports<T: Default + Send + 'static>(
        &self,
        suite: &Suite,
        what: fn(&Path, &[String], &Config) -> Result<T, String>,
    ) -> Result<Result<T, String>, Fail> {
        if suite.reports.is_empty() {
            return Ok(Ok(T::default()));
        }
        let (tree, patterns, config) = (self.workspace.tree(), suite.reports.clone(), self.config.clone());
        blocking(move || what(&tree, &patterns, &config)).await
    }

    /// Adds what the suite printed to the log of the job.
    async fn keep_log(&self, header: &str) -> io::Result<()> {
        let mut log = OpenOptions::new().create(true).append(true).open(self.workspace.log()).await?;
        log.write_all(format!("{header}\n").as_bytes()).await?;
        let mut printed = File::open(self.workspace.suite_log()).await?;
        tokio::io::copy(&mut printed, &mut log).await?;
        log.flush().await
    }
}

impl Ran {
    /// How it ended and what was read make the verdict. A suite that says nothing of its tests has not passed.
    fn judge(name: &str, outcome: &Outcome, limit: Duration, report: Result<Report, String>) -> Self {
        let duration_ms = outcome.wall.as_millis() as u64;
        let tail = outcome.tail.clone();
        let report = match report {
            Ok(report) => report,
            // The command's own failure explains a broken report, never the other way round.
            Err(_) if outcome.ending != Ending::Exited(0) => Report::default(),
            Err(why) => {
                let mut ran = Self::unreadable(name, &why);
                (ran.result.duration_ms, ran.tail) = (duration_ms, tail);
                return ran;
            }
        };
        let problem = problem(name, outcome.ending, limit, &report);
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
            duration_ms,
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

fn problem(name: &str, ending: Ending, limit: Duration, report: &Report) -> Option<Problem> {
    let exceeded = |what: &str| {
        let message = format!(
            "suite `{name}` used more {what} than it may and was ended: use less, or raise the limit in TestBot's settings"
        );
        (FailureReason::Failed, Code::LimitExceeded, message)
    };
    let (reason, code, message) = match ending {
        Ending::TimedOut => {
            let message = format!(
                "suite `{name}` did not end within {} s: make it faster, or give it a longer `timeout`",
                limit.as_secs_f64()
            );
            (FailureReason::TimedOut, Code::TimedOut, message)
        }
        Ending::MemoryExceeded => exceeded("memory"),
        Ending::ProcessesExceeded => exceeded("processes"),
        Ending::OutputExceeded => exceeded("output"),
        _ if report.failed > 0 => {
            let mut names: Vec<String> =
                report.failures.iter().take(NAMED_MAX).map(|f| format!("{name}::{}", f.name)).collect();
            if report.failed as usize > names.len() {
                names.push("…".to_owned());
            }
            let message = format!("{} of {} tests failed: {}", report.failed, report.total(), names.join(", "));
            (FailureReason::Failed, Code::TestsFailed, message)
        }
        Ending::Exited(0) if report.total() == 0 => {
            let message = format!(
                "suite `{name}` ended well and no test was found: name the JUnit files it writes under `reports`, or let it print as Rust's libtest does"
            );
            (FailureReason::Failed, Code::NoTests, message)
        }
        Ending::Exited(0) => return None,
        Ending::Exited(code) => {
            let message =
                format!("suite `{name}` ended with exit code {code} and reported no failing test; see the log");
            (FailureReason::Failed, Code::CommandFailed, message)
        }
        Ending::Signalled(signal) => {
            let message =
                format!("suite `{name}` was ended by signal {signal} and reported no failing test; see the log");
            (FailureReason::Failed, Code::CommandFailed, message)
        }
        Ending::Cancelled => (FailureReason::Cancelled, Code::Cancelled, format!("suite `{name}` was told to stop")),
    };
    Some(Problem { reason, code, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Failure;

    fn judge(ending: Ending, report: Result<Report, String>) -> Option<(FailureReason, Code, String)> {
        let outcome = Outcome {
            ending,
            wall: Duration::from_millis(1500),
            memory_peak_bytes: 0,
            processes_peak: 0,
            output_bytes: 0,
            tail: vec!["last".into()],
            survivors: Vec::new(),
        };
        let ran = Ran::judge("unit", &outcome, Duration::from_secs(9), report);
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
