//! Running one step of the pipeline in the sandbox, within its limits and the disk's, and what its end means.
use std::{collections::BTreeMap, time::Duration};

use bot_messages::{Code, Revision, build::StepResult, pipeline::Step};
use bot_sandbox::{Command, Ending, Limits, Outcome, Program, Sandbox, SandboxError, Toolchains, Workspace};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{folder::Folder, log::Log, machine::NetworkEnv};

/// How often the disk is looked at while a step runs.
const DISK_EVERY: Duration = Duration::from_secs(5);

/// What all steps of a job share.
pub(crate) struct Runner<'a> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) toolchains: &'a Toolchains,
    pub(crate) network: &'a NetworkEnv,
    pub(crate) folder: &'a Folder,
    pub(crate) label: &'a str,
    pub(crate) revision: &'a Revision,
    pub(crate) disk_bytes_max: u64,
    pub(crate) stop: &'a CancellationToken,
}

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StepEnd {
    Succeeded,
    Failed {
        code: Code,
        message: String,
    },
    /// Told to stop.
    Stopped,
}

impl Runner<'_> {
    /// Runs it; an error is one of this machine.
    pub(crate) async fn run(
        &self,
        step: &Step,
        limits: &Limits,
        log: &mut Log<'_>,
    ) -> Result<(StepEnd, StepResult), SandboxError> {
        // Of its own, so that a full disk ends the step and not the job.
        let stop = self.stop.child_token();
        let (sender, mut lines) = mpsc::channel(256);
        let command = Command { output: Some(sender), cancel: stop.clone(), ..self.command(step, limits) };
        log.begin(&step.name);
        let run = async {
            let show = async {
                while let Some(line) = lines.recv().await {
                    log.line(&line.text);
                }
            };
            tokio::join!(self.sandbox.run(command), show).0
        };
        tokio::pin!(run);
        let (outcome, used) = tokio::select! {
            outcome = &mut run => (outcome?, self.folder.used().await),
            used = self.disk_is_full() => {
                stop.cancel();
                (run.await?, used)
            }
        };
        let end = if used > self.disk_bytes_max {
            let (used, max) = (used >> 20, self.disk_bytes_max >> 20);
            let message =
                format!("step `{}` filled the disk: {used} MiB, {max} are allowed (settings.workspace_mib)", step.name);
            StepEnd::Failed { code: Code::LimitExceeded, message }
        } else {
            end_of(step, &outcome, limits)
        };
        let exit_code = match outcome.ending {
            Ending::Exited(code) => Some(code),
            _ => None,
        };
        let duration_ms = u64::try_from(outcome.wall.as_millis()).unwrap_or(u64::MAX);
        Ok((end, StepResult { name: step.name.clone(), duration_ms, exit_code }))
    }

    fn command(&self, step: &Step, limits: &Limits) -> Command {
        let workspace = Workspace { tree: self.folder.tree(), home: self.folder.home() };
        let mut command = Command::new(self.label, Program::Shell(script(&step.run)), workspace, limits.clone());
        command.env = if step.network { self.network.variables.clone() } else { BTreeMap::new() };
        let known = [
            ("CI", "true"),
            ("LOTA_REPOSITORY", &self.revision.repository),
            ("LOTA_REF", &self.revision.git_ref),
            ("LOTA_COMMIT", self.revision.commit.as_str()),
        ];
        command.env.extend(known.map(|(name, value)| (name.to_owned(), value.to_owned())));
        command.env.extend(step.env.clone());
        command.toolchains = self.toolchains.clone();
        command.network = step.network;
        if step.network {
            command.read_only.clone_from(&self.network.files);
        }
        command
    }

    /// Ends only if it is.
    async fn disk_is_full(&self) -> u64 {
        loop {
            tokio::time::sleep(DISK_EVERY).await;
            let used = self.folder.used().await;
            if used > self.disk_bytes_max {
                return used;
            }
        }
    }
}

/// Any failing line ends the step, also in a pipe where the shell can tell.
fn script(run: &str) -> String {
    format!("set -e\n(set -o pipefail) 2>/dev/null && set -o pipefail\n{run}")
}

fn end_of(step: &Step, outcome: &Outcome, limits: &Limits) -> StepEnd {
    let name = &step.name;
    let too_much = |what: String| (Code::LimitExceeded, format!("step `{name}` was ended: more than {what}"));
    let (code, message) = match outcome.ending {
        Ending::Exited(0) => return StepEnd::Succeeded,
        Ending::Cancelled => return StepEnd::Stopped,
        Ending::Exited(code) => {
            (Code::CommandFailed, format!("step `{name}` ended with exit code {code}; see the log"))
        }
        Ending::Signalled(signal) => {
            (Code::CommandFailed, format!("step `{name}` was ended by signal {signal}; see the log"))
        }
        Ending::TimedOut => {
            let seconds = limits.time.as_secs_f64();
            (
                Code::TimedOut,
                format!("step `{name}` did not end within {seconds} s; give it a longer `timeout` or less to do"),
            )
        }
        Ending::MemoryExceeded => {
            too_much(format!("{} MiB of memory (settings.memory_mib)", limits.memory_bytes >> 20))
        }
        Ending::ProcessesExceeded => too_much(format!("{} processes (settings.processes)", limits.processes)),
        Ending::OutputExceeded => {
            too_much(format!("{} MiB of output (settings.output_mib)", limits.output_bytes >> 20))
        }
    };
    StepEnd::Failed { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn every_end_is_told_with_the_steps_name() {
        let step = Step { name: "compile".into(), run: "x".into(), ..Step::default() };
        let limits = Config::default().step_limits(Some(Duration::from_millis(1500)));
        let end = |ending| {
            let outcome = Outcome {
                ending,
                wall: Duration::ZERO,
                memory_peak_bytes: 0,
                processes_peak: 0,
                output_bytes: 0,
                tail: Vec::new(),
                survivors: Vec::new(),
            };
            end_of(&step, &outcome, &limits)
        };
        assert_eq!(end(Ending::Exited(0)), StepEnd::Succeeded);
        assert_eq!(end(Ending::Cancelled), StepEnd::Stopped);
        for (ending, code, want) in [
            (Ending::Exited(101), Code::CommandFailed, "exit code 101"),
            (Ending::Signalled(11), Code::CommandFailed, "signal 11"),
            (Ending::TimedOut, Code::TimedOut, "1.5 s"),
            (Ending::MemoryExceeded, Code::LimitExceeded, "4096 MiB of memory"),
            (Ending::ProcessesExceeded, Code::LimitExceeded, "512 processes"),
            (Ending::OutputExceeded, Code::LimitExceeded, "50 MiB of output"),
        ] {
            let StepEnd::Failed { code: got, message } = end(ending) else { panic!("{ending:?}") };
            assert_eq!(got, code);
            assert!(message.contains("`compile`") && message.contains(want), "{message}");
        }
    }
}
