//! Reads the kernel's process table from /proc. Only reads: nothing here sends a signal.

use std::{
    fs,
    io::{self, Read},
    sync::OnceLock,
};

/// The kernel's limit of arguments and environment together, with the usual stack size.
const ENVIRONMENT_BYTES: usize = 2 << 20;

/// A process for as long as it lives: pids come back, a pid with its start time does not (until the next boot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// Field 22 of /proc/<pid>/stat, in clock ticks since boot.
    pub(crate) start: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) identity: Identity,
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) threads: u32,
    pub(crate) resident_bytes: u64,
}

impl Process {
    pub(crate) fn pid(&self) -> i32 {
        self.identity.pid
    }

    /// A zombie holds nothing but its row in the table.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The pids there were at some moment; no promise that all are still there when they are read.
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// All processes this pid namespace shows. One that ends meanwhile is left out.
pub(crate) fn table() -> impl Iterator<Item = Process> {
    pids().filter_map(read)
}

pub(crate) fn read(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in field 2 may hold spaces and brackets, so the other fields start after the last bracket.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // proc(5) counts from 1 and the first two fields are gone.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Process {
        identity: Identity { pid, start: field(22)?.parse().ok()? },
        state: field(3)?.chars().next()?,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        threads: field(20)?.parse().ok()?,
        resident_bytes: field(24)?.parse::<u64>().ok()?.saturating_mul(page_bytes()),
    })
}

pub(crate) fn identity(pid: i32) -> Option<Identity> {
    read(pid).map(|process| process.identity)
}

/// The values of one variable in the environment a process was started with. `None` if that cannot be told now: it is
/// a zombie, was given no environment, or is in the middle of `exec`. What is not ours to read has no value.
pub(crate) fn environment(pid: i32, wanted: &str) -> Option<Vec<String>> {
    let mut bytes = vec![0; ENVIRONMENT_BYTES];
    // One read, as an `exec` between two would end the file early; `fs::read` makes several.
    let read = fs::File::open(format!("/proc/{pid}/environ")).and_then(|mut file| file.read(&mut bytes));
    match read {
        Ok(length) => bytes.truncate(length),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Some(Vec::new()),
        Err(_) => return None,
    }
    let value = |entry| std::str::from_utf8(entry).ok()?.strip_prefix(wanted)?.strip_prefix('=').map(str::to_owned);
    (!bytes.is_empty()).then(|| bytes.split(|byte| *byte == 0).filter_map(value).collect())
}

/// Memory with shared pages counted once over all sharers, and of it what is in memory files; dearer to read than the
/// resident size. A kernel before 5.9 does not tell them apart.
pub(crate) fn proportional_bytes(process: &Process) -> (u64, u64) {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid())).unwrap_or_default();
    let bytes = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| Some(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024))
    };
    let shared = bytes("Pss_Shmem").unwrap_or(0);
    (bytes("Pss").unwrap_or(process.resident_bytes).saturating_sub(shared), shared)
}

/// Threads of all processes of one user: what `RLIMIT_NPROC` counts.
pub(crate) fn threads_of_user(uid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let owned =
        |process: &Process| fs::metadata(format!("/proc/{}", process.pid())).is_ok_and(|meta| meta.uid() == uid);
    table().filter(owned).map(|process| u64::from(process.threads)).sum()
}

/// Changes with every boot, so that a record from before cannot match.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// From /proc, as the system call for it would need unsafe code or one more feature of a dependency.
fn page_bytes() -> u64 {
    static PAGE: OnceLock<u64> = OnceLock::new();
    *PAGE.get_or_init(|| {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let kilobytes = maps.lines().find_map(|line| {
            line.strip_prefix("KernelPageSize:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        kilobytes.unwrap_or(4) * 1024
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_fields() {
        let stat = "7 (a) b (c) S 1 5 4 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 12345 1000 2 18446744073709551615";
        let process = parse(7, stat).expect("parses");
        assert_eq!((process.state, process.parent, process.group, process.session), ('S', 1, 5, 4));
        assert_eq!((process.threads, process.identity.start), (3, 12345));
        assert_eq!(process.resident_bytes, 2 * page_bytes());
    }

    #[test]
    fn we_are_in_the_table() {
        let me = std::process::id() as i32;
        let process = table().find(|process| process.pid() == me).expect("found");
        assert!(process.is_alive() && process.resident_bytes > 0);
        assert_eq!(identity(me), Some(process.identity));
        assert!(proportional_bytes(&process).0 > 0);
    }
}
