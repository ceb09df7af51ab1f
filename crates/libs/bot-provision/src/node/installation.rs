//! Where RabbitMQ and its Erlang come from: the machine's own, else the unpacked packages.

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
}

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
        Some(Self { root, server })
    }

    /// The tree that [`PackageCache::ensure`] returned.
    pub fn unpacked(root: PathBuf) -> Self {
        let server = root.join(Bundle::RabbitMq.program());
        Self { root, server }
    }

    pub fn server(&self) -> &Path {
        &self.server
    }

    fn is_installed(&self) -> bool {
        self.root == Path::new("/")
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
