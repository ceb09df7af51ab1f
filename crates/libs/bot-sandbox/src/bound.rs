//! What bounds the processes of commands besides our own look at them, which comes ten times a second.
//!
//! The kernel counts the threads of a user over the whole machine. Who sees all of them sets a limit above what is there. In
//! a container those of other containers count too and cannot be seen: there the control group that it runs in is the
//! bound, as that counts its own alone.

use std::{fmt, fs, path::Path};

use nix::unistd::geteuid;

use crate::proc;

/// What the kernel calls the namespace of all processes.
const ALL_PROCESSES: &str = "pid:[4026531836]";

/// Who refuses a command one process more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessBound {
    /// The count of a user namespace of each command's own.
    Namespace,
    /// `pids.max` of the container's control group: for all that runs in it, the bot included.
    ControlGroup { processes_max: u64 },
    /// `RLIMIT_NPROC`: the kernel counts this user's threads over the whole machine.
    User { uid: u32 },
    /// The kernel does not count root's: the bot's own look is all there is.
    Nobody,
}

impl ProcessBound {
    /// Of a command in no user namespace of its own.
    pub(crate) fn here() -> Self {
        let sees_all = fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name == Path::new(ALL_PROCESSES));
        let group = if sees_all { None } else { of_control_group() };
        let user = geteuid();
        match group {
            Some(processes_max) => Self::ControlGroup { processes_max },
            None if user.is_root() => Self::Nobody,
            None => Self::User { uid: user.as_raw() },
        }
    }

    /// `RLIMIT_NPROC` for a command that may have so many processes; `None`: it stays as it is.
    pub(crate) fn limit(self, processes: u64) -> Option<u64> {
        match self {
            Self::User { uid } => Some(processes + proc::threads_of_user(uid)),
            Self::Namespace | Self::ControlGroup { .. } | Self::Nobody => None,
        }
    }
}

impl fmt::Display for ProcessBound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace => formatter.write_str("a user namespace of each command"),
            Self::ControlGroup { processes_max } => {
                write!(formatter, "the container's control group, {processes_max} together")
            }
            Self::User { uid } => write!(formatter, "the threads of user {uid} on the whole machine"),
            Self::Nobody => formatter.write_str("the bot's own look alone, as it runs as root"),
        }
    }
}

fn of_control_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    least(&groups, &mounts, |file| fs::read_to_string(file).ok())
}

/// The least `pids.max` on the way from our group up to what is mounted, in both versions of control groups.
fn least(groups: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups: Vec<(&str, &str)> = groups
        .lines()
        .filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            (controllers.is_empty() || controllers.split(',').any(|name| name == "pids")).then_some((controllers, path))
        })
        .collect();
    let limits = mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(3);
        let (root, at) = (fields.next()?, Path::new(fields.next()?));
        let is_second = kind.starts_with("cgroup2 ");
        let counts = is_second || kind.rsplit(' ').next()?.split(',').any(|option| option == "pids");
        let (_, path) = groups.iter().find(|(controllers, _)| counts && controllers.is_empty() == is_second)?;
        // A group above what is mounted, as of another container's, is not ours to see.
        let ours = at.join(Path::new(path).strip_prefix(root).unwrap_or(Path::new("")));
        let on_the_way = ours.ancestors().take_while(|group| group.starts_with(at));
        on_the_way.filter_map(|group| read(&group.join("pids.max"))?.trim().parse().ok()).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n";
    const V1: &str = "35 31 0:32 /docker/ab /sys/fs/cgroup/memory ro,relatime master:9 - cgroup cgroup rw,memory
39 31 0:36 /docker/ab /sys/fs/cgroup/pids ro,relatime master:10 - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn told(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        let read = |file: &Path| {
            files.iter().find(|(name, _)| Path::new(name) == file).map(|(_, content)| format!("{content}\n"))
        };
        least(groups, mounts, read)
    }

    #[test]
    fn the_least_limit_on_the_way_up_is_the_one() {
        let files = [("/sys/fs/cgroup/pids.max", "2048"), ("/sys/fs/cgroup/bot/pids.max", "max")];
        assert_eq!(told("0::/bot\n", V2, &files), Some(2048));
        let files = [("/sys/fs/cgroup/pids.max", "2048"), ("/sys/fs/cgroup/bot/pids.max", "100")];
        assert_eq!(told("0::/bot\n", V2, &files), Some(100));
        // What was moved out of the part that is seen keeps what is seen.
        assert_eq!(told("0::/../other\n", V2, &files), Some(2048));
        assert_eq!(told("0::/\n", V2, &[("/sys/fs/cgroup/pids.max", "max")]), None);
        assert_eq!(told("0::/\n", V2, &[]), None);
    }

    #[test]
    fn the_first_version_names_groups_as_the_machine_does() {
        let groups = "9:name=systemd:/docker/ab\n8:pids:/docker/ab\n4:memory:/docker/ab\n0::/docker/ab\n";
        let files = [("/sys/fs/cgroup/pids/pids.max", "512"), ("/sys/fs/cgroup/memory/pids.max", "1")];
        assert_eq!(told(groups, V1, &files), Some(512));
        assert_eq!(told("4:memory:/docker/ab\n", V1, &files), None);
        assert_eq!(told("nonsense\n8:pids\n", "no mounts\n\n - cgroup2", &files), None);
    }

    #[test]
    fn a_limit_is_set_for_whom_the_kernel_counts() {
        assert!(ProcessBound::User { uid: geteuid().as_raw() }.limit(100).is_some_and(|limit| limit > 100));
        for bound in [ProcessBound::Namespace, ProcessBound::ControlGroup { processes_max: 7 }, ProcessBound::Nobody] {
            assert_eq!(bound.limit(100), None);
        }
    }
}
