//! Opening what lies in a folder that somebody hostile has written, and may still be writing: one name after the other,
//! each from the folder that the one before has opened, so that no link that appears in between leads out.
use std::{
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, readlinkat},
    sys::stat::Mode,
};

/// A name in a folder, held: what it means cannot change any more, though it may be removed or replaced.
#[derive(Debug)]
pub(super) struct Held {
    folder: OwnedFd,
    name: PathBuf,
    itself: File,
}

impl Held {
    /// `name` is relative and made of names alone; anything else is refused, as is a link on the way.
    pub(super) fn find(root: &Path, name: &Path) -> io::Result<Self> {
        let is_plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        let Some(last) = name.file_name().filter(|_| is_plain) else {
            return Err(io::Error::other(format!("{} is no path below a folder", name.display())));
        };
        let path = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let step = path | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let mut folder = OwnedFd::from(File::open(root)?);
        for part in name.parent().into_iter().flat_map(Path::components) {
            folder = openat(&folder, part.as_os_str(), step, Mode::empty())?;
        }
        let itself = openat(&folder, last, path | OFlag::O_NOFOLLOW, Mode::empty())?;
        Ok(Self { folder, name: last.into(), itself: itself.into() })
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.itself.metadata()
    }

    /// Where the link points that it is.
    pub(super) fn target(&self) -> io::Result<PathBuf> {
        Ok(readlinkat(self.itself.as_fd(), "")?.into())
    }

    /// The file that bears the name now: no link, and no pipe that is waited for.
    pub(super) fn open(&self) -> io::Result<(File, Metadata)> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.folder, self.name.as_os_str(), flags, Mode::empty())?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("expected a regular file"));
        }
        Ok((file, meta))
    }
}

/// Opens a regular file below a folder that somebody hostile has written: through no link, and without waiting.
pub fn open_beneath(root: &Path, name: &Path) -> io::Result<File> {
    if name.as_os_str().as_bytes().contains(&0) {
        return Err(io::Error::other("a name with a NUL byte"));
    }
    let opened = Held::find(root, name).and_then(|held| held.open());
    opened.map(|(file, _)| file).map_err(|e| match Errno::from_raw(e.raw_os_error().unwrap_or_default()) {
        Errno::ELOOP => io::Error::other("expected a regular file, not a link"),
        _ => e,
    })
}
