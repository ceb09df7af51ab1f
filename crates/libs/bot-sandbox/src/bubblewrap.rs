//! What bubblewrap is told: which mounts, which namespaces, which limits. Starts nothing but `bwrap --help`.
//!
//! The options travel in a memory file on descriptor 3, not in argv and not in bwrap's own environment: values may be
//! secrets, and a variable such as `LD_PRELOAD` must not reach bwrap, which runs outside of what it builds. bwrap
//! appends its status to the same file (descriptor 4), so that "could not be set up" is told from "exited with 1".

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::io::AsyncReadExt;

use crate::{
    Bind, SandboxError,
    command::invalid,
    detect::{SYSTEM_PATH, Tools},
    spawn::{Launch, Sink, spawn},
};

/// Where the source tree and HOME are inside, always the same so that builds are reproducible.
pub(crate) const TREE: &str = "/workspace";
pub(crate) const HOME: &str = "/home/bot";

/// Inside the sandbox these are the processes that are bubblewrap's own: the outer one and the namespace's pid 1.
pub(crate) const OWN_PROCESSES: u32 = 2;

/// Moves the options away from standard input and hands in a passwd and group that name only who is there.
const WRAPPER: &str = "exec 3<&0 4<&0 5<<PASSWD 6<<GROUP 0</dev/null
root:x:0:0:root:/root:/bin/sh
bot:x:1000:1000:bot:/home/bot:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
PASSWD
root:x:0:
bot:x:1000:
nogroup:x:65534:
GROUP
exec \"$@\"
";

/// What programs need to resolve libraries, names and certificates. Never /etc/ssl as a whole: root owns its private
/// keys, and root outside is still the owner of root's files inside. Of Maven only what it needs to start: its settings may
/// hold passwords.
pub(crate) const ETC: [&str; 24] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/crypto-policies",
    "/etc/debian_version",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/maven/logging",
    "/etc/maven/m2.conf",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
];

/// A bubblewrap and which of its newer options it has.
pub(crate) struct Bubblewrap {
    path: String,
    /// `--size` (0.8): without it a tmpfs may take half of the memory.
    sizes_tmpfs: bool,
    /// `--disable-userns` (0.8): no nested user namespace, so no way back to capabilities.
    disables_userns: bool,
}

/// What differs between a run and a served application.
pub(crate) struct Interior<'a> {
    pub(crate) read_only: Vec<PathBuf>,
    pub(crate) read_write: Vec<Bind>,
    /// Cargo reads `.cargo/config.toml` from every parent of the workspace, `/` too. Mounted there, where the command
    /// cannot have put a symbolic link.
    pub(crate) cargo_config: Option<&'a Path>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: PathBuf,
    pub(crate) memory_bytes: u64,
    pub(crate) network: bool,
    pub(crate) dies_with_parent: bool,
    /// Starts with an absolute path.
    pub(crate) argv: Vec<String>,
}

/// The memory file: options first, then what bwrap reports.
pub(crate) struct Status {
    file: File,
    options_end: u64,
}

impl Status {
    /// Whether the command was started, once bwrap has ended by itself.
    pub(crate) fn has_started(&self) -> bool {
        self.text().contains("\"exit-code\"")
    }

    /// Pid 1 of the namespace, as it is called outside. When it is gone, so is everything inside.
    pub(crate) fn namespace_init(&self) -> Option<i32> {
        let text = self.text();
        let rest = text.split_once("\"child-pid\"")?.1.trim_start_matches([':', ' ']);
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    fn text(&self) -> String {
        let mut text = vec![0; 4096];
        let length = self.file.read_at(&mut text, self.options_end).unwrap_or(0);
        String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned()
    }
}

pub(crate) async fn look(path: &Path) -> io::Result<Bubblewrap> {
    let path = path.display().to_string();
    let launch = Launch {
        argv: vec![path.clone(), "--help".to_owned()],
        env: BTreeMap::from([("PATH".to_owned(), SYSTEM_PATH.to_owned())]),
        inherits_env: false,
        cwd: "/".into(),
        stdin: None,
        sink: Sink::Pipes,
        dies_with_handle: true,
    };
    let mut child = spawn(launch).await?;
    let mut help = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(64 << 10).read_to_string(&mut help).await?;
    }
    child.wait().await?;
    Ok(Bubblewrap { path, sizes_tmpfs: help.contains("--size "), disables_userns: help.contains("--disable-userns ") })
}

impl Bubblewrap {
    /// The words to start and their standard input.
    pub(crate) fn wrap(
        &self,
        tools: &Tools,
        inside: &Interior<'_>,
    ) -> Result<(Vec<String>, OwnedFd, Status), SandboxError> {
        let mut bytes = Vec::new();
        for option in self.options(inside) {
            bytes.extend_from_slice(option.as_bytes());
            bytes.push(0);
        }
        let memory = || -> io::Result<(OwnedFd, File)> {
            let mut file = File::from(memfd_create("bwrap-options", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(&bytes)?;
            // A copy shares its position with the original: this rewinds the one the child gets.
            io::Seek::rewind(&mut file)?;
            Ok((file.try_clone()?.into(), file))
        };
        let (stdin, file) = memory().map_err(SandboxError::io("write the options of bwrap into memory"))?;
        let mut words =
            vec![tools.sh.clone(), "-c".to_owned(), WRAPPER.to_owned(), "bwrap".to_owned(), self.path.clone()];
        words.extend(["--args", "3", "--json-status-fd", "4", "--"].map(str::to_owned));
        words.extend(inside.argv.iter().cloned());
        Ok((words, stdin, Status { file, options_end: bytes.len() as u64 }))
    }

    fn options(&self, inside: &Interior<'_>) -> Vec<String> {
        let mut options = Words::default();
        options.say(&["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]);
        options.say(&[
            "--uid",
            "1000",
            "--gid",
            "1000",
            "--hostname",
            "sandbox",
            "--cap-drop",
            "ALL",
            "--new-session",
            "--clearenv",
        ]);
        if !inside.network {
            options.say(&["--unshare-net"]);
        }
        if inside.dies_with_parent {
            options.say(&["--die-with-parent"]);
        }
        if self.disables_userns {
            options.say(&["--disable-userns"]);
        }
        for (name, value) in &inside.env {
            options.say(&["--setenv", name, value]);
        }
        system(&mut options, inside.network);
        // /dev is made of a tmpfs as well; what may grow is given a size and the rest is closed.
        options.say(&["--proc", "/proc", "--dev", "/dev"]);
        // The kernel lets root's own number write sysctls without any capability, and a core_pattern is a way out.
        for path in ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"] {
            options.say(&["--ro-bind-try", path, path]);
        }
        self.tmpfs(&mut options, "/dev/shm", inside.memory_bytes);
        options.say(&["--remount-ro", "/dev"]);
        self.tmpfs(&mut options, "/tmp", inside.memory_bytes);
        options.say(&["--symlink", "/tmp", "/var/tmp", "--dir", "/run"]);
        for path in &inside.read_only {
            let path = path.display().to_string();
            options.say(&["--ro-bind", &path, &path]);
        }
        for bind in &inside.read_write {
            options.say(&["--bind", &bind.host.display().to_string(), &bind.inside.display().to_string()]);
        }
        if let Some(config) = inside.cargo_config {
            options.say(&["--ro-bind", &config.display().to_string(), "/.cargo/config.toml"]);
        }
        options.say(&["--remount-ro", "/", "--chdir", &inside.cwd.display().to_string()]);
        options.0
    }

    fn tmpfs(&self, options: &mut Words, path: &str, bytes: u64) {
        if self.sizes_tmpfs {
            options.say(&["--size", &bytes.to_string()]);
        }
        options.say(&["--tmpfs", path]);
    }
}

#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn say(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|word| (*word).to_owned()));
    }
}

/// The system's programs, read-only. On merged systems /bin and its like are links, on others folders.
fn system(options: &mut Words, network: bool) {
    options.say(&["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/nix/store", "/nix/store"]);
    for path in ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
        match fs::read_link(path) {
            Ok(target) => options.say(&["--symlink", &target.display().to_string(), path]),
            Err(_) => options.say(&["--ro-bind-try", path, path]),
        }
    }
    for path in ETC {
        options.say(&["--ro-bind-try", path, path]);
    }
    if network {
        options.say(&["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf"]);
    }
    options.say(&["--ro-bind-data", "5", "/etc/passwd", "--ro-bind-data", "6", "/etc/group"]);
}

/// bwrap makes missing mount points by path, and would follow a symbolic link an earlier command left in a writable
/// folder. So every mount point below one is walked and made here, without following any.
pub(crate) fn prepare_mount_point(writable: &Path, below: &Path, host: &Path) -> Result<(), SandboxError> {
    let mut path = writable.to_owned();
    for part in below {
        path.push(part);
        match path.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => {
                return Err(invalid("read_write.inside", "a path without symbolic links", path.display()));
            }
            Ok(_) => {}
            Err(_) if path == writable.join(below) && host.is_file() => {
                File::create_new(&path)
                    .map_err(SandboxError::io(format!("make the mount point {}", path.display())))?;
            }
            Err(_) => {
                fs::create_dir(&path).map_err(SandboxError::io(format!("make the mount point {}", path.display())))?;
            }
        }
    }
    Ok(())
}
