//! Limits of commands, from the units in which settings say them.
use std::time::Duration;

use bot_sandbox::Limits;

const LINE_BYTES: usize = 4096;

/// What the settings of a bot say of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLimits {
    /// Of the command and all its processes together.
    pub memory_mib: u64,
    /// And threads.
    pub processes: u32,
    /// What it may print.
    pub output_mib: u64,
    /// The largest file it may write.
    pub file_mib: u64,
    /// Per process.
    pub open_files: u64,
}

impl CommandLimits {
    /// For one command that may take so long.
    pub fn within(&self, time: Duration) -> Limits {
        let bytes = |mib: u64| mib.saturating_mul(1 << 20);
        Limits {
            time,
            memory_bytes: bytes(self.memory_mib),
            processes: self.processes,
            output_bytes: bytes(self.output_mib),
            line_bytes: LINE_BYTES,
            file_bytes: bytes(self.file_mib),
            open_files: self.open_files,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_become_bytes_and_what_is_too_large_stays_large() {
        let said = CommandLimits { memory_mib: 2, processes: 3, output_mib: u64::MAX, file_mib: 1, open_files: 5 };
        let limits = said.within(Duration::from_secs(7));
        assert_eq!((limits.memory_bytes, limits.output_bytes, limits.file_bytes), (2 << 20, u64::MAX, 1 << 20));
        assert_eq!((limits.time.as_secs(), limits.processes, limits.open_files), (7, 3, 5));
    }
}
