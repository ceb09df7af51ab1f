//! The store's directory: who may look into it, and the lock that keeps a second process out.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::model::StoreError;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const LOCK_FILE: &str = "store.lock";
const DATABASE_FILE: &str = "store.db";
/// The database and, under `SQLite`'s own names, the files beside it.
const DATABASE_FILES: [&str; 3] = [DATABASE_FILE, "store.db-wal", "store.db-shm"];

/// The store is ours while this lives. The file stays: deleting it would let two processes lock two files.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child between fork and exec has the descriptor too, and would keep the lock.
        let _ = self.0.unlock();
    }
}

/// Prepares the directory and takes the lock.
pub(crate) fn take(dir: &Path) -> Result<Lock, StoreError> {
    prepare(dir).map_err(|error| unusable(dir, error.to_string()))?;
    let file = open_private(&dir.join(LOCK_FILE)).map_err(|error| unusable(dir, format!("{LOCK_FILE}: {error}")))?;
    lock(file, dir)
}

/// The same, with a file for the database: where that is.
pub(crate) fn take_with_database(dir: &Path) -> Result<(Lock, PathBuf), StoreError> {
    let lock = take(dir)?;
    let database = create_database(dir).map_err(|error| unusable(dir, format!("{DATABASE_FILE}: {error}")))?;
    Ok((lock, database))
}

fn unusable(dir: &Path, why: String) -> StoreError {
    StoreError::Directory { dir: dir.display().to_string(), why }
}

fn lock(file: File, dir: &Path) -> Result<Lock, StoreError> {
    let unusable = |error: io::Error| {
        unusable(dir, format!("{LOCK_FILE} cannot be locked: {error}; use a local file system with space on it"))
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Without a readable number the refusal stands all the same.
            let _ = file.take(32).read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
            return Err(StoreError::InUse { dir: dir.display().to_string(), pid: pid.to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    let lock = Lock(file);
    let mut file = &lock.0;
    file.set_len(0).map_err(unusable)?;
    writeln!(file, "{}", std::process::id()).map_err(unusable)?;
    Ok(lock)
}

fn prepare(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        // The umask may have taken more away than we meant.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(DIR_MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => narrow(dir),
        Err(error) => Err(error),
    }
}

/// An existing directory is made private where it is plainly meant for us: ours, and empty or a store already. One
/// that holds other things keeps its mode (it may be `/var`), but is refused where everyone may write.
fn narrow(dir: &Path) -> io::Result<()> {
    let found = fs::metadata(dir)?;
    if !found.is_dir() {
        return Err(io::Error::other("it is not a directory; name one that the bot may create"));
    }
    let ours = found.uid() == nix::unistd::geteuid().as_raw();
    if ours && (dir.join(LOCK_FILE).exists() || fs::read_dir(dir)?.next().is_none()) {
        return fs::set_permissions(dir, Permissions::from_mode(DIR_MODE));
    }
    if found.mode() & 0o002 != 0 {
        return Err(io::Error::other(
            "everyone may write there; name a directory below it, which the bot then creates for itself",
        ));
    }
    Ok(())
}

fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let file = options.open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// `SQLite` gives the log and its index the database's mode, so that one is made before `SQLite` sees it. An existing
/// database is never opened here: closing it would drop the locks that `SQLite` holds on it in this process.
fn create_database(dir: &Path) -> io::Result<PathBuf> {
    let database = dir.join(DATABASE_FILE);
    if !database.exists() {
        drop(open_private(&database)?);
        File::open(dir)?.sync_all()?;
    }
    for name in DATABASE_FILES {
        match fs::set_permissions(dir.join(name), Permissions::from_mode(FILE_MODE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(database)
}
