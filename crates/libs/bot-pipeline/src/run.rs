//! Running one command of a pipeline file in the sandbox, within its limits and the disk's, and what its end means.
use std::{collections::BTreeMap, time::Duration};

use bot_messages::{
    Code, Revision,
    pipeline::{Service, Step, Suite},
};
use bot_sandbox::{
    Command, Ending, Limits, NetworkEnv, Outcome, Program, Sandbox, SandboxError, SandboxKind, Toolchains, Workspace,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Folder, Images, Secrets};

/// How often the disk is looked at while a command runs.
const DISK_EVERY: Duration = Duration::from_secs(5);

/// A command of a pipeline file.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// What people call it: ``step `compile` ``.
    pub title: String,
    /// For the shell; any failing line ends it, also in a pipe where the shell can tell.
    pub run: String,
    /// What runs beside it.
    pub services: Vec<Service>,
    /// Whether it may use the network.
    pub network: bool,
    /// Absent: the limits' own.
    pub timeout: Option<Duration>,
    /// Goes over what the runner sets.
    pub env: BTreeMap<String, String>,
    /// Names of secrets that it gets as variables.
    pub secrets: Vec<String>,
    /// In a container of that image, which the runner has.
    pub image: Option<String>,
}

impl From<&Step> for Task {
    fn from(step: &Step) -> Self {
        Self {
            title: format!("step `{}`", step.name),
            run: step.run.clone(),
            services: step.services.clone(),
            network: step.network,
            timeout: step.timeout.map(|span| span.0),
            env: step.env.clone(),
            secrets: step.secrets.clone(),
            image: step.image.clone(),
        }
    }
}

impl From<(&str, &Suite)> for Task {
    fn from((name, suite): (&str, &Suite)) -> Self {
        Self {
            title: format!("suite `{name}`"),
            run: suite.run.clone(),
            services: suite.services.clone(),
            network: suite.network,
            timeout: suite.timeout.map(|span| span.0),
            env: suite.env.clone(),
            secrets: suite.secrets.clone(),
            image: None,
        }
    }
}

/// What all commands of a job share.
#[derive(Clone)]
pub struct Runner<'a> {
    pub sandbox: &'a Sandbox,
    pub toolchains: &'a Toolchains,
    /// Reaches only commands with network.
    pub network: &'a NetworkEnv,
    pub folder: &'a Folder,
    /// Of the processes; ends in `:` where other jobs' names could begin alike.
    pub label: &'a str,
    /// What every command finds in its environment.
    pub env: BTreeMap<String, String>,
    /// Of the job. Each reaches only commands that name it; none is ever printed.
    pub secrets: &'a Secrets,
    /// What commands may name.
    pub images: &'a Images,
    /// Of each command; `time` where it names no timeout of its own.
    pub limits: Limits,
    /// Of all that commands write in this folder together.
    pub disk_bytes_max: u64,
    pub stop: &'a CancellationToken,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Succeeded,
    Failed {
        code: Code,
        /// One sentence that begins with the title.
        message: String,
    },
    /// Told to stop.
    Stopped,
}

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Ran {
    pub end: End,
    pub outcome: Outcome,
}

impl Ran {
    /// Where it ended by itself.
    pub fn exit_code(&self) -> Option<i32> {
        match self.outcome.ending {
            Ending::Exited(code) => Some(code),
            _ => None,
        }
    }

    /// Wall time.
    pub fn duration_ms(&self) -> u64 {
        u64::try_from(self.outcome.wall.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Runner<'_> {
    /// The environment that names what is built or tested.
    pub fn env_of(revision: &Revision) -> BTreeMap<String, String> {
        let known = [
            ("CI", "true"),
            ("LOTA_REPOSITORY", &revision.repository),
            ("LOTA_REF", &revision.git_ref),
            ("LOTA_COMMIT", revision.commit.as_str()),
        ];
        known.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Runs it; `on_line` gets each line of its output, and of its services' ([`crate::said_by`] tells which). An error is
    /// one of this machine.
    pub async fn run(&self, task: &Task, mut on_line: impl FnMut(&str) + Send) -> Result<Ran, SandboxError> {
        if !task.services.is_empty() && !task.network && self.sandbox.kind() == SandboxKind::Landlock {
            on_line(
                "lota: the sandbox of this machine (landlock) has no loopback without network: services need `network: true`",
            );
        }
        // Of its own, so that a full disk ends the command and not the job.
        let stop = self.stop.child_token();
        let (sender, mut lines) = mpsc::channel(256);
        let command = self.command(task)?;
        let limits = command.limits.clone();
        let command = Command { output: Some(sender), cancel: stop.clone(), ..command };
        let run = async {
            let show = async {
                let mut listener = crate::services::Listener::new(&task.services);
                while let Some(line) = lines.recv().await {
                    let told = listener.hear(&line.text);
                    on_line(told.as_deref().unwrap_or(&line.text));
                }
                listener
            };
            let (outcome, listener) = tokio::join!(self.sandbox.run(command), show);
            outcome.map(|outcome| (outcome, listener))
        };
        tokio::pin!(run);
        let ((mut outcome, listener), used) = tokio::select! {
            ran = &mut run => (ran?, self.folder.used().await),
            used = self.disk_is_full() => {
                stop.cancel();
                (run.await?, used)
            }
        };
        outcome.tail = crate::services::unmarked(outcome.tail);
        let end = if used > self.disk_bytes_max {
            let (used, max) = (used >> 20, self.disk_bytes_max >> 20);
            let message =
                format!("{} filled the disk: {used} MiB, {max} are allowed (settings.workspace_mib)", task.title);
            End::Failed { code: Code::LimitExceeded, message }
        } else if let (Some(message), Ending::Exited(_)) = (listener.trouble(&task.title), outcome.ending) {
            End::Failed { code: Code::HealthCheckFailed, message }
        } else {
            end_of(&task.title, outcome.ending, &limits)
        };
        Ok(Ran { end, outcome })
    }

    fn command(&self, task: &Task) -> Result<Command, SandboxError> {
        let workspace = Workspace { tree: self.folder.tree(), home: self.folder.home() };
        let limits = Limits { time: task.timeout.unwrap_or(self.limits.time), ..self.limits.clone() };
        let mut command = Command::new(
            self.label,
            Program::Shell(crate::services::wrap(&script(&task.run), &task.services)),
            workspace,
            limits,
        );
        command.env = if task.network { self.network.variables.clone() } else { BTreeMap::new() };
        command.env.extend(self.env.clone());
        command.env.extend(task.env.clone());
        command.env.extend(self.secrets.of(&task.secrets));
        command.redactor = self.secrets.redactor().clone();
        command.toolchains = self.toolchains.clone();
        command.network = task.network;
        if task.network {
            command.read_only.clone_from(&self.network.files);
        }
        if let Some(name) = &task.image {
            // Never outside of it instead.
            let image = self.images.get(name).ok_or_else(|| SandboxError::NoImage { name: name.clone() })?;
            command.image = Some(image.clone());
        }
        Ok(command)
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

/// An old `sh` does not know `pipefail`.
fn script(run: &str) -> String {
    format!("set -e\n(set -o pipefail) 2>/dev/null && set -o pipefail\n{run}")
}

fn end_of(title: &str, ending: Ending, limits: &Limits) -> End {
    let too_much = |what: String| (Code::LimitExceeded, format!("{title} was ended: more than {what}"));
    let (code, message) = match ending {
        Ending::Exited(0) => return End::Succeeded,
        Ending::Cancelled => return End::Stopped,
        Ending::Exited(code) => (Code::CommandFailed, format!("{title} ended with exit code {code}; see the log")),
        Ending::Signalled(signal) => {
            (Code::CommandFailed, format!("{title} was ended by signal {signal}; see the log"))
        }
        Ending::TimedOut => {
            let seconds = limits.time.as_secs_f64();
            let message = format!("{title} did not end within {seconds} s; give it a longer `timeout` or less to do");
            (Code::TimedOut, message)
        }
        Ending::MemoryExceeded => {
            too_much(format!("{} MiB of memory (settings.memory_mib)", limits.memory_bytes >> 20))
        }
        Ending::ProcessesExceeded => too_much(format!("{} processes (settings.processes)", limits.processes)),
        Ending::OutputExceeded => {
            too_much(format!("{} MiB of output (settings.output_mib)", limits.output_bytes >> 20))
        }
    };
    End::Failed { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_told_with_the_commands_title() {
        let limits = Limits {
            time: Duration::from_millis(1500),
            memory_bytes: 4096 << 20,
            processes: 512,
            output_bytes: 50 << 20,
            line_bytes: 4096,
            file_bytes: 1 << 30,
            open_files: 1024,
        };
        let end = |ending| end_of("step `compile`", ending, &limits);
        assert_eq!(end(Ending::Exited(0)), End::Succeeded);
        assert_eq!(end(Ending::Cancelled), End::Stopped);
        for (ending, code, want) in [
            (Ending::Exited(101), Code::CommandFailed, "exit code 101"),
            (Ending::Signalled(11), Code::CommandFailed, "signal 11"),
            (Ending::TimedOut, Code::TimedOut, "1.5 s"),
            (Ending::MemoryExceeded, Code::LimitExceeded, "4096 MiB of memory"),
            (Ending::ProcessesExceeded, Code::LimitExceeded, "512 processes"),
            (Ending::OutputExceeded, Code::LimitExceeded, "50 MiB of output"),
        ] {
            let End::Failed { code: got, message } = end(ending) else { panic!("{ending:?}") };
            assert_eq!(got, code);
            assert!(message.starts_with("step `compile`") && message.contains(want), "{message}");
        }
    }
}
