//! What every RabbitMQ of ours is told, whether it is a process or a container; and how its secrets are written.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::Secret;
use crate::password::{HASHING, rabbit_hash};

const PASSWORD_FILE: &str = "admin.password";
const PASSWORD_LETTERS: usize = 32;
const COOKIE_LETTERS: usize = 40;

/// How large and how busy a broker may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) memory_mib: u32,
    pub(crate) disk_free_mb: u32,
    pub(crate) figures_every: Duration,
}

/// Where RabbitMQ writes its log.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LogTo {
    /// `rabbit.log` in its folder of logs, with three older ones.
    File,
    /// Its standard output, for whoever runs it to keep.
    Console,
}

/// Lines of rabbitmq.conf; where to listen comes on top. `definitions` is the path as RabbitMQ sees it.
pub(crate) fn configuration(limits: Limits, definitions: &str, log: LogTo) -> Vec<String> {
    let Limits { memory_mib, disk_free_mb, figures_every } = limits;
    let mut lines = vec![
        // Loaded at every start. That there are definitions also keeps RabbitMQ from creating guest.
        format!("load_definitions = {definitions}"),
        "auth_mechanisms.1 = PLAIN".to_owned(),
        "auth_mechanisms.2 = AMQPLAIN".to_owned(),
        "max_message_size = 1048576".to_owned(),
        format!("vm_memory_high_watermark.absolute = {memory_mib}MiB"),
        format!("disk_free_limit.absolute = {disk_free_mb}MB"),
        format!("collect_statistics_interval = {}", figures_every.as_millis()),
    ];
    let log: &[&str] = match log {
        LogTo::File => &[
            "log.console = false",
            "log.file = rabbit.log",
            "log.file.level = info",
            "log.file.rotation.size = 10485760",
            "log.file.rotation.count = 3",
        ],
        LogTo::Console => &["log.console = true", "log.console.level = info", "log.file = false"],
    };
    lines.extend(log.iter().map(ToString::to_string));
    lines
}

/// What rabbitmq.conf has no name for.
pub(crate) fn advanced(limits: Limits) -> String {
    format!("[{{rabbit, [{{quorum_tick_interval, {}}}]}}].\n", limits.figures_every.as_millis())
}

/// The one vhost and its administrator.
pub(crate) fn definitions(vhost: &str, admin: &str, password: &Secret) -> String {
    json!({
        "vhosts": [{ "name": vhost }],
        "users": [{
            "name": admin,
            "password_hash": rabbit_hash(password),
            "hashing_algorithm": HASHING,
            "tags": "administrator",
        }],
        "permissions": [{ "user": admin, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*" }],
    })
    .to_string()
}

/// Erlang's own switches: two schedulers that sleep when there is nothing to do, and no other node may connect.
pub(crate) const ERLANG_ARGUMENTS: &str =
    "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";

/// The admin's password that lies in `dir`.
pub(crate) fn password(dir: &Path) -> io::Result<Secret> {
    Ok(Secret::new(std::fs::read_to_string(dir.join(PASSWORD_FILE))?.trim()))
}

/// The same; made on first use.
pub(crate) fn password_once(dir: &Path) -> io::Result<Secret> {
    let file = dir.join(PASSWORD_FILE);
    if !file.exists() {
        write_private(&file, Secret::random(PASSWORD_LETTERS).expose().as_bytes())?;
    }
    password(dir)
}

/// The Erlang cookie of a node whose HOME is `home`; made on first use.
pub(crate) fn cookie_once(home: &Path) -> io::Result<()> {
    let file = home.join(".erlang.cookie");
    if file.exists() {
        return Ok(());
    }
    // Erlang accepts it only if nobody else may read it.
    write_private(&file, Secret::random(COOKIE_LETTERS).expose().as_bytes())
}

/// Replaces `path` in one step by a file that only its owner may read.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&next)?;
    // The mode above counts only for a new file.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    std::fs::rename(&next, path)
}
