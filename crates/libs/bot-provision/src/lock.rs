//! A file lock between processes, awaited without blocking the runtime. The kernel frees it when its holder ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Progress;

const LOOK_EVERY: Duration = Duration::from_millis(100);
const TELL_EVERY: Duration = Duration::from_secs(3);

/// Held until it is dropped.
pub(crate) struct FileLock(#[expect(dead_code, reason = "held for its Drop")] File);

/// Waits up to `limit` for the lock on `path`, which is created when missing.
pub(crate) async fn lock(path: &Path, limit: Duration, what: &str, progress: Progress<'_>) -> io::Result<FileLock> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    let begun = Instant::now();
    let mut told = begun;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(FileLock(file)),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if begun.elapsed() > limit => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("another process holds {} for over {limit:?}", path.display()),
                ));
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if told.elapsed() > TELL_EVERY {
            told = Instant::now();
            progress(&format!("waiting for another process that {what}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
