//! One short-lived command with a deadline, its output kept within bounds and told as progress. For what lives on,
//! see the node's own process module.
#![allow(clippy::disallowed_methods, reason = "the home of this crate's short-lived commands")]

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::Progress;

const OUTPUT_BYTES_MAX: u64 = 8 * 1024 * 1024;
const TELL_EVERY: Duration = Duration::from_secs(3);

pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    /// Both streams, line by line.
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("the program is not there")]
    NotFound,
    #[error("it was still running when its time was over, so it was ended")]
    TimedOut,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs `program` in `dir` until `deadline`; then its whole process group is killed.
pub(crate) async fn run(
    program: &str,
    args: &[&str],
    dir: &Path,
    deadline: Instant,
    progress: Progress<'_>,
) -> Result<Finished, CommandError> {
    let mut child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CommandError::NotFound,
            _ => CommandError::Io(error),
        })?;
    // Downloaders that apt starts would otherwise outlive it; also when nobody waits any more.
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
    let (lines, mut heard) = mpsc::channel(64);
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let work = async {
        let reading_stdout = collect(stdout, lines.clone());
        let reading_stderr = collect(stderr, lines);
        let (stdout, stderr, status) = tokio::join!(reading_stdout, reading_stderr, child.wait());
        Ok::<_, io::Error>(Finished { status: status?, stdout: stdout?, stderr: stderr? })
    };
    let telling = async {
        let begun = Instant::now();
        let mut last = String::new();
        let mut tick = tokio::time::interval(TELL_EVERY);
        tick.tick().await;
        loop {
            tokio::select! {
                Some(line) = heard.recv() => last = line,
                _ = tick.tick() => progress(&format!("{program}, {} s: {last}", begun.elapsed().as_secs())),
            }
        }
    };
    let ended = tokio::select! {
        finished = work => Some(finished),
        () = telling => None,
        () = tokio::time::sleep_until(deadline.into()) => None,
    };
    let Some(finished) = ended else {
        return Err(CommandError::TimedOut);
    };
    // It was waited for, so its number is free for others.
    group.0 = None;
    Ok(finished?)
}

/// Ends a process group with its value.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

async fn collect(stream: Option<impl AsyncRead + Unpin>, lines: mpsc::Sender<String>) -> io::Result<String> {
    let mut all = String::new();
    let Some(stream) = stream else {
        return Ok(all);
    };
    let mut reader = BufReader::new(stream.take(OUTPUT_BYTES_MAX));
    let mut raw = Vec::new();
    while reader.read_until(b'\n', &mut raw).await? > 0 {
        let line = String::from_utf8_lossy(&raw);
        all.push_str(&line);
        // A full channel only means that this line is not the one shown.
        let _ = lines.try_send(line.trim().to_owned());
        raw.clear();
    }
    Ok(all)
}

/// The last `count` lines that say something, for error messages.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
