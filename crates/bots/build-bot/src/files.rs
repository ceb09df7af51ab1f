//! Files that the bot keeps for later builds: how they are named by what they stand for, and which go when there are too
//! many.
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use sha2::{Digest, Sha256};

/// One of them.
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) used: SystemTime,
    pub(crate) size: u64,
}

/// Those in a folder; none where there is no folder.
pub(crate) fn entries_of(folder: &Path) -> Vec<Entry> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let entry = |file: fs::DirEntry| {
        let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
        Some(Entry { path: file.path(), used: meta.modified().ok()?, size: meta.len() })
    };
    files.filter_map(entry).collect()
}

/// Removes the least recently used until the rest has no more bytes than that.
pub(crate) fn make_room(mut entries: Vec<Entry>, bytes_max: u64) {
    entries.sort_by_key(|entry| entry.used);
    let mut bytes: u64 = entries.iter().map(|entry| entry.size).sum();
    for entry in entries {
        if bytes <= bytes_max {
            return;
        }
        match fs::remove_file(&entry.path) {
            Ok(()) => bytes -= entry.size,
            Err(e) => tracing::warn!(entry = %entry.path.display(), "cannot be removed: {e}"),
        }
    }
}

/// Removes the least recently used in a folder until there is room for one more.
pub(crate) fn make_room_for(folder: &Path, count_max: usize) {
    let mut entries = entries_of(folder);
    entries.sort_by_key(|entry| entry.used);
    let surplus = (entries.len() + 1).saturating_sub(count_max);
    for entry in entries.into_iter().take(surplus) {
        if let Err(e) = fs::remove_file(&entry.path) {
            tracing::warn!(entry = %entry.path.display(), "cannot be removed: {e}");
        }
    }
}

/// Its time of change says when an entry was used last. Setting a length sets it too, also to the length there is.
pub(crate) fn touch(entry: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(entry)?;
    file.set_len(file.metadata()?.len())
}

/// Of several texts, none of which runs into the next.
pub(crate) fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())[..32].to_owned()
}

/// Of a file's content.
pub(crate) fn digest_of(file: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(file)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            return Ok(hex::encode(hash.finalize())[..32].to_owned());
        }
        hash.update(&buffer[..got]);
    }
}
