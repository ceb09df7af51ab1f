//! Where RabbitMQ and its Erlang come from: the machine's own, else the unpacked packages; for tests, another release of
//! Debian in a folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Bundle, DebsError, PackageCache, Progress, library_path};

/// The directory every program that the scripts use is looked for in, after the installation's own.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A RabbitMQ that can be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// `/` for an installed one.
    root: PathBuf,
    server: PathBuf,
    /// What lies below `root` is a whole system with libraries of its own: its `/usr` and `/etc` stand in for ours.
    #[serde(default)]
    is_system: bool,
}

/// Runs what follows with another system's programs and libraries. No process stays between, so that signals and ends
/// are the program's own.
const IN_SYSTEM: &str = r#"mount --bind "$0/usr" /usr && mount --bind "$0/etc" /etc && exec "$@""#;

impl Installation {
    /// The machine's RabbitMQ; where there is none, the one in `cache_dir`, unpacked first if need be.
    pub async fn find(cache_dir: &Path, progress: Progress<'_>) -> Result<Self, DebsError> {
        if let Some(installed) = Self::installed() {
            return Ok(installed);
        }
        let root = PackageCache::new(cache_dir).ensure(Bundle::RabbitMq, progress).await?;
        Ok(Self::unpacked(root))
    }

    /// The machine's own, from its package or the official image.
    pub fn installed() -> Option<Self> {
        let root = PathBuf::from("/");
        let servers = [root.join(Bundle::RabbitMq.program()), "/opt/rabbitmq/sbin/rabbitmq-server".into()];
        let server = servers.into_iter().find(|path| path.is_file())?;
        Some(Self { root, server, is_system: false })
    }

    /// The RabbitMQ of a series such as `4.3`, in the release of Debian that lies in `<cache_dir>/brokers/<series>`. Needs
    /// root or user namespaces, and a machine whose programs all lie in `/usr`. `None`: there is none.
    pub fn of_series(cache_dir: &Path, series: &str) -> Option<Self> {
        let root = cache_dir.join("brokers").join(series).canonicalize().ok()?;
        let server = Path::new("/").join(Bundle::RabbitMq.program());
        root.join(Bundle::RabbitMq.program()).is_file().then_some(Self { root, server, is_system: true })
    }

    /// The tree that [`PackageCache::ensure`] returned.
    pub fn unpacked(root: PathBuf) -> Self {
        let server = root.join(Bundle::RabbitMq.program());
        Self { root, server, is_system: false }
    }

    pub fn server(&self) -> &Path {
        &self.server
    }

    fn is_installed(&self) -> bool {
        self.is_system || self.root == Path::new("/")
    }

    /// What stands before a program that is to run on this installation. `die_with_parent` as for the node: becoming root
    /// of a user namespace makes the kernel forget it.
    pub(super) fn wrapper(&self, die_with_parent: bool) -> Vec<OsString> {
        if !self.is_system {
            return Vec::new();
        }
        let mut words: Vec<OsString> = vec!["unshare".into(), "--mount".into()];
        if !nix::unistd::geteuid().is_root() {
            words.push("--map-root-user".into());
        }
        words.extend(["sh".into(), "-c".into(), IN_SYSTEM.into(), self.root.clone().into_os_string()]);
        if die_with_parent {
            words.extend(["setpriv", "--pdeathsig", "KILL"].map(OsString::from));
        }
        words
    }

    /// PATH for the node's scripts, which start `erl` and `epmd` by name.
    pub(super) fn path(&self) -> OsString {
        if self.is_installed() {
            return format!("/opt/erlang/lib/erlang/bin:{SYSTEM_PATH}:/usr/lib/erlang/bin").into();
        }
        let mut path = self.root.join("usr/lib/erlang/bin").into_os_string();
        path.push(":");
        path.push(SYSTEM_PATH);
        path
    }

    pub(super) fn library_path(&self) -> Option<OsString> {
        let path = if self.is_installed() { OsString::new() } else { library_path(&self.root) };
        (!path.is_empty()).then_some(path)
    }
}
