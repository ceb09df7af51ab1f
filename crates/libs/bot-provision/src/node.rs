//! A private RabbitMQ node: started, found again, stopped. Its files are written in `node/config.rs`, its processes
//! handled in `node/process.rs`, its record kept in `node/record.rs`.

mod cluster;
mod config;
mod installation;
mod process;
mod record;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::command::last_lines;
use crate::lock::lock;
use crate::management::{Management, ManagementError};
use crate::ports::{PortError, free_ports};
use crate::ready::{listens, readiness, taken};
use crate::{DebsError, Progress, Secret};
pub use cluster::Cluster;
use config::Files;
pub use installation::Installation;
pub use process::ProcessId;
use process::{Spawned, Stopping, spawn};
pub use record::{NodePorts, NodeRecord};
use serde::{Deserialize, Serialize};

/// Usually 5 to 18 s; the rest is for a machine that builds something at the same time.
const START_LIMIT: Duration = Duration::from_mins(2);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const KILL_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const TELL_EVERY: Duration = Duration::from_secs(3);
const LOG_LINES_SHOWN: usize = 25;

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Debs(#[from] DebsError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(
        "expected port {port} of 127.0.0.1 to be free for the RabbitMQ node of {dir}, but another program listens on \
         it; end that program (see `ss -ltnp`), or delete {dir}/node.json so that the node picks new ports"
    )]
    PortTaken { port: u16, dir: PathBuf },
    #[error("the RabbitMQ node of {dir} ended while it started ({how}); its last lines:\n{log}")]
    Ended { dir: PathBuf, how: String, log: String },
    #[error(
        "the RabbitMQ node of {dir} was not ready after {seconds} s (last answer: {last}); it has been ended. Its last \
         lines:\n{log}"
    )]
    NotReady { dir: PathBuf, seconds: u64, last: String, log: String },
    #[error(
        "expected process {pid} to end after SIGKILL within {seconds} s, and it did not; look at it with `ps -fp {pid}`"
    )]
    Unkillable { pid: u32, seconds: u64 },
    #[error(
        "cannot use {path} for the RabbitMQ node: {source}; make it writable for this user or choose another folder"
    )]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Management(#[from] ManagementError),
}

/// How a private node is to be. Everything it keeps lies in `dir`, which belongs to it alone.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    pub dir: PathBuf,
    /// The part of the node's name before `@localhost`; letters, digits, `-` and `_`.
    pub name: String,
    pub installation: Installation,
    /// Picked once and then kept in `dir`, unless given.
    pub ports: Option<NodePorts>,
    pub vhost: String,
    /// The node's only user at first; its password lies in `<dir>/admin.password` (mode 0600).
    pub admin: String,
    pub memory_mib: u32,
    pub disk_free_mb: u32,
    /// How often queues tell their figures and the management API collects them; RabbitMQ's own default is 5 s.
    pub figures_every: Duration,
    /// Besides `rabbitmq_management`.
    pub plugins: Vec<String>,
    /// Further lines of `rabbitmq.conf`.
    pub config: Vec<String>,
    /// AMQP and the management API over TLS alone.
    pub tls: Option<NodeTls>,
    /// The whole names of a cluster's nodes, its own too; none for a node that is alone. See [`Cluster`].
    pub peers: Vec<String>,
    /// The kernel kills the node when this process ends, however it ends. For tests.
    pub die_with_parent: bool,
}

/// PEM files that the node reads itself, again for each connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTls {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// AMQP clients have to show a certificate of that authority besides their password.
    pub asks_clients: bool,
}

impl NodeOptions {
    pub fn new(dir: impl Into<PathBuf>, installation: Installation) -> Self {
        Self {
            dir: dir.into(),
            name: "lota".to_owned(),
            installation,
            ports: None,
            vhost: "lota".to_owned(),
            admin: "lota-admin".to_owned(),
            memory_mib: 512,
            disk_free_mb: 50,
            figures_every: Duration::from_secs(5),
            plugins: Vec::new(),
            config: Vec::new(),
            tls: None,
            peers: Vec::new(),
            die_with_parent: false,
        }
    }
}

/// A node that was running when this value was made. Dropping it leaves the node running, except one that was
/// started with `die_with_parent` by this very process.
#[derive(Debug)]
pub struct Node {
    dir: PathBuf,
    record: NodeRecord,
    password: Secret,
    started_here: Option<Spawned>,
}

impl Node {
    /// Starts the node of `options.dir`, or attaches to it when it runs already. Returns when it answers on AMQP and
    /// HTTP with its vhost and admin in place.
    pub async fn start(options: NodeOptions, progress: Progress<'_>) -> Result<Self, NodeError> {
        let files = Files::create(&options.dir)?;
        let dir = files.dir().to_owned();
        let what = "starts the same RabbitMQ node";
        let held = lock(&dir.join("lock"), START_LIMIT, what, progress).await;
        let _held = held.map_err(|source| at(&dir, source))?;
        if let Some(node) = Self::attach(&dir)? {
            progress(&format!("RabbitMQ of {} is running already", dir.display()));
            // Whoever started it may have given up waiting.
            node.wait_until_ready(None, progress).await?;
            return Ok(node);
        }
        let earlier = NodeRecord::read(&dir)?;
        // epmd outlives a node that was killed, and holds the port.
        if let Some(epmd) = earlier.as_ref().and_then(|record| record.epmd) {
            process::end(epmd, Stopping::Kill, KILL_LIMIT).await?;
        }
        let ports = match (options.ports, &earlier) {
            (Some(fixed), _) => fixed,
            (None, Some(earlier)) => earlier.ports,
            (None, None) => {
                let [amqp, management, distribution, epmd] = free_ports()?;
                NodePorts { amqp, management, distribution, epmd }
            }
        };
        let record = NodeRecord::new(&options, ports);
        if let Some(port) = taken(&ports.own(record.has_epmd())).await {
            return Err(NodeError::PortTaken { port, dir });
        }
        // Before anything runs: should this process die now, the next start finds the same ports.
        record.write(&dir)?;
        let password = files.write(&record)?;
        let mut node = Self { dir, record, password, started_here: None };
        let result = node.launch(&files, progress).await;
        if result.is_err() {
            // The first error is the one to show.
            let _ = node.kill().await;
        }
        result.map(|()| node)
    }

    /// The node of `dir` if it runs, whoever started it.
    pub fn attach(dir: &Path) -> Result<Option<Self>, NodeError> {
        let Some(record) = NodeRecord::read(dir)? else {
            return Ok(None);
        };
        if !record.process.is_some_and(process::is_alive) {
            return Ok(None);
        }
        let password = Files::password(dir)?;
        Ok(Some(Self { dir: dir.to_owned(), record, password, started_here: None }))
    }

    /// Starts the node of `dir` again if it died: it was started, nobody stopped it, and it is gone.
    pub async fn revive(dir: &Path, progress: Progress<'_>) -> Result<bool, NodeError> {
        let Some(record) = NodeRecord::read(dir)?.filter(|record| record.process.is_some()) else {
            return Ok(false);
        };
        if record.process.is_some_and(process::is_alive) {
            return Ok(false);
        }
        let started = Self::start(record.options(dir), progress).await;
        if started.is_err() {
            // A node that could not be started has still died, and is tried again.
            record.write(dir)?;
        }
        started.map(|_| true)
    }

    /// Stops what runs of the node of `dir`, be it ready, half started or half gone. `false`: nothing did.
    pub async fn end(dir: &Path) -> Result<bool, NodeError> {
        let Some(mut record) = NodeRecord::read(dir)? else {
            return Ok(false);
        };
        let known = [record.process, record.epmd];
        let runs = known.into_iter().flatten().any(process::is_alive);
        if known.iter().any(Option::is_some) {
            stop(&mut record, dir).await?;
        }
        Ok(runs)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn record(&self) -> &NodeRecord {
        &self.record
    }

    pub fn amqp_port(&self) -> u16 {
        self.record.ports.amqp
    }

    pub fn management_port(&self) -> u16 {
        self.record.ports.management
    }

    pub fn vhost(&self) -> &str {
        &self.record.vhost
    }

    pub fn admin(&self) -> &str {
        &self.record.admin
    }

    pub fn admin_password(&self) -> &Secret {
        &self.password
    }

    pub fn is_running(&self) -> bool {
        self.record.process.is_some_and(process::is_alive)
    }

    /// A client with the admin's rights.
    pub fn management(&self) -> Result<Management, NodeError> {
        Ok(Management::new(&self.management_url(), self.admin(), self.password.clone(), self.authority())?)
    }

    pub fn management_url(&self) -> String {
        let scheme = if self.record.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.management_port())
    }

    pub fn amqp_url(&self) -> String {
        let scheme = if self.record.tls.is_some() { "amqps" } else { "amqp" };
        format!("{scheme}://127.0.0.1:{}/{}", self.amqp_port(), self.vhost())
    }

    /// Whom to trust, where it speaks TLS.
    pub fn authority(&self) -> Option<&Path> {
        self.record.tls.as_ref().map(|tls| tls.authority.as_path())
    }

    /// Ends the node as RabbitMQ wants it, then by force after 30 s. Ports, queues and messages stay for the next
    /// start. `true` when force was not needed.
    pub async fn stop(&mut self) -> Result<bool, NodeError> {
        let graceful = stop(&mut self.record, &self.dir).await;
        self.started_here = None;
        graceful
    }

    /// `kill -9`, for tests and for what does not stop. Returns when it is gone.
    pub async fn kill(&mut self) -> Result<(), NodeError> {
        kill(&mut self.record, &self.dir).await?;
        self.started_here = None;
        Ok(())
    }

    /// Stops the node if it runs, and starts it on the same ports with what it kept. Also brings back a killed one.
    pub async fn restart(&mut self, progress: Progress<'_>) -> Result<(), NodeError> {
        self.stop().await?;
        let options = self.record.options(&self.dir);
        *self = Self::start(options, progress).await?;
        Ok(())
    }

    /// Runs `rabbitmqctl` on the node, one at a time, for what no API offers; what it says. For tests and repairs.
    pub async fn ctl(&self, args: &[&str]) -> Result<String, NodeError> {
        let (mut command, said) = Files::create(&self.dir)?.ctl_command(&self.record, args)?;
        let ended = tokio::task::spawn_blocking(move || command.status()).await;
        let status = ended.map_err(io::Error::other).and_then(|ended| ended).map_err(|source| at(&self.dir, source))?;
        let text = std::fs::read_to_string(&said).map_err(|source| at(&said, source))?;
        if status.success() {
            return Ok(text);
        }
        let why = format!("rabbitmqctl {} ended with {status}: {}", args.join(" "), text.trim());
        Err(at(&self.dir, io::Error::other(why)))
    }

    async fn launch(&mut self, files: &Files, progress: Progress<'_>) -> Result<(), NodeError> {
        let begun = Instant::now();
        if self.record.has_epmd() {
            let epmd = spawn(files.epmd_command(&self.record)?).map_err(|source| at(&self.dir, source))?;
            self.record.epmd = Some(epmd.id);
            self.record.write(&self.dir)?;
            // A node that finds no epmd starts one of its own, as a daemon that nobody ends.
            while let Err(last) = listens("epmd", self.record.ports.epmd).await {
                self.check(epmd.ended(), begun, &last)?;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        let server = spawn(files.server_command(&self.record)?).map_err(|source| at(&self.dir, source))?;
        self.record.process = Some(server.id);
        self.record.write(&self.dir)?;
        self.wait_until_ready(Some(&server), progress).await?;
        self.started_here = Some(server);
        Ok(())
    }

    async fn wait_until_ready(&self, server: Option<&Spawned>, progress: Progress<'_>) -> Result<(), NodeError> {
        let begun = Instant::now();
        let management = self.management()?;
        let mut told = begun;
        while let Err(last) =
            readiness(&management, self.vhost(), self.amqp_port(), self.management_port(), self.record.tls.is_some())
                .await
        {
            let ended = match server {
                Some(server) => server.ended(),
                None => (!self.is_running()).then(|| "another process started it".to_owned()),
            };
            self.check(ended, begun, &last)?;
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                progress(&format!("RabbitMQ starts, {} s: {last}", begun.elapsed().as_secs()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let (port, seconds) = (self.amqp_port(), begun.elapsed().as_secs_f32());
        progress(&format!("RabbitMQ is ready on 127.0.0.1:{port} after {seconds:.1} s"));
        Ok(())
    }

    fn check(&self, ended: Option<String>, begun: Instant, last: &str) -> Result<(), NodeError> {
        let dir = self.dir.clone();
        if let Some(how) = ended {
            return Err(NodeError::Ended { dir, how, log: self.last_log_lines() });
        }
        if begun.elapsed() > START_LIMIT {
            let log = self.last_log_lines();
            let last = last.to_owned();
            return Err(NodeError::NotReady { dir, seconds: START_LIMIT.as_secs(), last, log });
        }
        Ok(())
    }

    fn last_log_lines(&self) -> String {
        let texts = Files::logs(&self.dir).map(|path| std::fs::read(path).unwrap_or_default());
        let parts = texts.map(|text| last_lines(&String::from_utf8_lossy(&text), LOG_LINES_SHOWN));
        parts.join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.record.die_with_parent && self.started_here.is_some() {
            for id in [self.record.process, self.record.epmd].into_iter().flatten() {
                process::kill_now(id);
            }
        }
    }
}

async fn stop(record: &mut NodeRecord, dir: &Path) -> Result<bool, NodeError> {
    let graceful = match record.process {
        Some(server) => process::end(server, Stopping::Ask, STOP_LIMIT).await?,
        None => true,
    };
    kill(record, dir).await?;
    Ok(graceful)
}

async fn kill(record: &mut NodeRecord, dir: &Path) -> Result<(), NodeError> {
    for id in [record.process.take(), record.epmd.take()].into_iter().flatten() {
        process::end(id, Stopping::Kill, KILL_LIMIT).await?;
    }
    record.write(dir)
}

fn at(path: &Path, source: io::Error) -> NodeError {
    NodeError::Io { path: path.to_owned(), source }
}
