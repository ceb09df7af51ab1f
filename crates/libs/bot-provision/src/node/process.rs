//! Processes that outlive a call: started in a session of their own, known by pid and start time, ended by pid.
#![allow(clippy::disallowed_methods, reason = "the home of this crate's long-lived processes")]

use std::io;
use std::process::Command;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::NodeError;

const LOOK_EVERY: Duration = Duration::from_millis(50);
const ASK_EVERY: Duration = Duration::from_secs(2);

/// A process that a recycled pid is not mistaken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// Clock ticks after boot, field 22 of /proc/<pid>/stat.
    pub start_time_ticks: u64,
}

/// A process that this process started.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) id: ProcessId,
    ended: Arc<OnceLock<String>>,
}

impl Spawned {
    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<String> {
        self.ended.get().cloned()
    }
}

/// A command to which the program and its arguments are yet to be added. In a session of its own (setsid), so that
/// Ctrl-C and a closed terminal leave it alone. With `die_with_parent` the kernel kills it when this process ends; that
/// survives every exec on the way to what finally runs.
pub(super) fn detached(die_with_parent: bool) -> Command {
    let mut command = Command::new("setsid");
    if die_with_parent {
        command.args(["setpriv", "--pdeathsig", "KILL"]);
    }
    command
}

/// Starts `command` from a thread that lives as long as the process does: the kernel's parent-death signal is tied
/// to the *thread* that forked, and a runtime's threads come and go. The thread also reaps it.
pub(super) fn spawn(mut command: Command) -> io::Result<Spawned> {
    let (tell, told) = mpsc::channel();
    let ended = Arc::new(OnceLock::new());
    let report = Arc::clone(&ended);
    thread::Builder::new().name("node-keeper".to_owned()).spawn(move || {
        let started = command.spawn().and_then(|child| {
            let start_time_ticks = start_time(child.id())
                .ok_or_else(|| io::Error::other("it ended at once: /proc does not know it any more"))?;
            Ok((ProcessId { pid: child.id(), start_time_ticks }, child))
        });
        match started {
            Ok((id, mut child)) => {
                let _ = tell.send(Ok(id));
                let how = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                let _ = report.set(how);
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    })?;
    let id = told.recv().map_err(io::Error::other)??;
    Ok(Spawned { id, ended })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    /// SIGTERM first, SIGKILL when the limit is over.
    Ask,
    Kill,
}

/// Ends the process and returns when it is gone: `false` if asking did not help and it was killed.
pub(super) async fn end(id: ProcessId, how: Stopping, limit: Duration) -> Result<bool, NodeError> {
    if how == Stopping::Ask {
        if !is_alive(id) {
            return Ok(true);
        }
        if asked(id, limit).await {
            // A script that was asked before it became the node leaves behind what it was waiting for.
            let _ = killpg(pid_of(id), Signal::SIGKILL);
            return Ok(true);
        }
        tracing::warn!(pid = id.pid, "still running after SIGTERM and {limit:?}: killing it");
    }
    kill_now(id);
    if gone_within(id, limit).await {
        return Ok(how == Stopping::Kill);
    }
    Err(NodeError::Unkillable { pid: id.pid, seconds: limit.as_secs() })
}

/// SIGKILL to the whole group, without waiting.
pub(super) fn kill_now(id: ProcessId) {
    if is_alive(id) && killpg(pid_of(id), Signal::SIGKILL) == Err(Errno::ESRCH) {
        let _ = kill(pid_of(id), Signal::SIGKILL);
    }
}

pub(super) fn is_alive(id: ProcessId) -> bool {
    start_time(id.pid) == Some(id.start_time_ticks)
}

/// SIGTERM until it is gone or `limit` is over. Only to the leader: Erlang's helpers end with their node. More than once,
/// since for its first second RabbitMQ listens to no signal and forgets it.
async fn asked(id: ProcessId, limit: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if is_alive(id) {
            let _ = kill(pid_of(id), Signal::SIGTERM);
        }
        if gone_within(id, ASK_EVERY.min(limit)).await {
            return true;
        }
    }
    false
}

async fn gone_within(id: ProcessId, limit: Duration) -> bool {
    let begun = Instant::now();
    while is_alive(id) {
        if begun.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

fn pid_of(id: ProcessId) -> Pid {
    Pid::from_raw(id.pid.cast_signed())
}

/// None for a process that is not there or that nobody has reaped yet.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(program: &[&str]) -> Spawned {
        let mut command = detached(false);
        command.args(program);
        spawn(command).unwrap()
    }

    #[tokio::test]
    async fn what_ends_when_asked_is_not_killed() {
        let polite = start(&["sleep", "60"]);
        assert!(is_alive(polite.id));
        assert!(end(polite.id, Stopping::Ask, Duration::from_secs(5)).await.unwrap());
    }

    #[tokio::test]
    async fn what_ignores_asking_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("deaf");
        // The file says that from now on the shell ignores the signal.
        let script = "trap '' TERM; touch \"$0\"; sleep 60; sleep 60";
        let deaf = start(&["sh", "-c", script, ready.to_str().unwrap()]);
        while !ready.exists() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        assert!(!end(deaf.id, Stopping::Ask, Duration::from_millis(300)).await.unwrap());
        assert!(!is_alive(deaf.id));
    }

    #[tokio::test]
    async fn what_forgets_that_it_was_asked_is_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("forgetful");
        let script = "trap 'trap - TERM' TERM; touch \"$0\"; while :; do sleep 0.1; done";
        let forgetful = start(&["sh", "-c", script, ready.to_str().unwrap()]);
        while !ready.exists() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        assert!(end(forgetful.id, Stopping::Ask, Duration::from_secs(30)).await.unwrap());
    }

    #[tokio::test]
    async fn what_a_script_was_waiting_for_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("child");
        let script = "sleep 60 & echo $! > \"$0\"; wait";
        let leader = start(&["sh", "-c", script, file.to_str().unwrap()]);
        let child = loop {
            let pid = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            if let Some(id) = pid.and_then(|pid| Some(ProcessId { pid, start_time_ticks: start_time(pid)? })) {
                break id;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        assert!(end(leader.id, Stopping::Ask, Duration::from_secs(30)).await.unwrap());
        assert!(gone_within(child, Duration::from_secs(5)).await);
    }

    /// Where the test below lets its child write whom it started.
    const CHILD_FILE: &str = "LOTA_TEST_CHILD_FILE";

    #[tokio::test]
    async fn with_its_parent_a_process_dies_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("child.json");
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "node::process::tests::parent_that_is_killed", "--ignored"])
            .env(CHILD_FILE, &file)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let child: ProcessId = loop {
            let text = std::fs::read(&file).unwrap_or_default();
            if let Ok(child) = serde_json::from_slice(&text) {
                break child;
            }
            assert!(parent.try_wait().unwrap().is_none(), "it ended before it was killed");
            tokio::time::sleep(LOOK_EVERY).await;
        };
        assert!(is_alive(child));
        parent.kill().unwrap();
        parent.wait().unwrap();
        assert!(gone_within(child, Duration::from_secs(5)).await);
    }

    #[test]
    #[ignore = "not a test: the process that the test above kills"]
    fn parent_that_is_killed() {
        let Some(file) = std::env::var_os(CHILD_FILE) else {
            return;
        };
        let mut command = detached(true);
        command.args(["sleep", "60"]);
        let child = spawn(command).unwrap();
        std::fs::write(file, serde_json::to_vec(&child.id).unwrap()).unwrap();
        thread::sleep(Duration::from_mins(1));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let pid = std::process::id();
        let start_time_ticks = start_time(pid).unwrap();
        assert!(is_alive(ProcessId { pid, start_time_ticks }));
        assert!(!is_alive(ProcessId { pid, start_time_ticks: start_time_ticks + 1 }));
    }
}
