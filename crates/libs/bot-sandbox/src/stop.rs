//! A served application after its start: found again, watched, stopped. Starting one lives in `serve`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{fcntl::OFlag, sys::signal::Signal};
use serde::{Deserialize, Serialize};
use tokio::task;

use crate::{
    Ending, Sandbox, SandboxError, SandboxKind, ServeLimits,
    command::check_name,
    family::{APP_MARKER, Family, KILL_WAIT, Marker},
    proc::{self, Identity},
    weigh::weigh,
};

/// What the record file says: enough to know the process again after any crash but a reboot, which ends it anyway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) pid: i32,
    pub(crate) start: u64,
    pub(crate) boot: String,
}

/// The part that is known before the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) bubblewrap: bool,
    /// Missing in records of older versions.
    #[serde(default)]
    pub(crate) landlock: bool,
    pub(crate) log_file: PathBuf,
    pub(crate) memory_bytes: u64,
    pub(crate) processes: u32,
    pub(crate) log_bytes: u64,
}

/// A managed application. Dropping it does nothing: the application goes on.
#[derive(Clone, Debug)]
pub struct Served {
    record: Record,
    path: PathBuf,
}

/// What the whole application uses now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub memory_bytes: u64,
    /// Threads included.
    pub processes: u32,
}

impl Served {
    /// Takes up an application that was served before. `None` if there is no record, or the process it names has ended:
    /// pid, start time and boot must all match, so that a stranger with the same pid is never taken for it.
    pub fn adopt(record: &Path) -> Result<Option<Self>, SandboxError> {
        Ok(Self::read(record)?.filter(Self::is_running))
    }

    pub(crate) fn read(path: &Path) -> Result<Option<Self>, SandboxError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(SandboxError::io(format!("read the record {}", path.display()))(error));
            }
        };
        let record =
            serde_json::from_str(&text).map_err(|source| SandboxError::BadRecord { path: path.to_owned(), source })?;
        Ok(Some(Self { record, path: path.to_owned() }))
    }

    pub fn id(&self) -> &str {
        &self.record.head.id
    }

    /// The process the record names; in bubblewrap that is bwrap itself, outside.
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    pub fn log_file(&self) -> &Path {
        &self.record.head.log_file
    }

    pub fn kind(&self) -> SandboxKind {
        match (self.record.head.bubblewrap, self.record.head.landlock) {
            (true, _) => SandboxKind::Bubblewrap,
            (false, true) => SandboxKind::Landlock,
            (false, false) => SandboxKind::ProcessGroup,
        }
    }

    pub fn limits(&self) -> ServeLimits {
        let Head { memory_bytes, processes, log_bytes, .. } = self.record.head;
        ServeLimits { memory_bytes, processes, log_bytes }
    }

    pub fn is_running(&self) -> bool {
        let process = proc::read(self.record.pid);
        self.record.boot == proc::boot_id()
            && process.is_some_and(|process| process.identity == self.identity() && process.is_alive())
    }

    fn identity(&self) -> Identity {
        Identity { pid: self.record.pid, start: self.record.start }
    }

    /// The marker finds what left the process tree; the recorded process counts only if it is still the same.
    fn family(&self) -> Family {
        let leader = self.is_running().then(|| self.identity());
        let family = Family::new(Marker::exact(APP_MARKER, self.id()), leader);
        if self.kind() == SandboxKind::Landlock { family.led_by_its_adopter() } else { family }
    }

    pub async fn usage(&self) -> Result<Usage, SandboxError> {
        let mut family = self.family();
        let Head { memory_bytes, processes, .. } = self.record.head;
        let kind = self.kind();
        let (memory_bytes, processes) =
            beside(move || weigh(&mut family, memory_bytes, processes, kind.into())).await?;
        Ok(Usage { memory_bytes, processes })
    }

    /// For whoever supervises, every few seconds: cuts the log, and kills an application that is over its memory or
    /// processes, saying which.
    pub async fn enforce_limits(&self) -> Result<Option<Ending>, SandboxError> {
        let (log, log_max) = (self.record.head.log_file.clone(), self.record.head.log_bytes);
        let trimmed = beside(move || rotate(&log, log_max)).await?;
        trimmed.map_err(SandboxError::io(format!("cut the log {}", self.log_file().display())))?;
        let usage = self.usage().await?;
        let over = if usage.memory_bytes > self.record.head.memory_bytes {
            Ending::MemoryExceeded
        } else if usage.processes > self.record.head.processes {
            Ending::ProcessesExceeded
        } else {
            return Ok(None);
        };
        self.stop(Duration::ZERO).await?;
        Ok(Some(over))
    }

    /// SIGTERM to all of it, and SIGKILL to what is left after `grace`; then removes the record.
    pub async fn stop(&self, grace: Duration) -> Result<(), SandboxError> {
        let mut family = self.family();
        let survivors = beside(move || end(&mut family, grace)).await?;
        if !survivors.is_empty() {
            return Err(SandboxError::StillAlive { pids: survivors });
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SandboxError::io(format!("remove {}", self.path.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

impl Sandbox {
    /// Stops whatever carries an application's id, for when its record is missing or broken. Returns how many
    /// processes there were.
    pub async fn stop_by_id(&self, id: &str, grace: Duration) -> Result<usize, SandboxError> {
        check_name("id", id)?;
        let mut family = Family::new(Marker::exact(APP_MARKER, id), None);
        let (found, survivors) = beside(move || (living(&mut family), end(&mut family, grace))).await?;
        if survivors.is_empty() { Ok(found) } else { Err(SandboxError::StillAlive { pids: survivors }) }
    }
}

fn end(family: &mut Family, grace: Duration) -> Vec<i32> {
    if !grace.is_zero() {
        // bwrap's outer process ends at once, without taking the inner ones along: they were not started to die with it.
        family.signal(Signal::SIGTERM, &[]);
        let deadline = Instant::now() + grace;
        while living(family) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }
    family.kill_all(KILL_WAIT)
}

pub(crate) fn living(family: &mut Family) -> usize {
    family.census().iter().filter(|member| member.is_alive()).count()
}

/// Reads of /proc and waits block, so they happen beside the runtime's own threads.
pub(crate) async fn beside<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Result<T, SandboxError> {
    task::spawn_blocking(act)
        .await
        .map_err(|error| SandboxError::Io { doing: "look after processes".to_owned(), source: error.into() })
}

/// Keeps the newest half in `<log>.1`. The application appends, so it goes on at the start of the emptied file.
fn rotate(log: &Path, log_max: u64) -> io::Result<()> {
    let open = |options: &mut OpenOptions| options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits()).open(log);
    let mut file = match open(OpenOptions::new().read(true).write(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let length = file.metadata()?.len();
    if length <= log_max {
        return Ok(());
    }
    file.seek(SeekFrom::Start(length.saturating_sub(log_max / 2)))?;
    let mut older = log.as_os_str().to_owned();
    older.push(".1");
    let _ = fs::remove_file(&older);
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(PathBuf::from(older))?;
    io::copy(&mut Read::by_ref(&mut file).take(log_max), &mut copy)?;
    File::set_len(&file, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_over_its_limit_is_cut() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("app.log");
        fs::write(&log, "0123456789").expect("written");
        rotate(&log, 10).expect("within");
        assert_eq!(fs::read_to_string(&log).expect("there"), "0123456789");
        rotate(&log, 8).expect("cut");
        assert_eq!(fs::read_to_string(&log).expect("there"), "");
        assert_eq!(fs::read_to_string(folder.path().join("app.log.1")).expect("there"), "6789");
    }
}
