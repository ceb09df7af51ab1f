//! What can go wrong around a process. How a command itself ended is no error: see [`crate::Ending`].

use std::{io, path::PathBuf};

use crate::{EngineError, ProcessBound, SandboxKind};

/// Every message says what was expected, what came, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(
        "expected the program `{tool}` in one of {searched:?}, found none; install it (util-linux brings setsid, setpriv and prlimit, coreutils nice) or hand in the right folders in Options.path"
    )]
    ToolMissing { tool: &'static str, searched: Vec<PathBuf> },
    #[error("expected {expected}, got {came}; correct the {what}")]
    Invalid { what: &'static str, expected: &'static str, came: String },
    #[error("could not {doing}: {source}; check that the path exists and belongs to the user the bot runs as")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "expected the command to start, but the sandbox could not be set up; it said: {said:?}; run `bwrap` with the same mounts by hand, or let the bot use process groups"
    )]
    NotStarted { said: String },
    #[error("expected the sandbox {kind}, as was asked for; it cannot be had: {why}")]
    Unavailable { kind: SandboxKind, why: String },
    #[error(
        "expected room for a command's processes, but the kernel refuses them: they are bounded by {bound}, of which {seen} are seen here and others may be elsewhere; give each fleet a user of its own, raise the limit of processes (`ulimit -u`, LimitNPROC= of systemd), or let the container have one (`pids_limit` of Compose); it said: {said}"
    )]
    NoRoom { bound: ProcessBound, seen: u64, said: String },
    #[error(
        "expected the command to start in a container, but the engine said: {said}; the image needs `sh`, and has to be one of this machine's kind"
    )]
    NotStartedInImage { said: String },
    #[error("expected the image {name} to be made ready before the command, and it was not")]
    NoImage { name: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("application `{id}` is already served by process {pid}; adopt it or stop it first")]
    AlreadyServed { id: String, pid: i32 },
    #[error(
        "expected application `{id}` to write its record to {record:?} within {waited_ms} ms, it did not; see its log {log:?}"
    )]
    NoRecord { id: String, record: PathBuf, log: PathBuf, waited_ms: u128 },
    #[error(
        "expected a record of a served application in {path:?}, got something else: {source}; remove the file and stop the application by its id"
    )]
    BadRecord {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "expected all processes to be dead after SIGKILL, but {pids:?} are still there; they hang in the kernel: look at their state in /proc"
    )]
    StillAlive { pids: Vec<i32> },
}

impl SandboxError {
    /// Whether it is the machine's crowd, which passes, and nothing about the command or the bot.
    pub fn is_lack_of_room(&self) -> bool {
        matches!(self, Self::NoRoom { .. })
    }

    /// For `map_err`: says what was being done when the system refused.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
