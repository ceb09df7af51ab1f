//! What a run or an application uses: processes, and memory in all the forms in which it can be seen from outside.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt};

use nix::sys::statvfs::statvfs;

use crate::{
    SandboxKind, bubblewrap,
    family::Family,
    landlock,
    proc::{self, Process},
};

/// Descriptors looked at in all processes together: whoever has more has had its look.
const DESCRIPTORS_MAX: usize = 100_000;

/// What of a family is not the command's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// Processes of whoever keeps it.
    pub(crate) own_processes: u32,
    /// Folders in memory that only its members see.
    pub(crate) has_folders: bool,
}

impl From<SandboxKind> for Around {
    fn from(kind: SandboxKind) -> Self {
        let own_processes = match kind {
            SandboxKind::Bubblewrap => bubblewrap::OWN_PROCESSES,
            SandboxKind::Landlock => landlock::OWN_PROCESSES,
            SandboxKind::ProcessGroup => 0,
        };
        Self { own_processes, has_folders: kind == SandboxKind::Bubblewrap }
    }
}

/// Memory and processes now; a crowd over its number is not counted further. Resident memory counts shared pages once
/// per sharer, so where the sum is over the limit the dearer sum decides. What is in memory files counts, mapped or not.
pub(crate) fn weigh(family: &mut Family, memory_max: u64, processes_max: u32, around: Around) -> (u64, u32) {
    let Around { own_processes, has_folders } = around;
    let Some(members) = family.census_up_to(processes_max.saturating_add(own_processes)) else {
        return (0, processes_max.saturating_add(1));
    };
    let processes = members.iter().map(|member| member.threads).sum::<u32>().saturating_sub(own_processes);
    let resident: u64 = members.iter().map(|member| member.resident_bytes).sum();
    let mut files = memory_files(&members);
    if has_folders {
        files += folders_in_memory(&members);
    }
    if resident + files <= memory_max {
        return (resident + files, processes);
    }
    let (mut private, mut shared) = (0, 0);
    for member in &members {
        let (own, part) = proc::proportional_bytes(member);
        private += own;
        shared += part;
    }
    // Pages of files that are mapped were counted twice.
    (private + files.max(shared), processes)
}

/// Of memory files that have no name anywhere, by the descriptors that hold them.
fn memory_files(members: &[Process]) -> u64 {
    let descriptors = members.iter().flat_map(|member| {
        let folder = fs::read_dir(format!("/proc/{}/fd", member.pid()));
        folder.into_iter().flatten().flatten().map(|entry| entry.path())
    });
    let mut sizes = HashMap::new();
    for path in descriptors.take(DESCRIPTORS_MAX) {
        let is_memory = fs::read_link(&path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"));
        if let Some(meta) = is_memory.then(|| fs::metadata(&path).ok()).flatten() {
            sizes.insert((meta.dev(), meta.ino()), meta.blocks() * 512);
        }
    }
    sizes.values().sum()
}

/// Of the folders that bubblewrap keeps in memory, as the first member sees them that sees them at all.
fn folders_in_memory(members: &[Process]) -> u64 {
    let used = |member: &Process, folder: &str| {
        let path = format!("/proc/{}/root{folder}", member.pid());
        let inside = fs::metadata(&path).ok()?.dev();
        // bwrap's outer process sees the machine's own.
        if fs::metadata(folder).is_ok_and(|meta| meta.dev() == inside) {
            return None;
        }
        let stat = statvfs(path.as_str()).ok()?;
        Some((stat.blocks() - stat.blocks_free()) * stat.fragment_size())
    };
    ["/tmp", "/dev/shm"].into_iter().filter_map(|folder| members.iter().rev().find_map(|m| used(m, folder))).sum()
}
