//! Careful looks into a source tree that anyone may have written: bounded, and never through a link.
use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use walkdir::WalkDir;

/// A manifest, lock file or makefile larger than this is not looked into further.
const LOOK_BYTES_MAX: u64 = 8 << 20;
/// Files and folders that a search passes.
const SEARCH_ENTRIES_MAX: usize = 20_000;

pub(super) fn is_file(root: &Path, name: &str) -> bool {
    fs::symlink_metadata(root.join(name)).is_ok_and(|meta| meta.is_file())
}

pub(super) fn is_folder(root: &Path, name: &str) -> bool {
    fs::symlink_metadata(root.join(name)).is_ok_and(|meta| meta.is_dir())
}

/// The first of these that is there.
pub(super) fn first_file<'a>(root: &Path, names: &[&'a str]) -> Option<&'a str> {
    names.iter().copied().find(|name| is_file(root, name))
}

/// Its text, or none where it cannot be read: then it is as good as empty.
pub(super) fn text(root: &Path, name: &str) -> String {
    if !is_file(root, name) {
        return String::new();
    }
    let bytes = read_at_most(&root.join(name), LOOK_BYTES_MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn read_at_most(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first file below a folder whose name fits, relative to the root. Hidden folders and those of dependencies are
/// passed over.
pub(super) fn find_file(root: &Path, below: &str, depth: usize, fits: impl Fn(&Path, &str) -> bool) -> Option<String> {
    let ours = |name: &str| !name.starts_with('.') && !["node_modules", "vendor", "target"].contains(&name);
    let walk = WalkDir::new(root.join(below)).max_depth(depth).sort_by_file_name().into_iter();
    let walk =
        walk.filter_entry(|e| e.depth() == 0 || !e.file_type().is_dir() || e.file_name().to_str().is_some_and(ours));
    let files = walk.take(SEARCH_ENTRIES_MAX).flatten().filter(|entry| entry.file_type().is_file());
    let mut found = files.filter(|entry| entry.file_name().to_str().is_some_and(|name| fits(entry.path(), name)));
    let path = found.next()?.into_path();
    path.strip_prefix(root).ok()?.to_str().map(str::to_owned)
}
