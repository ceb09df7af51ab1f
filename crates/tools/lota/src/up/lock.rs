//! One supervisor a home: a file lock that names its holder and that the kernel frees when the holder ends, however.
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    exit::{Exit, OrExit},
    home::Home,
};

const FILE: &str = "lock";
/// Whoever only looks holds it for a moment, too.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Held until it is dropped.
pub(super) struct HomeLock(#[expect(dead_code, reason = "held for its Drop")] File);

impl HomeLock {
    /// Refused when another process has it.
    pub(super) async fn take(home: &Home) -> anyhow::Result<Self> {
        let path = home.join(FILE);
        let doing = || format!("cannot use {}", path.display());
        let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = options.with_context(doing).or_exit(Exit::Config)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(error).with_context(doing).or_exit(Exit::Config),
                Err(TryLockError::WouldBlock) if begun.elapsed() > PATIENCE => {
                    return Err(refusal(home, pid(&mut file)));
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).with_context(doing)?;
        Ok(Self(file))
    }

    /// Refused when another process has it; does not take it.
    pub(super) async fn is_free(home: &Home) -> anyhow::Result<()> {
        match Self::holder(home).await? {
            Some(pid) => Err(refusal(home, Some(pid))),
            None => Ok(()),
        }
    }

    /// The process that has it.
    pub(super) async fn holder(home: &Home) -> anyhow::Result<Option<u32>> {
        let path = home.join(FILE);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let begun = Instant::now();
        loop {
            match file.try_lock_shared() {
                Ok(()) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            // Between taking it and naming itself there is a moment.
            if let Some(pid) = pid(&mut file).filter(|pid| has_open(*pid, &file)) {
                return Ok(Some(pid));
            }
            if begun.elapsed() > PATIENCE {
                bail!("another process has {} and does not say which it is: see `fuser {0}`", path.display());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn refusal(home: &Home, pid: Option<u32>) -> anyhow::Error {
    let (home, pid) = (home.path().display(), pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()));
    Exit::Temporary.of(anyhow::anyhow!(
        "a fleet is up in {home} already, or starts or stops (process {pid}): see `lota --home {home} status`, stop it \
         with `lota --home {home} down`, or name another folder with --home"
    ))
}

/// The text alone may be of an earlier holder that was killed, and its number somebody else's by now.
fn has_open(pid: u32, file: &File) -> bool {
    let Ok(wanted) = file.metadata().map(|meta| (meta.dev(), meta.ino())) else {
        return false;
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::metadata(entry.path()).ok()).any(|meta| (meta.dev(), meta.ino()) == wanted)
}

fn pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
