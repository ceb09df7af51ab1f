//! What a node's folder remembers: options, ports, and the processes of the last start. No processes are touched here.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::process::ProcessId;
use super::{Installation, NodeError, NodeOptions, NodeTls, at};
use crate::settings::write_private;

const FILE: &str = "node.json";

/// The four ports of 127.0.0.1 a node listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePorts {
    pub amqp: u16,
    pub management: u16,
    pub distribution: u16,
    pub epmd: u16,
}

impl NodePorts {
    /// Those that nobody may listen on when a node starts.
    pub(super) fn own(self, has_epmd: bool) -> Vec<u16> {
        let mut ports = vec![self.amqp, self.management, self.distribution];
        ports.extend(has_epmd.then_some(self.epmd));
        ports
    }
}

/// `<dir>/node.json`. Holds no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The whole name, `lota@localhost`.
    pub node_name: String,
    pub ports: NodePorts,
    pub vhost: String,
    pub admin: String,
    pub installation: Installation,
    pub memory_mib: u32,
    pub disk_free_mb: u32,
    pub figures_every: Duration,
    pub plugins: Vec<String>,
    pub config: Vec<String>,
    #[serde(default)]
    pub tls: Option<NodeTls>,
    #[serde(default)]
    pub peers: Vec<String>,
    pub die_with_parent: bool,
    /// The leader of the server's process group; none after a stop.
    pub process: Option<ProcessId>,
    pub epmd: Option<ProcessId>,
}

impl NodeRecord {
    /// Whether it starts the epmd it is found by; that of a cluster is there before its nodes.
    pub(super) fn has_epmd(&self) -> bool {
        self.peers.is_empty()
    }

    pub(super) fn new(options: &NodeOptions, ports: NodePorts) -> Self {
        let options = options.clone();
        let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let name: String = options.name.chars().filter(fits).collect();
        let name = if name.is_empty() { "lota".to_owned() } else { name };
        Self {
            node_name: format!("{name}@localhost"),
            ports,
            vhost: options.vhost,
            admin: options.admin,
            installation: options.installation,
            memory_mib: options.memory_mib,
            disk_free_mb: options.disk_free_mb,
            figures_every: options.figures_every,
            plugins: options.plugins,
            config: options.config,
            tls: options.tls,
            peers: options.peers,
            die_with_parent: options.die_with_parent,
            process: None,
            epmd: None,
        }
    }

    /// The options it was started with; the ports now fixed.
    pub(super) fn options(&self, dir: &Path) -> NodeOptions {
        let record = self.clone();
        NodeOptions {
            dir: dir.to_owned(),
            name: record.node_name.trim_end_matches("@localhost").to_owned(),
            installation: record.installation,
            ports: Some(record.ports),
            vhost: record.vhost,
            admin: record.admin,
            memory_mib: record.memory_mib,
            disk_free_mb: record.disk_free_mb,
            figures_every: record.figures_every,
            plugins: record.plugins,
            config: record.config,
            tls: record.tls,
            peers: record.peers,
            die_with_parent: record.die_with_parent,
        }
    }

    /// The record of `dir`; none where no node was ever started.
    pub fn read(dir: &Path) -> Result<Option<Self>, NodeError> {
        let path = dir.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path, error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| at(&path, error.into()))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), NodeError> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| at(&path, error.into()))?;
        write_private(&path, &bytes).map_err(|source| at(&path, source))
    }
}
