//! Archives of file trees: reproducible `tar.zst` out, careful unpacking in ([`unpack`]). Synchronous: call from
//! `spawn_blocking`. Only regular files and symbolic links that stay inside the tree, ever.
mod beneath;
mod unpack;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Component, Path, PathBuf},
};

use beneath::Held;
use tar::{EntryType, Header};
use walkdir::WalkDir;

pub use beneath::open_beneath;
pub use unpack::{unpack, unpack_with};

/// Level 6 takes a third of the time of the default of other tools, for a few per cent of size.
const COMPRESSION_LEVEL: i32 = 6;

/// What one archive may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Files, links and folders.
    pub entries_max: u64,
    /// Bytes of all files, uncompressed.
    pub bytes_max: u64,
}

/// What was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Files and links.
    pub entries: u64,
    /// Bytes of all files, uncompressed.
    pub bytes: u64,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, links and folders.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// An archive was not made, or not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A name that is not one inside the tree.
    #[error("`{name}` does not stay inside the tree: expected a relative path without `..`")]
    Outside {
        /// As it came.
        name: String,
    },
    /// A link that leads out, or could.
    #[error(
        "the symbolic link `{name}` -> `{target}` may leave the tree: expected a relative target with `..` only at its beginning, and not above the top; make it such a link or leave it out"
    )]
    LinkLeaves {
        /// The link.
        name: String,
        /// Where it points.
        target: String,
    },
    /// Something lies in the way that is no folder: writing would go through it.
    #[error("`{name}` would be reached through `{through}`, which is not a folder")]
    ThroughLink {
        /// What was to be reached.
        name: String,
        /// What is in the way.
        through: String,
    },
    /// A hard link, a device, a pipe, a socket, a sparse file.
    #[error("`{name}` is {what}: expected regular files, folders and symbolic links alone")]
    Kind {
        /// Which.
        name: String,
        /// In words.
        what: &'static str,
    },
    /// Two entries of one name.
    #[error("`{name}` is in the archive twice")]
    Twice {
        /// Which.
        name: String,
    },
    /// Too many of something.
    #[error("more than {max} {what}: raise the limit or leave something out")]
    TooMuch {
        /// `entries` or `bytes`.
        what: &'static str,
        /// How many are allowed.
        max: u64,
    },
    /// No tar, no zstd, or damaged.
    #[error("the archive {path} cannot be read: {source}")]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// A file.
    #[error("could not {doing} {path}: {source}")]
    Io {
        /// A verb.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Packs files and symbolic links of `root`, named relative to it, into the `tar.zst` file `to`. The same names,
/// contents and executable bits give the same bytes: names are sorted, times are zero, modes are 644 or 755, owners
/// are nobody's.
pub fn pack(root: &Path, entries: &[PathBuf], to: &Path, limits: &ArchiveLimits) -> Result<Packed, ArchiveError> {
    let part = Part { below: Path::new(""), root, entries };
    pack_parts(&[part], to, limits, Times::Zero)
}

/// A part of an archive that is put together from several trees.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Where its entries lie in the archive; empty: at the top.
    pub below: &'a Path,
    /// Where they lie now.
    pub root: &'a Path,
    /// Relative to the root.
    pub entries: &'a [PathBuf],
}

/// What becomes of the times of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Left out, so that the same contents are the same bytes.
    Zero,
    /// Kept to the second, for tools that compare them.
    Kept,
}

/// As [`pack`], from several trees. No two entries may come to the same name.
pub fn pack_parts(parts: &[Part<'_>], to: &Path, limits: &ArchiveLimits, times: Times) -> Result<Packed, ArchiveError> {
    let named = |part: &Part<'_>| part.entries.iter().map(|entry| part.below.join(entry)).collect::<Vec<_>>();
    let names: Vec<Vec<PathBuf>> = parts.iter().map(named).collect();
    let mut sorted: Vec<(&Path, &Path, &Path)> = Vec::new();
    for (part, names) in parts.iter().zip(&names) {
        let entries: BTreeSet<(&Path, &Path)> =
            names.iter().map(PathBuf::as_path).zip(part.entries.iter().map(PathBuf::as_path)).collect();
        sorted.extend(entries.into_iter().map(|(name, entry)| (name, part.root, entry)));
    }
    sorted.sort_by_key(|(name, ..)| name.as_os_str().as_bytes());
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(ArchiveError::Twice { name: shown(pair[0].0) });
    }
    if sorted.len() as u64 > limits.entries_max {
        return Err(ArchiveError::TooMuch { what: "entries", max: limits.entries_max });
    }
    let file = File::create(to).map_err(failed("create", to))?;
    let encoder = zstd::Encoder::new(file, COMPRESSION_LEVEL).map_err(failed("write", to))?;
    let mut writer = Writer { builder: tar::Builder::new(encoder), times };
    let mut packed = Packed { entries: 0, bytes: 0 };
    for (name, root, entry) in sorted {
        let left = limits.bytes_max - packed.bytes;
        packed.bytes += writer.append(name, root, entry, left).map_err(|e| match e {
            ArchiveError::TooMuch { what, .. } => ArchiveError::TooMuch { what, max: limits.bytes_max },
            e => e,
        })?;
        packed.entries += 1;
    }
    let file = writer.builder.into_inner().and_then(zstd::Encoder::finish).map_err(failed("write", to))?;
    file.sync_all().map_err(failed("write", to))?;
    Ok(packed)
}

/// Every file and symbolic link below `root`, relative and sorted, without what is named `.git`. Links are not
/// followed; pipes, sockets and devices are left out.
pub fn list_tree(root: &Path, entries_max: u64) -> Result<Vec<PathBuf>, ArchiveError> {
    let mut found = Vec::new();
    let walk = WalkDir::new(root).follow_links(false).follow_root_links(false).sort_by_file_name();
    for entry in walk.into_iter().filter_entry(|entry| entry.depth() == 0 || entry.file_name() != ".git") {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(root).to_owned();
            ArchiveError::Io { doing: "list", path, source: e.into() }
        })?;
        let kind = entry.file_type();
        if !kind.is_file() && !kind.is_symlink() {
            continue;
        }
        if found.len() as u64 >= entries_max {
            return Err(ArchiveError::TooMuch { what: "entries", max: entries_max });
        }
        if let Ok(name) = entry.path().strip_prefix(root) {
            found.push(name.to_owned());
        }
    }
    found.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(found)
}

struct Writer<W: Write> {
    builder: tar::Builder<W>,
    times: Times,
}

impl<W: Write> Writer<W> {
    /// Adds `entry` of `root` by the name `name`. Says its bytes.
    fn append(&mut self, name: &Path, root: &Path, entry: &Path, bytes_left: u64) -> Result<u64, ArchiveError> {
        inside(name)?;
        inside(entry)?;
        let path = root.join(entry);
        let held = Held::find(root, entry)
            .map_err(|e| no_link_on_the_way(root, entry).err().unwrap_or_else(|| failed("look at", &path)(e)))?;
        let meta = held.metadata().map_err(failed("look at", &path))?;
        let mut header = Header::new_gnu();
        header.set_mtime(if self.times == Times::Kept { u64::try_from(meta.mtime()).unwrap_or(0) } else { 0 });
        header.set_uid(0);
        header.set_gid(0);
        if meta.is_symlink() {
            let target = held.target().map_err(failed("read the link", &path))?;
            link_stays(entry, target.as_os_str())?;
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            self.builder.append_link(&mut header, name, &target).map_err(failed("pack", &path))?;
            return Ok(0);
        }
        if !meta.is_file() {
            return Err(ArchiveError::Kind { name: shown(entry), what: "no regular file" });
        }
        let (file, meta) = held.open().map_err(failed("open", &path))?;
        if meta.len() > bytes_left {
            return Err(ArchiveError::TooMuch { what: "bytes", max: bytes_left });
        }
        header.set_entry_type(EntryType::Regular);
        header.set_mode(if meta.mode() & 0o100 == 0 { 0o644 } else { 0o755 });
        header.set_size(meta.len());
        let mut exact = Exact { from: file, left: meta.len() };
        self.builder.append_data(&mut header, name, &mut exact).map_err(failed("pack", &path))?;
        Ok(meta.len())
    }
}

/// Exactly as many bytes as the header promised: a file that shrinks meanwhile would shift all that follows.
struct Exact {
    from: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.from.read(&mut buffer[..wanted])?;
        self.left -= got as u64;
        if got == 0 && wanted > 0 {
            return Err(io::Error::other("the file became shorter while it was packed"));
        }
        Ok(got)
    }
}

/// Relative, not empty, and made of names alone.
fn inside(name: &Path) -> Result<(), ArchiveError> {
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !name.as_os_str().is_empty() && !name.as_os_str().as_bytes().contains(&0) {
        return Ok(());
    }
    Err(ArchiveError::Outside { name: shown(name) })
}

/// A target may begin with `..`, as often as the link lies deep, and go down from there. A `..` further on is refused:
/// behind another link it could mean a folder outside. With that rule no chain of links leaves the tree.
fn link_stays(name: &Path, target: &OsStr) -> Result<(), ArchiveError> {
    let mut depth = name.components().count().saturating_sub(1);
    let mut went_down = false;
    let mut stays = !target.is_empty() && !target.as_bytes().contains(&0);
    for part in Path::new(target).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(_) => went_down = true,
            Component::ParentDir if !went_down && depth > 0 => depth -= 1,
            _ => stays = false,
        }
    }
    if stays {
        return Ok(());
    }
    Err(ArchiveError::LinkLeaves { name: shown(name), target: shown(Path::new(target)) })
}

/// Whether every folder that leads to `name` is a folder and not a link to one, for the words of an error.
fn no_link_on_the_way(root: &Path, name: &Path) -> Result<(), ArchiveError> {
    let mut path = root.to_owned();
    for part in name.parent().into_iter().flat_map(Path::components) {
        path.push(part);
        let meta = path.symlink_metadata().map_err(failed("look at", &path))?;
        if !meta.is_dir() {
            return Err(through(root, name, &path));
        }
    }
    Ok(())
}

fn through(root: &Path, name: &Path, path: &Path) -> ArchiveError {
    ArchiveError::ThroughLink { name: shown(name), through: shown(path.strip_prefix(root).unwrap_or(path)) }
}

/// For messages: bounded, without what moves a terminal's cursor.
fn shown(path: &Path) -> String {
    path.to_string_lossy().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(300).collect()
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    move |source| ArchiveError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
