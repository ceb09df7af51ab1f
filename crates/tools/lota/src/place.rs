//! Where a process runs, as far as files go: which boot of which kernel, which mounts, and whom the kernel lets read.
use serde::{Deserialize, Serialize};

/// Two processes of one place mean the same file by the same path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Differs between machines, and after each start of one.
    boot: String,
    /// The mount namespace: a container on the same kernel has other files.
    mounts: String,
    /// The effective user.
    pub(crate) uid: u32,
}

impl Place {
    /// Of this process; none where the kernel tells it otherwise than Linux does.
    pub(crate) fn here() -> Option<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let mounts = std::fs::read_link("/proc/self/ns/mnt").ok()?.to_string_lossy().into_owned();
        Some(Self { boot, mounts, uid: nix::unistd::geteuid().as_raw() })
    }

    pub(crate) fn has_the_files_of(&self, other: &Self) -> bool {
        (&self.boot, &self.mounts) == (&other.boot, &other.mounts)
    }
}
