//! docker or podman, whichever answers: commands with a deadline, and whom a container's processes are outside of it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ContainerError;
use crate::Progress;
use crate::command::{CommandError, last_lines, run};

/// An engine whose daemon hangs is one that does not answer.
const INFO_LIMIT: Duration = Duration::from_secs(10);
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// 250 MB.
const PULL_LIMIT: Duration = Duration::from_mins(8);
const LINES_SHOWN: usize = 4;

/// Each engine, and the question whose answer holds the word.
const ENGINES: [(&str, &str, &str); 2] =
    [("docker", "{{json .SecurityOptions}}", "rootless"), ("podman", "{{.Host.Security.Rootless}}", "true")];

/// A container engine that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    program: String,
    /// Runs without root's rights: root of its containers is the user who started it.
    rootless: bool,
}

impl Engine {
    /// docker, else podman. The error says of each what it lacked.
    pub async fn find() -> Result<Self, ContainerError> {
        let mut lacking = Vec::new();
        for (program, question, word) in ENGINES {
            match call(program, &["info", "--format", question], INFO_LIMIT, &|_| ()).await {
                Ok(answer) => return Ok(Self { program: program.to_owned(), rootless: answer.contains(word) }),
                Err(why) => lacking.push(format!("{program}: {why}")),
            }
        }
        Err(ContainerError::NoEngine(lacking.join("; ")))
    }

    /// The command's name.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// `user:group` inside a container that is this process's user and group outside, so that files of mode 0600 can
    /// be shared with it and what it writes can be deleted.
    pub(super) fn own_user(&self) -> String {
        if self.rootless {
            return "0:0".to_owned();
        }
        format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid())
    }

    /// Standard output of a command that has to succeed.
    pub(super) async fn run(&self, args: &[&str]) -> Result<String, ContainerError> {
        call(&self.program, args, CALL_LIMIT, &|_| ()).await.map_err(|outcome| ContainerError::Command {
            command: format!("{} {}", self.program, args.first().copied().unwrap_or_default()),
            outcome,
        })
    }

    /// Fetches `image` unless it is here.
    pub(super) async fn have(&self, image: &str, progress: Progress<'_>) -> Result<(), ContainerError> {
        if self.run(&["image", "inspect", "--format", "{{.Id}}", image]).await.is_ok() {
            return Ok(());
        }
        progress(&format!("{} fetches {image}", self.program));
        let pulled = call(&self.program, &["pull", "--quiet", image], PULL_LIMIT, progress).await;
        pulled.map(drop).map_err(|outcome| {
            let (program, image) = (self.program.clone(), image.to_owned());
            ContainerError::Image { program, image, outcome }
        })
    }
}

/// Standard output, or what went wrong.
async fn call(program: &str, args: &[&str], limit: Duration, progress: Progress<'_>) -> Result<String, String> {
    match run(program, args, Path::new("/"), Instant::now() + limit, progress).await {
        Ok(finished) if finished.status.success() => Ok(finished.stdout),
        Ok(finished) => Err(format!("ended with {}: {}", finished.status, last_lines(&finished.stderr, LINES_SHOWN))),
        Err(CommandError::NotFound) => Err("not installed".to_owned()),
        Err(CommandError::TimedOut) => Err(format!("no answer within {} s", limit.as_secs())),
        Err(CommandError::Io(error)) => Err(error.to_string()),
    }
}
