//! What commands may try, and which kind of sandbox holds it. One list: `tests/attacks.rs` carries each of them out in each
//! kind and asserts what stands here, also where it says that a kind does not hold; docs/SECURITY.md shows it; heartbeats
//! name what is not held.

use crate::SandboxKind;

/// One thing that hostile code does.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// In heartbeats and tests.
    pub name: &'static str,
    pub what: &'static str,
    bubblewrap: bool,
    /// From this version of landlock on.
    landlock: Option<u32>,
    process_group: bool,
}

/// Every kernel whose landlock is used at all.
const ANY: Option<u32> = Some(crate::landlock::ABI_MIN);

const fn attack(
    name: &'static str,
    what: &'static str,
    (bubblewrap, landlock, process_group): (bool, Option<u32>, bool),
) -> Attack {
    Attack { name, what, bubblewrap, landlock, process_group }
}

/// Of walls only.
const WALLS: (bool, Option<u32>, bool) = (true, ANY, false);
/// Of every kind.
const ALL: (bool, Option<u32>, bool) = (true, ANY, true);

/// All that are tried.
pub const ATTACKS: [Attack; 31] = [
    attack("other-workspaces", "reads and changes the workspace of another run", WALLS),
    attack("bot-store", "reads the bot's store", WALLS),
    attack("secrets", "reads the operator's secrets", WALLS),
    attack("host-home", "reads the home of the bot's user", WALLS),
    attack("writes-outside", "makes, cuts off or removes files outside of its folders", WALLS),
    attack("symlink", "reaches a file outside through a symbolic link", WALLS),
    attack("hard-link", "links a file outside into its workspace", WALLS),
    attack("names-outside", "finds out whether a file outside exists", (true, None, false)),
    attack("modes-outside", "changes the mode of a file outside that belongs to the bot's user", (true, None, false)),
    attack("unix-socket", "connects to a Unix socket outside", WALLS),
    attack("abstract-socket", "connects to an abstract Unix socket outside, with network", (false, ANY, false)),
    attack("tcp", "connects to a TCP port without having asked for network", WALLS),
    attack("udp", "sends a datagram without having asked for network", WALLS),
    attack("shared-memory", "attaches System V shared memory of another process", WALLS),
    attack("process-memory", "reads environment, memory or files of another process, or traces it", WALLS),
    attack("process-arguments", "reads names and arguments of other processes", (true, None, false)),
    attack("signals", "sends a signal to another process", (true, Some(6), false)),
    attack("process-limits", "changes the limits of another process", WALLS),
    attack("setuid", "gains privileges by a setuid program", ALL),
    attack("device-nodes", "makes a device node, or opens a disk", WALLS),
    attack("user-namespaces", "makes a user namespace, and is root in it", WALLS),
    attack("preload", "has a library loaded into what sets its limits", WALLS),
    attack("daemon", "leaves a process behind that left its session, its parent and its environment", WALLS),
    attack("fork-bomb", "forks without end", ALL),
    attack("memory", "takes more memory than it may", ALL),
    attack("memory-files", "takes the memory as files: /tmp, /dev/shm, memfd", WALLS),
    attack("hidden-memory", "takes the memory as shared pages that no process maps any more", (false, None, false)),
    attack("file-size", "writes a file that is larger than it may", ALL),
    attack("log-flood", "prints without end", ALL),
    attack("descriptors", "opens more files than it may", ALL),
    attack("inotify", "takes all inotify instances that the kernel gives a user, until it ends", (false, None, false)),
];

impl Attack {
    /// With that version of landlock, where it is the kind.
    pub fn is_held_by(&self, kind: SandboxKind, landlock: u32) -> bool {
        match kind {
            SandboxKind::Bubblewrap => self.bubblewrap,
            SandboxKind::Landlock => self.landlock.is_some_and(|from| landlock >= from),
            SandboxKind::ProcessGroup => self.process_group,
        }
    }

    /// A row of the table in docs/SECURITY.md.
    fn row(&self) -> String {
        let held = |held: bool| if held { "held" } else { "**not held**" };
        let landlock = match self.landlock {
            Some(from) if Some(from) != ANY => format!("held from version {from} on"),
            from => held(from.is_some()).to_owned(),
        };
        let (name, what) = (self.name, self.what);
        format!("| {name} | {what} | {} | {landlock} | {} |\n", held(self.bubblewrap), held(self.process_group))
    }
}

/// As docs/SECURITY.md has it.
pub fn table() -> String {
    let head = "| attack | a command … | bubblewrap | landlock | process-group |\n|---|---|---|---|---|\n";
    ATTACKS.iter().fold(head.to_owned(), |table, attack| table + &attack.row())
}
