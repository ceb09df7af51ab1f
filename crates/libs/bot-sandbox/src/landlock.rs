//! What the launcher is told where namespaces cannot be had: the rules, the command, its environment. Confining itself is
//! the launcher's (`launcher.rs`); nothing here starts anything.
//!
//! All of it travels in a memory file on standard input, as for bubblewrap and for the same reasons: values may be secrets,
//! and a variable such as `LD_PRELOAD` must not reach the launcher, which begins outside of what it builds.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek, Write},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::{SandboxError, bubblewrap::ETC};

/// The launcher looks after the command beside itself; the bot does not count it.
pub(crate) const OWN_PROCESSES: u32 = 1;

/// The kernel's first version that can refuse to cut off a file (Linux 6.2). With less, a command could empty any file
/// of the bot's user.
pub(crate) const ABI_MIN: u32 = 3;

/// The system's programs, read and run.
const SYSTEM: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"];
/// Of /proc what others' processes hold is refused by the kernel; their names and arguments are not.
const MORE_READABLE: [&str; 3] = ["/proc", "/etc/passwd", "/etc/group"];
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// The bot's side: which program confines, and what the kernel can.
pub(crate) struct Landlock {
    /// A program that calls [`crate::launcher`] before anything else.
    pub(crate) program: PathBuf,
    pub(crate) abi: u32,
}

/// One command and its walls.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Read and run. What is missing is left out.
    pub(crate) readable: Vec<PathBuf>,
    /// All but device nodes.
    pub(crate) writable: Vec<PathBuf>,
    pub(crate) network: bool,
    /// With whom everything ends.
    pub(crate) parent: Option<i32>,
    /// Made by the confined command itself, so that a link in its way leads nowhere.
    pub(crate) tmp: PathBuf,
    pub(crate) cwd: PathBuf,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) argv: Vec<String>,
}

impl Cell {
    /// What every command may read.
    pub(crate) fn system(network: bool) -> Vec<PathBuf> {
        let resolver = network.then_some("/etc/resolv.conf");
        SYSTEM.into_iter().chain(MORE_READABLE).chain(ETC).chain(resolver).map(PathBuf::from).collect()
    }

    pub(crate) fn devices() -> [&'static Path; 5] {
        DEVICES.map(Path::new)
    }
}

/// The memory file: the cell first, then what the launcher reports.
pub(crate) struct Report {
    file: File,
    cell_end: u64,
}

impl Report {
    /// The launcher's standard input, and where its answer will be.
    pub(crate) fn hand_over(cell: &Cell) -> Result<(OwnedFd, Self), SandboxError> {
        let write = || -> io::Result<(OwnedFd, Self)> {
            let bytes = serde_json::to_vec(cell)?;
            let mut file = File::from(memfd_create("lota-cell", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(&bytes)?;
            // A copy shares its position with the original: this rewinds the one the launcher gets.
            file.rewind()?;
            Ok((file.try_clone()?.into(), Self { file, cell_end: bytes.len() as u64 }))
        };
        write().map_err(SandboxError::io("write the rules of the launcher into memory"))
    }

    /// The kernel's version of landlock that confines the command; else why it was not started.
    pub(crate) fn confined_by(&self) -> Result<u32, String> {
        let mut text = vec![0; 4096];
        let length = self.file.read_at(&mut text, self.cell_end).unwrap_or(0);
        let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned();
        text.trim().parse().map_err(|_| text)
    }
}
