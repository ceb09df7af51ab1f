//! Runs the scripts of a target in the sandbox: what they find in their environment, their secrets, and what their ends
//! mean. No secret is in an argument, a message or a line of output.
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use bot_messages::{Code, FailureReason};
use bot_sandbox::{Bind, Command, Ending, Limits, Outcome, Program, Workspace};
use bot_secrets::{Redactor, Secret, SecretError, Sources};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    environments::{Environment, RESOLVED, Scripts},
    report::Verdict,
};

const OUTPUT_BYTES: u64 = 16 * 1024 * 1024;
const LINE_BYTES: usize = 8 * 1024;
const FILE_BYTES: u64 = 1024 * 1024 * 1024;
const OPEN_FILES: u64 = 1024;
const TAIL_LINES: usize = 40;
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// One of the scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Of a compose project; before the others.
    Resolve,
    Deploy,
    Verify,
    Rollback,
}

impl Which {
    fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Deploy => "deploy",
            Self::Verify => "verify",
            Self::Rollback => "rollback",
        }
    }
}

/// How a script ended.
pub(crate) enum ScriptEnd {
    Good,
    Bad(Verdict),
    /// Told to stop.
    Stopped,
}

/// What a script needs besides itself.
pub(crate) struct Runner<'a> {
    pub(crate) host: &'a crate::application::Host,
    pub(crate) environment: &'a Environment,
    pub(crate) scripts: &'a Scripts,
    pub(crate) secrets: Secrets,
    pub(crate) label: String,
    /// What the script is told of the switch.
    pub(crate) told: BTreeMap<String, String>,
    /// Folders and files it may read.
    pub(crate) read_only: Vec<PathBuf>,
    /// The compose file that they run.
    pub(crate) laid: Option<String>,
    pub(crate) stop: CancellationToken,
    /// Takes each line of output, without secrets.
    pub(crate) line: Box<dyn Fn(&str) + Send + Sync + 'a>,
}

/// Values by variable, and files that hold some.
#[derive(Clone, Default)]
pub(crate) struct Secrets {
    variables: BTreeMap<String, Secret>,
    files: BTreeMap<String, PathBuf>,
    redactor: Redactor,
}

impl Secrets {
    /// Reads what the scripts name; what has to be a file has to lie in `dir`. An error says which one is missing, and
    /// never what one holds.
    pub(crate) fn read(scripts: &Scripts, dir: &Path, others: &Sources) -> Result<Self, SecretError> {
        let (folder, sources) = (Sources::default().with_folder(dir), others.clone().with_folder(dir));
        let mut secrets = Self::default();
        let mut values = Vec::new();
        for name in &scripts.secrets {
            let value = sources.get(name)?;
            values.push(value.clone());
            secrets.variables.insert(name.clone(), value);
        }
        for (variable, name) in &scripts.secret_files {
            values.push(folder.get(name)?);
            secrets.files.insert(variable.clone(), dir.join(name));
        }
        secrets.redactor = Redactor::new(values.iter().map(Secret::expose));
        Ok(secrets)
    }
}

impl Runner<'_> {
    /// Runs one to its end.
    pub(crate) async fn run(&self, which: Which, script: &str) -> anyhow::Result<ScriptEnd> {
        let work = Work::make(&self.environment.root.join("work"))?;
        if let Some(text) = &self.laid {
            // It may hold secrets: gone with the run.
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(work.tree().join(RESOLVED));
            file.and_then(|mut file| file.write_all(text.as_bytes())).context("the compose file cannot be written")?;
        }
        self.run_in(which, script, &work).await
    }

    pub(crate) async fn run_in(&self, which: Which, script: &str, work: &Work) -> anyhow::Result<ScriptEnd> {
        let (sender, mut lines) = mpsc::channel(256);
        let mut command = self.command(script, work, sender);
        match &self.scripts.project {
            // What it reads is all there, and what it says has to stay true.
            Some(_) if which == Which::Resolve => command.network = false,
            Some(project) => {
                let socket = project.real_socket().map_err(anyhow::Error::msg)?;
                command.env.insert("DOCKER_HOST".to_owned(), format!("unix://{}", socket.display()));
                command.read_write.push(Bind { host: socket.clone(), inside: socket });
            }
            None => {}
        }
        let show = async {
            while let Some(line) = lines.recv().await {
                (self.line)(&line.text);
            }
        };
        let (outcome, ()) = tokio::join!(self.host.sandbox.run(command), show);
        Ok(self.end(which, &outcome.context("a script could not be run")?))
    }

    /// Asks again and again until it is there, or the deadline comes.
    pub(crate) async fn verified(&self, deadline: Duration) -> anyhow::Result<ScriptEnd> {
        let Some(script) = &self.scripts.verify else {
            return Ok(ScriptEnd::Good);
        };
        let until = Instant::now() + deadline;
        let mut pause = PAUSE_MIN;
        loop {
            match self.run(Which::Verify, script).await? {
                ScriptEnd::Bad(mut verdict) if Instant::now() + pause >= until => {
                    verdict.code = Code::HealthCheckFailed;
                    verdict.message =
                        format!("{}, until the deadline of {} s", verdict.message, deadline.as_secs_f64());
                    return Ok(ScriptEnd::Bad(verdict));
                }
                ScriptEnd::Bad(_) => {}
                end => return Ok(end),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return Ok(ScriptEnd::Stopped),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn command(&self, script: &str, work: &Work, output: mpsc::Sender<bot_sandbox::Line>) -> Command {
        let limits = Limits {
            time: self.scripts.timeout,
            memory_bytes: self.environment.limits.memory_bytes,
            processes: self.environment.limits.processes,
            output_bytes: OUTPUT_BYTES,
            line_bytes: LINE_BYTES,
            file_bytes: FILE_BYTES,
            open_files: OPEN_FILES,
        };
        let workspace = Workspace { tree: work.tree(), home: work.0.join("home") };
        let script = format!("set -e\n(set -o pipefail) 2>/dev/null && set -o pipefail\n{script}");
        let mut command = Command::new(self.label.clone(), Program::Shell(script), workspace, limits);
        let paths = self.scripts.files.iter().chain(&self.secrets.files);
        command.read_only = self.read_only.iter().chain(paths.clone().map(|(_, path)| path)).cloned().collect();
        command.env = self.scripts.env.clone();
        command.env.extend(paths.map(|(name, path)| (name.clone(), path.display().to_string())));
        let variables = self.secrets.variables.iter();
        command.env.extend(variables.map(|(name, value)| (name.clone(), value.expose().to_owned())));
        command.env.extend(self.told.clone());
        command.toolchains = self.host.toolchains.clone();
        command.network = self.scripts.network;
        command.redactor = self.secrets.redactor.clone();
        command.output = Some(output);
        command.cancel = self.stop.clone();
        command
    }

    fn end(&self, which: Which, outcome: &Outcome) -> ScriptEnd {
        let (name, environment) = (which.as_str(), &self.environment.name);
        let last = outcome.tail.iter().rev().find(|line| !line.trim().is_empty());
        let last = last.map(|line| format!("; it last said: {line}")).unwrap_or_default();
        let (reason, code, how) = match outcome.ending {
            Ending::Exited(0) => return ScriptEnd::Good,
            Ending::Cancelled => return ScriptEnd::Stopped,
            Ending::Exited(code) => {
                (FailureReason::Failed, Code::CommandFailed, format!("ended with exit code {code}"))
            }
            Ending::Signalled(signal) => {
                (FailureReason::Failed, Code::CommandFailed, format!("was ended by signal {signal}"))
            }
            Ending::TimedOut => {
                let seconds = self.scripts.timeout.as_secs_f64();
                (FailureReason::TimedOut, Code::TimedOut, format!("did not end within {seconds} s (target.timeout)"))
            }
            Ending::MemoryExceeded => (FailureReason::Error, Code::LimitExceeded, "took too much memory".to_owned()),
            Ending::ProcessesExceeded => {
                (FailureReason::Error, Code::LimitExceeded, "started too many processes".to_owned())
            }
            Ending::OutputExceeded => (FailureReason::Error, Code::LimitExceeded, "printed too much".to_owned()),
        };
        let message = format!("the command `{name}` of {environment} {how}{last}");
        let skip = outcome.tail.len().saturating_sub(TAIL_LINES);
        ScriptEnd::Bad(Verdict { reason, code, message, log_tail: outcome.tail[skip..].to_vec() })
    }
}

/// An empty folder for one run, gone with it. What an earlier process left there is removed first.
pub(crate) struct Work(PathBuf);

impl Work {
    pub(crate) fn make(path: &Path) -> anyhow::Result<Self> {
        let own = Self(path.to_owned());
        own.remove().with_context(|| format!("{} cannot be removed", path.display()))?;
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for part in ["tree", "home"] {
            builder.create(path.join(part)).with_context(|| format!("{} cannot be made", path.display()))?;
        }
        Ok(own)
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }

    fn remove(&self) -> anyhow::Result<()> {
        crate::release::remove(&self.0)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scripts(secrets: &[&str]) -> Scripts {
        Scripts {
            deploy: "true".into(),
            verify: None,
            rollback: None,
            secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
            secret_files: BTreeMap::new(),
            files: BTreeMap::new(),
            env: BTreeMap::new(),
            timeout: Duration::from_secs(1),
            network: false,
            url: None,
            project: None,
        }
    }

    #[test]
    fn secrets_are_private_files_and_their_lines_are_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &str, mode: u32| {
            fs::write(dir.path().join(name), value).unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("TOKEN", "canary-1\n", 0o600);
        write("KEY", "-- begin --\ncanary-1-and-more\nab\n", 0o600);
        let secrets = Secrets::read(&scripts(&["TOKEN", "KEY"]), dir.path(), &Sources::default()).unwrap();
        assert_eq!(secrets.variables["TOKEN"].expose(), "canary-1");
        assert_eq!(secrets.redactor.clean("a canary-1, canary-1-and-more, ab"), "a ***, ***, ab");

        write("TOKEN", "canary-1", 0o640);
        let told = format!("{:#}", Secrets::read(&scripts(&["TOKEN"]), dir.path(), &Sources::default()).err().unwrap());
        assert!(told.contains("chmod 600") && !told.contains("canary"), "{told}");
        let told = format!("{:#}", Secrets::read(&scripts(&["OTHER"]), dir.path(), &Sources::default()).err().unwrap());
        assert!(told.contains("there is no secret `OTHER`: expected the file"), "{told}");
    }
}
