//! The files a container's broker lives on: its configuration, its data, its logs, and the record of it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bot_sandbox::Engine;
use serde::{Deserialize, Serialize};

use super::{ContainerError, ContainerOptions, at};
use crate::Secret;
use crate::settings::{self, Limits, LogTo, write_private};

const RECORD: &str = "container.json";
/// As the official image has them.
pub(super) const CONFIG: &str = "/etc/rabbitmq";
pub(super) const DATA: &str = "/var/lib/rabbitmq";
pub(super) const LOG: &str = "/var/log/rabbitmq";
pub(super) const AMQP: u16 = 5672;
pub(super) const MANAGEMENT: u16 = 15672;
const FIGURES_EVERY: Duration = Duration::from_secs(5);

/// `<dir>/container.json`. Holds no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) engine: Engine,
    pub(super) options: ContainerOptions,
    /// Of 127.0.0.1.
    pub(super) amqp_port: u16,
    pub(super) management_port: u16,
    /// Started, and not stopped since: if it does not run, it died.
    pub(super) is_wanted: bool,
}

impl Record {
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, ContainerError> {
        let path = dir.join(RECORD);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| at(&path, error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path, error)),
        }
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), ContainerError> {
        let path = dir.join(RECORD);
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| at(&path, error.into()))?;
        write_private(&path, &bytes).map_err(|source| at(&path, source))
    }
}

/// Makes the folders, for this user alone, and gives the path that the engine is told.
pub(super) fn create(dir: &Path) -> Result<PathBuf, ContainerError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    for folder in [dir.to_owned(), dir.join("config"), dir.join("data"), dir.join("log")] {
        builder.create(&folder).map_err(|source| at(&folder, source))?;
    }
    let dir = dir.canonicalize().map_err(|source| at(dir, source))?;
    if dir.to_str().is_none_or(|text| text.contains([':', ',', '=']) || text.chars().any(char::is_control)) {
        let words = "a container engine cannot be given a path with a colon, a comma, an equals sign or no UTF-8";
        return Err(at(&dir, io::Error::new(io::ErrorKind::InvalidInput, words)));
    }
    Ok(dir)
}

/// Writes all configuration anew; password and cookie are made once and kept.
pub(super) fn write(dir: &Path, options: &ContainerOptions, log: LogTo) -> Result<Secret, ContainerError> {
    let limits =
        Limits { memory_mib: options.memory_mib, disk_free_mb: options.disk_free_mb, figures_every: FIGURES_EVERY };
    // All addresses of the container: the engine forwards from outside, and publishes on 127.0.0.1 alone.
    let mut lines = vec![format!("listeners.tcp.1 = {AMQP}"), format!("management.tcp.port = {MANAGEMENT}")];
    lines.extend(settings::configuration(limits, &format!("{CONFIG}/definitions.json"), log));
    let written = || {
        let password = settings::password_once(dir)?;
        settings::cookie_once(&dir.join("data"))?;
        for (name, text) in [
            ("rabbitmq.conf", lines.join("\n") + "\n"),
            ("advanced.config", settings::advanced(limits)),
            ("enabled_plugins", "[rabbitmq_management].\n".to_owned()),
            ("definitions.json", settings::definitions(&options.vhost, &options.admin, &password)),
        ] {
            write_private(&dir.join("config").join(name), text.as_bytes())?;
        }
        Ok(password)
    };
    written().map_err(|source| at(dir, source))
}

/// What it printed, and its own log.
pub(super) fn logs(dir: &Path) -> [PathBuf; 2] {
    [dir.join("log/console.log"), dir.join("log/rabbit.log")]
}
