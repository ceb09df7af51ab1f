//! Unpacking of archives that may be hostile. Extension headers are read here and not by the tar library, which takes
//! as much memory for them as they claim; and links are made last, so that nothing is written through them.
use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, Read, Seek},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{DirBuilderExt, OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::{ArchiveError, ArchiveLimits, Times, Unpacked, failed, inside, link_stays, shown, through};

/// The longest extension header: names longer than a path can be are no use.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// What an entry may take besides its content: its header, an extension's, and padding.
const ENTRY_OVERHEAD_BYTES: u64 = 4 * 512 + EXTENSION_BYTES_MAX;
/// How a zstd frame begins.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Unpacks a tar file, compressed with zstd or not, below `into`, which is made if it is missing. What is there
/// already stays, except that a file of the same name is replaced. An error leaves what was unpacked so far: the
/// caller removes the folder.
pub fn unpack(archive: &Path, into: &Path, limits: &ArchiveLimits) -> Result<Unpacked, ArchiveError> {
    unpack_with(archive, into, limits, Times::Zero)
}

/// As [`unpack`]. Times that are [`Times::Kept`] come from the archive; otherwise they are those of the unpacking.
pub fn unpack_with(
    archive: &Path,
    into: &Path,
    limits: &ArchiveLimits,
    times: Times,
) -> Result<Unpacked, ArchiveError> {
    fs::create_dir_all(into).map_err(failed("make the folder", into))?;
    let mut file = File::open(archive).map_err(failed("open", archive))?;
    let mut magic = [0; 4];
    let compressed = file.read_exact(&mut magic).is_ok() && magic == ZSTD_MAGIC;
    file.rewind().map_err(failed("read", archive))?;
    let plain: Box<dyn Read> = if compressed {
        Box::new(zstd::Decoder::new(file).map_err(|source| damaged(archive, source))?)
    } else {
        Box::new(BufReader::new(file))
    };
    let read_max = limits.bytes_max.saturating_add(limits.entries_max.saturating_mul(ENTRY_OVERHEAD_BYTES));
    let mut reader = Archive::new(plain.take(read_max));
    let mut target = Target {
        into,
        limits,
        times,
        done: Unpacked { entries: 0, bytes: 0 },
        seen: HashSet::new(),
        links: Vec::new(),
    };
    let entries = reader.entries().map_err(|source| damaged(archive, source))?;
    let mut said = Said::default();
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(|source| damaged(archive, source))?;
        if said.hear(&mut entry).map_err(|source| damaged(archive, source))? {
            continue;
        }
        target.take(&mut entry, &std::mem::take(&mut said))?;
    }
    target.finish()
}

fn damaged(archive: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::Damaged { path: archive.to_owned(), source }
}

/// What extension headers said about the entry that follows them.
#[derive(Default)]
struct Said {
    name: Option<OsString>,
    link: Option<OsString>,
}

impl Said {
    /// Whether the entry was such a header.
    fn hear<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<bool> {
        let kind = entry.header().entry_type();
        // What concerns all entries (git writes the commit's id there) changes neither names nor contents.
        let known = kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions();
        if !known {
            return Ok(kind.is_pax_global_extensions());
        }
        if entry.size() > EXTENSION_BYTES_MAX {
            return Err(io::Error::other(format!("an extension header is larger than {EXTENSION_BYTES_MAX} bytes")));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if kind.is_pax_local_extensions() {
            return self.hear_pax(&bytes).map(|()| true);
        }
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        let place = if kind.is_gnu_longname() { &mut self.name } else { &mut self.link };
        *place = Some(OsString::from_vec(bytes));
        Ok(true)
    }

    fn hear_pax(&mut self, bytes: &[u8]) -> io::Result<()> {
        for record in PaxExtensions::new(bytes) {
            let record = record?;
            match record.key_bytes() {
                b"path" => self.name = Some(OsStr::from_bytes(record.value_bytes()).to_owned()),
                b"linkpath" => self.link = Some(OsStr::from_bytes(record.value_bytes()).to_owned()),
                b"size" => return Err(io::Error::other("a size in an extension header is not supported")),
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(io::Error::other("sparse files are not supported"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The folder that is filled.
struct Target<'a> {
    into: &'a Path,
    limits: &'a ArchiveLimits,
    times: Times,
    done: Unpacked,
    seen: HashSet<PathBuf>,
    /// Made at the end: name and target.
    links: Vec<(PathBuf, OsString)>,
}

impl Target<'_> {
    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>, said: &Said) -> Result<(), ArchiveError> {
        let kind = entry.header().entry_type();
        let raw = said.name.clone().unwrap_or_else(|| OsString::from_vec(entry.path_bytes().into_owned()));
        let name = without_dot(&raw);
        if name.as_os_str().is_empty() && kind.is_dir() {
            return Ok(());
        }
        inside(&name)?;
        if name.as_os_str().len() > 4096 {
            return Err(ArchiveError::Outside { name: shown(&name) });
        }
        self.done.entries += 1;
        if self.done.entries > self.limits.entries_max {
            return Err(ArchiveError::TooMuch { what: "entries", max: self.limits.entries_max });
        }
        // A folder may be named again by whatever is in it.
        if !self.seen.insert(name.clone()) && !kind.is_dir() {
            return Err(ArchiveError::Twice { name: shown(&name) });
        }
        match kind {
            EntryType::Directory => self.make_folders(&name, &name),
            EntryType::Regular | EntryType::Continuous => self.write(entry, &name),
            EntryType::Symlink => {
                let target = said.link.clone();
                let target = target.or_else(|| entry.link_name_bytes().map(|l| OsString::from_vec(l.into_owned())));
                let target = target.unwrap_or_default();
                link_stays(&name, &target)?;
                self.links.push((name, target));
                Ok(())
            }
            other => Err(ArchiveError::Kind { name: shown(&name), what: in_words(other) }),
        }
    }

    fn write<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &Path) -> Result<(), ArchiveError> {
        let path = self.clear(name)?;
        let mode = if entry.header().mode().unwrap_or(0) & 0o100 == 0 { 0o644 } else { 0o755 };
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&path).map_err(failed("create", &path))?;
        let left = self.limits.bytes_max - self.done.bytes;
        let wanted = entry.size();
        if wanted > left {
            return Err(ArchiveError::TooMuch { what: "bytes", max: self.limits.bytes_max });
        }
        let copied = io::copy(entry, &mut file).map_err(failed("write", &path))?;
        if copied != wanted {
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of it");
            return Err(ArchiveError::Io { doing: "unpack", path, source });
        }
        self.done.bytes += copied;
        if self.times == Times::Kept {
            let seconds = entry.header().mtime().unwrap_or(0);
            let time =
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH);
            file.set_modified(time).map_err(failed("set the time of", &path))?;
        }
        Ok(())
    }

    /// All that was left for last, then the sum.
    fn finish(mut self) -> Result<Unpacked, ArchiveError> {
        for (name, target) in std::mem::take(&mut self.links) {
            let path = self.clear(&name)?;
            symlink(&target, &path).map_err(failed("make the link", &path))?;
        }
        Ok(self.done)
    }

    /// Makes the folders that lead to `name` and removes what bears that name.
    fn clear(&self, name: &Path) -> Result<PathBuf, ArchiveError> {
        self.make_folders(name.parent().unwrap_or(Path::new("")), name)?;
        let path = self.into.join(name);
        match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => Err(ArchiveError::Twice { name: shown(name) }),
            Ok(_) => fs::remove_file(&path).map(|()| path.clone()).map_err(failed("replace", &path)),
            Err(_) => Ok(path),
        }
    }

    /// Component by component, so that none is a link.
    fn make_folders(&self, folder: &Path, for_name: &Path) -> Result<(), ArchiveError> {
        let mut path = self.into.to_owned();
        for part in folder.components() {
            path.push(part);
            match path.symlink_metadata() {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(through(self.into, for_name, &path)),
                Err(_) => DirBuilder::new().mode(0o755).create(&path).map_err(failed("make the folder", &path))?,
            }
        }
        Ok(())
    }
}

/// `./a` and `a/` are `a`; everything else stays as it is, to be judged.
fn without_dot(raw: &OsStr) -> PathBuf {
    let bytes = raw.as_bytes();
    let bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
    let bytes = if bytes == b"." { b"" } else { bytes };
    let end = bytes.iter().rposition(|b| *b != b'/').map_or(0, |i| i + 1);
    // Of a name made of slashes alone one stays, so that it is seen to be absolute.
    let end = if end == 0 { bytes.len().min(1) } else { end };
    PathBuf::from(OsStr::from_bytes(&bytes[..end]))
}

fn in_words(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "a hard link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a pipe",
        EntryType::GNUSparse => "a sparse file",
        _ => "of a kind that is not known",
    }
}
