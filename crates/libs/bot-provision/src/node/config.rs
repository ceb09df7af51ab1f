//! The files a node lives on and the commands that start it. Secrets go into files of mode 0600, never into argv.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::detached;
use super::record::NodeRecord;
use super::{NodeError, at};
use crate::Secret;
use crate::settings::{self, Limits, LogTo, write_private};

/// The folder of one node.
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn create(dir: &Path) -> Result<Self, NodeError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for folder in [dir.to_owned(), dir.join("log"), dir.join("data")] {
            builder.create(&folder).map_err(|source| at(&folder, source))?;
        }
        let dir = dir.canonicalize().map_err(|source| at(dir, source))?;
        let fits = |c: char| !c.is_whitespace() && !c.is_control() && !"\"'\\;{}$`#".contains(c);
        if !dir.to_str().is_some_and(|text| text.chars().all(fits)) {
            let words = "RabbitMQ's scripts break on spaces, quotes and the like in a path";
            return Err(at(&dir, io::Error::new(io::ErrorKind::InvalidInput, words)));
        }
        Ok(Self { dir })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The admin's password of an existing node.
    pub(super) fn password(dir: &Path) -> Result<Secret, NodeError> {
        settings::password(dir).map_err(|source| at(dir, source))
    }

    /// Console output of this start, and the node's own log.
    pub(super) fn logs(dir: &Path) -> [PathBuf; 2] {
        [dir.join("log/console.log"), dir.join("log/rabbit.log")]
    }

    /// Writes all configuration anew; password and cookie are made once and kept.
    pub(super) fn write(&self, record: &NodeRecord) -> Result<Secret, NodeError> {
        let password = settings::password_once(&self.dir).map_err(|source| at(&self.dir, source))?;
        settings::cookie_once(&self.dir).map_err(|source| at(&self.dir, source))?;
        let plugins: Vec<&str> = record.plugins.iter().map(String::as_str).collect();
        let plugins = [&["rabbitmq_management"], plugins.as_slice()].concat().join(",");
        for (name, text) in [
            ("rabbitmq.conf", self.configuration(record)),
            ("advanced.config", settings::advanced(limits(record))),
            // Empty, and named in the environment: else the system's would be read.
            ("rabbitmq-env.conf", String::new()),
            ("enabled_plugins", format!("[{plugins}].\n")),
            ("definitions.json", settings::definitions(&record.vhost, &record.admin, &password)),
        ] {
            let path = self.dir.join(name);
            write_private(&path, text.as_bytes()).map_err(|source| at(&path, source))?;
        }
        Ok(password)
    }

    fn configuration(&self, record: &NodeRecord) -> String {
        let mut lines = listeners(record);
        let definitions = self.dir.join("definitions.json");
        lines.extend(settings::configuration(limits(record), &definitions.to_string_lossy(), LogTo::File));
        lines.extend(record.config.iter().cloned());
        lines.join("\n") + "\n"
    }

    pub(super) fn epmd_command(&self, record: &NodeRecord) -> Result<Command, NodeError> {
        let port = record.ports.epmd.to_string();
        let args = ["epmd", "-address", "127.0.0.1", "-port", &port];
        self.command(record, &args, File::create(self.dir.join("log/epmd.log")))
    }

    pub(super) fn server_command(&self, record: &NodeRecord) -> Result<Command, NodeError> {
        let server = record.installation.server().to_string_lossy();
        let [console, _] = Self::logs(&self.dir);
        let mut command = self.command(record, &[&server], File::create(console))?;
        let at = |name: &str| self.dir.join(name);
        command
            // Makes the script become the node instead of waiting beside it: one process less, and signals and the
            // parent-death signal reach the node itself.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            // RabbitMQ looks after epmd every minute by running a second `erl`, which would start a daemon of its own
            // in place of ours if ours was just ended.
            .env("ERL_AFLAGS", "-start_epmd false")
            .env("RABBITMQ_NODENAME", &record.node_name)
            .env("RABBITMQ_DIST_PORT", record.ports.distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", at("data"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced.config"))
            .env("RABBITMQ_CONF_ENV_FILE", at("rabbitmq-env.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", at("rabbitmq.pid"))
            // Bound schedulers would put every node of the machine on the same first cores.
            .env("RABBITMQ_SCHEDULER_BIND_TYPE", "u")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", settings::ERLANG_ARGUMENTS);
        Ok(command)
    }

    /// `rabbitmqctl` on the node, and where it writes what it says.
    pub(super) fn ctl_command(&self, record: &NodeRecord, args: &[&str]) -> Result<(Command, PathBuf), NodeError> {
        let program = record.installation.server().with_file_name("rabbitmqctl");
        let said = self.dir.join("log/ctl.log");
        let mut command = self.command(record, &[&program.to_string_lossy()], File::create(&said))?;
        command
            .args(["-n", &record.node_name])
            .args(args)
            .env("RABBITMQ_CONF_ENV_FILE", self.dir.join("rabbitmq-env.conf"));
        Ok((command, said))
    }

    /// The environment is only what is set here: a broker has no business with the caller's secrets.
    fn command(&self, record: &NodeRecord, program: &[&str], out: io::Result<File>) -> Result<Command, NodeError> {
        let out = out.map_err(|source| at(&self.dir, source))?;
        let err = out.try_clone().map_err(|source| at(&self.dir, source))?;
        let mut command = detached(record.die_with_parent);
        command
            .args(record.installation.wrapper(record.die_with_parent))
            .args(program)
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", record.installation.path())
            .env("LANG", "C.UTF-8")
            .env("HOME", &self.dir)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", record.ports.epmd.to_string())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        if let Some(path) = record.installation.library_path() {
            command.env("LD_LIBRARY_PATH", path);
        }
        Ok(command)
    }
}

/// Where it listens: on this machine alone, over TLS alone where it is asked for.
fn listeners(record: &NodeRecord) -> Vec<String> {
    let (amqp, management) = (record.ports.amqp, record.ports.management);
    let Some(tls) = &record.tls else {
        return vec![
            format!("listeners.tcp.1 = 127.0.0.1:{amqp}"),
            "management.tcp.ip = 127.0.0.1".to_owned(),
            format!("management.tcp.port = {management}"),
        ];
    };
    let mut lines = vec![
        "listeners.tcp = none".to_owned(),
        format!("listeners.ssl.1 = 127.0.0.1:{amqp}"),
        "management.ssl.ip = 127.0.0.1".to_owned(),
        format!("management.ssl.port = {management}"),
        "ssl_options.versions.1 = tlsv1.3".to_owned(),
        "ssl_options.versions.2 = tlsv1.2".to_owned(),
        format!("ssl_options.verify = {}", if tls.asks_clients { "verify_peer" } else { "verify_none" }),
        format!("ssl_options.fail_if_no_peer_cert = {}", tls.asks_clients),
    ];
    for section in ["ssl_options", "management.ssl"] {
        lines.push(format!("{section}.cacertfile = {}", tls.authority.display()));
        lines.push(format!("{section}.certfile = {}", tls.certificate.display()));
        lines.push(format!("{section}.keyfile = {}", tls.key.display()));
    }
    lines
}

fn limits(record: &NodeRecord) -> Limits {
    let NodeRecord { memory_mib, disk_free_mb, figures_every, .. } = *record;
    Limits { memory_mib, disk_free_mb, figures_every }
}
