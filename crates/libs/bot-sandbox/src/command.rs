//! What a caller says to [`crate::Sandbox::run`] and what it hears back. Data only; nothing here starts anything.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use bot_secrets::Redactor;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Engine, SandboxError, Toolchains};

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments, looked up in the sandbox's PATH. Arguments are visible in `ps`: no secrets.
    Argv(Vec<String>),
    /// A line for `bash -c`, or `sh -c` where there is no bash.
    Shell(String),
}

/// The two folders a command may write. Both are the caller's, and stay after the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// The source tree. In bubblewrap always at `/workspace`, so that builds do not depend on where they ran.
    pub tree: PathBuf,
    /// HOME of the command (caches, `.cargo`); made if missing. In bubblewrap at `/home/bot`.
    pub home: PathBuf,
}

/// Mandatory, because whatever grows without a limit ends the machine. Zero is refused everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall time until SIGTERM.
    pub time: Duration,
    /// Memory of the whole tree; also the size of its `/tmp` in bubblewrap, which lives in memory.
    pub memory_bytes: u64,
    /// Processes and threads of the whole tree, as the kernel counts them.
    pub processes: u32,
    /// Standard output and error together.
    pub output_bytes: u64,
    /// The longest line; longer ones are split.
    pub line_bytes: usize,
    /// The largest single file it may write.
    pub file_bytes: u64,
    /// Open files per process.
    pub open_files: u64,
}

/// A host folder or file the command may write. The process-group kind can map it only below the workspace or home
/// (by a symbolic link it leaves there) or to its own path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    pub host: PathBuf,
    /// Absolute; take it from [`crate::Sandbox::inside`].
    pub inside: PathBuf,
}

/// An image that is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub engine: Engine,
    /// As [`Engine::have`] gives it: what a name means may change between two runs.
    pub id: String,
}

/// Everything about one run. [`Command::new`] takes what has no sane default; the other fields may then be set.
#[derive(Clone)]
pub struct Command {
    pub program: Program,
    /// Whose run it is (a job's key): letters, digits, `.`, `_`, `-`, `:`. [`crate::Sandbox::reap_stale`] takes it.
    pub label: String,
    pub workspace: Workspace,
    pub limits: Limits,
    /// Relative to the workspace's tree, without `..`.
    pub cwd: PathBuf,
    /// The command's whole environment besides HOME, PATH, TMPDIR, LANG, and what the toolchains need.
    pub env: BTreeMap<String, String>,
    pub toolchains: Toolchains,
    /// Mounted read-only at the same path.
    pub read_only: Vec<PathBuf>,
    pub read_write: Vec<Bind>,
    /// False cuts the network off in bubblewrap and in a container; the process-group kind cannot.
    pub network: bool,
    /// Runs it in a container of this image instead: the image's own programs and variables, none of the toolchains; tree
    /// and home where bubblewrap has them; everything else read-only but a `/tmp` in memory. The image needs `sh`.
    pub image: Option<Image>,
    /// Live lines. A full channel holds the command back, so keep reading.
    pub output: Option<mpsc::Sender<Line>>,
    /// Receives all lines up to the output limit; replaced if it exists.
    pub log_file: Option<PathBuf>,
    /// Takes secrets out of all that is printed, before it is cut into lines.
    pub redactor: Redactor,
    pub cancel: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line of output without its line end; invalid UTF-8 is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub stream: Stream,
    pub text: String,
}

/// How it ended. After all but the first two, every process of the run was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Exited(i32),
    /// By a signal, also where a shell reports one as 128 + n: bubblewrap cannot tell them apart, so no kind does.
    Signalled(i32),
    TimedOut,
    MemoryExceeded,
    ProcessesExceeded,
    OutputExceeded,
    Cancelled,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub ending: Ending,
    pub wall: Duration,
    /// The highest value seen by polling; a short peak may be missed.
    pub memory_peak_bytes: u64,
    pub processes_peak: u32,
    pub output_bytes: u64,
    /// The last lines of both streams, at most [`Outcome::TAIL_LINES`].
    pub tail: Vec<String>,
    /// Processes that outlived SIGKILL by five seconds because they hang in the kernel; empty but for broken machines.
    pub survivors: Vec<i32>,
}

impl Outcome {
    pub const TAIL_LINES: usize = 50;

    pub fn succeeded(&self) -> bool {
        self.ending == Ending::Exited(0)
    }
}

impl Command {
    pub fn new(label: impl Into<String>, program: Program, workspace: Workspace, limits: Limits) -> Self {
        Self {
            program,
            label: label.into(),
            workspace,
            limits,
            cwd: PathBuf::new(),
            env: BTreeMap::new(),
            toolchains: Toolchains::default(),
            read_only: Vec::new(),
            read_write: Vec::new(),
            network: false,
            image: None,
            output: None,
            log_file: None,
            redactor: Redactor::default(),
            cancel: CancellationToken::new(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), SandboxError> {
        check_name("label", &self.label)?;
        self.limits.check()?;
        let words: &[String] = match &self.program {
            Program::Argv(argv) => argv,
            Program::Shell(line) => std::slice::from_ref(line),
        };
        check_words(words)?;
        check_env(&self.env)?;
        if !self.cwd.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(invalid("cwd", "a relative path without `..`", self.cwd.display()));
        }
        check_folder("workspace.tree", &self.workspace.tree)?;
        check_absolute("workspace.home", &self.workspace.home)?;
        for path in &self.read_only {
            check_absolute("read_only", path)?;
        }
        for bind in &self.read_write {
            check_absolute("read_write.host", &bind.host)?;
            check_absolute("read_write.inside", &bind.inside)?;
        }
        Ok(())
    }
}

impl Limits {
    pub(crate) fn check(&self) -> Result<(), SandboxError> {
        let zero = self.time.is_zero()
            || self.memory_bytes == 0
            || self.processes == 0
            || self.output_bytes == 0
            || self.line_bytes == 0
            || self.file_bytes == 0
            || self.open_files == 0;
        if zero {
            return Err(invalid("limits", "every limit above zero", format!("{self:?}")));
        }
        Ok(())
    }
}

impl fmt::Debug for Command {
    /// Without the values of the environment: they may be secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Command")
            .field("label", &self.label)
            .field("program", &self.program)
            .field("workspace", &self.workspace)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("network", &self.network)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

pub(crate) fn invalid(what: &'static str, expected: &'static str, came: impl fmt::Display) -> SandboxError {
    SandboxError::Invalid { what, expected, came: format!("`{came}`") }
}

/// Names become part of markers that are matched by prefix, so they must not hold the separator.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), SandboxError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
    if name.is_empty() || name.len() > 200 || !name.chars().all(plain) {
        return Err(invalid(what, "1 to 200 letters, digits, `.`, `_`, `-`, `:`", name));
    }
    Ok(())
}

pub(crate) fn check_words(words: &[String]) -> Result<(), SandboxError> {
    if words.first().is_none_or(String::is_empty) || words.iter().any(|word| word.contains('\0')) {
        return Err(invalid("program", "a program, and no NUL byte", words.join(" ")));
    }
    Ok(())
}

pub(crate) fn check_env(env: &BTreeMap<String, String>) -> Result<(), SandboxError> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid("env", "a name without `=`, and no NUL byte", name));
        }
        if name.starts_with("LOTA_RUN_") || name.starts_with("LOTA_APP_") {
            return Err(invalid("env", "a name that is not one of the sandbox's own markers", name));
        }
    }
    Ok(())
}

pub(crate) fn check_absolute(what: &'static str, path: &Path) -> Result<(), SandboxError> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // Valid UTF-8, so that a path can be shown, put into a variable and into a record without loss.
    if !path.is_absolute() || !plain || path == Path::new("/") || path.to_str().is_none_or(|text| text.contains('\0')) {
        return Err(invalid(what, "an absolute path below `/` in UTF-8, without `..`", path.display()));
    }
    Ok(())
}

pub(crate) fn check_folder(what: &'static str, path: &Path) -> Result<(), SandboxError> {
    check_absolute(what, path)?;
    if !path.is_dir() {
        return Err(invalid(what, "a folder that exists", path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(program: Program) -> Command {
        let workspace = Workspace { tree: "/tmp".into(), home: "/tmp/home".into() };
        let limits = Limits {
            time: Duration::from_secs(1),
            memory_bytes: 1,
            processes: 1,
            output_bytes: 1,
            line_bytes: 1,
            file_bytes: 1,
            open_files: 1,
        };
        Command::new("job-1", program, workspace, limits)
    }

    #[test]
    fn a_plain_command_is_accepted() {
        assert!(command(Program::Shell("true".into())).check().is_ok());
    }

    #[test]
    fn what_would_break_out_is_refused() {
        let refuse = |change: fn(&mut Command)| {
            let mut bad = command(Program::Shell("true".into()));
            change(&mut bad);
            assert!(bad.check().is_err(), "{bad:?}");
        };
        refuse(|c| c.cwd = "../elsewhere".into());
        refuse(|c| c.cwd = "/etc".into());
        refuse(|c| c.label = "a/b".into());
        refuse(|c| c.program = Program::Argv(vec![]));
        refuse(|c| c.limits.memory_bytes = 0);
        refuse(|c| drop(c.env.insert("A=B".into(), String::new())));
        refuse(|c| drop(c.env.insert("LOTA_RUN_ID".into(), String::new())));
        refuse(|c| c.workspace.tree = "/nowhere-at-all".into());
        refuse(|c| c.read_only.push("/".into()));
    }

    #[test]
    fn debug_hides_values() {
        let mut secret = command(Program::Shell("true".into()));
        secret.env.insert("TOKEN".into(), "canary".into());
        assert!(!format!("{secret:?}").contains("canary"));
    }
}
