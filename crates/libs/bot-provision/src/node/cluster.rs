//! Three private nodes that are one broker, for tests: formed, a node killed and brought back, all stopped in order.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::config::Files;
use super::process::{self, Spawned, Stopping, spawn};
use super::{KILL_LIMIT, LOOK_EVERY, Node, NodeError, NodeOptions, NodePorts, START_LIMIT, at, record::NodeRecord};
use crate::ports::{PortError, free_port, free_ports};
use crate::ready::listens;
use crate::{Progress, settings};

/// As many as a quorum queue has members.
const SIZE: usize = 3;

/// Nodes with one cookie and an epmd of their own. All end with this process, and with this value.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    options: [NodeOptions; SIZE],
    nodes: [Option<Node>; SIZE],
    epmd: Option<Spawned>,
}

impl Cluster {
    /// Starts three nodes like `options`, whose folder holds one for each. Returns when each of them sees all.
    pub async fn start(options: NodeOptions, progress: Progress<'_>) -> Result<Self, NodeError> {
        let dir = Files::create(&options.dir)?.dir().to_owned();
        let names = [1, 2, 3].map(|number| format!("{}-{number}", options.name));
        let peers: Vec<String> = names.iter().map(|name| format!("{name}@localhost")).collect();
        let epmd = free_port()?;
        let mut members = Vec::new();
        for name in names {
            let ports = ports(epmd)?;
            let folder = dir.join(&name);
            members.push(NodeOptions {
                dir: folder,
                name,
                ports: Some(ports),
                peers: peers.clone(),
                ..options.clone()
            });
        }
        let options = <[NodeOptions; SIZE]>::try_from(members)
            .map_err(|_| at(&dir, std::io::Error::other("expected three nodes")))?
            .map(|options| NodeOptions { die_with_parent: true, ..options });
        for options in &options {
            share_secrets(&dir, &Files::create(&options.dir)?)?;
        }
        let mut cluster = Self { dir, options, nodes: [None, None, None], epmd: None };
        cluster.bring_back(progress).await?;
        Ok(cluster)
    }

    /// Starts whatever does not run, and returns when each node sees all of them.
    pub async fn bring_back(&mut self, progress: Progress<'_>) -> Result<(), NodeError> {
        self.start_epmd().await?;
        let [a, b, c] = &mut self.nodes;
        let [of_a, of_b, of_c] = &self.options;
        // At once: the first of a cluster that was stopped waits for the others.
        let started = tokio::join!(run(a, of_a, progress), run(b, of_b, progress), run(c, of_c, progress));
        started.0.and(started.1).and(started.2)?;
        self.wait_until_whole().await
    }

    /// The nodes that run, in their order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten().filter(|node| node.is_running())
    }

    /// One of the three (0 to 2), unless it was stopped or killed.
    pub fn node(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)?.as_ref()
    }

    /// Where all three are, as a bot's `LOTA_AMQP_URL` has it; also while some do not run.
    pub fn amqp_urls(&self) -> String {
        let url = |options: &NodeOptions| {
            let port = options.ports.map_or(0, |ports| ports.amqp);
            format!("amqp://127.0.0.1:{port}/{}", options.vhost)
        };
        self.options.each_ref().map(url).join(",")
    }

    /// `kill -9` to one of the three; gone when this returns.
    pub async fn kill(&mut self, index: usize) -> Result<(), NodeError> {
        match self.nodes.get_mut(index).and_then(Option::take) {
            Some(mut node) => node.kill().await,
            None => Ok(()),
        }
    }

    /// Stops all in order, the last first, then what they found each other by. What they keep stays for
    /// [`Cluster::bring_back`]. `true` when none had to be killed.
    pub async fn stop(&mut self) -> Result<bool, NodeError> {
        let mut graceful = true;
        for node in self.nodes.iter_mut().rev() {
            if let Some(mut node) = node.take() {
                graceful &= node.stop().await?;
            }
        }
        if let Some(epmd) = self.epmd.take() {
            process::end(epmd.id, Stopping::Kill, KILL_LIMIT).await?;
        }
        Ok(graceful)
    }

    async fn start_epmd(&mut self) -> Result<(), NodeError> {
        if self.epmd.as_ref().is_some_and(|epmd| process::is_alive(epmd.id)) {
            return Ok(());
        }
        let [first, ..] = &self.options;
        let Some(ports) = first.ports else { return Ok(()) };
        let record = NodeRecord::new(first, ports);
        let epmd = spawn(Files::create(&self.dir)?.epmd_command(&record)?).map_err(|source| at(&self.dir, source))?;
        let begun = Instant::now();
        while let Err(last) = listens("epmd", ports.epmd).await {
            let dir = self.dir.clone();
            if let Some(how) = epmd.ended() {
                return Err(NodeError::Ended { dir, how, log: String::new() });
            }
            if begun.elapsed() > START_LIMIT {
                let _ = process::end(epmd.id, Stopping::Kill, KILL_LIMIT).await;
                return Err(NodeError::NotReady { dir, seconds: START_LIMIT.as_secs(), last, log: String::new() });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.epmd = Some(epmd);
        Ok(())
    }

    async fn wait_until_whole(&self) -> Result<(), NodeError> {
        let begun = Instant::now();
        for node in self.nodes() {
            let management = node.management()?;
            loop {
                let seen = management.running_nodes().await.map_or(0, |names| names.len());
                if seen == SIZE {
                    break;
                }
                if begun.elapsed() > START_LIMIT {
                    let last = format!("{} sees {seen} of {SIZE} nodes", node.record().node_name);
                    let log = node.last_log_lines();
                    return Err(NodeError::NotReady {
                        dir: self.dir.clone(),
                        seconds: START_LIMIT.as_secs(),
                        last,
                        log,
                    });
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The nodes end with their own values.
        if let Some(epmd) = &self.epmd {
            process::kill_now(epmd.id);
        }
    }
}

async fn run(node: &mut Option<Node>, options: &NodeOptions, progress: Progress<'_>) -> Result<(), NodeError> {
    if !node.as_ref().is_some_and(Node::is_running) {
        *node = Some(Box::pin(Node::start(options.clone(), progress)).await?);
    }
    Ok(())
}

fn ports(epmd: u16) -> Result<NodePorts, PortError> {
    let [amqp, management, distribution] = free_ports()?;
    Ok(NodePorts { amqp, management, distribution, epmd })
}

/// Nodes are one broker by their cookie, and any of them may be the one that makes the admin.
fn share_secrets(cluster: &Path, node: &Files) -> Result<(), NodeError> {
    settings::password_once(cluster).map_err(|source| at(cluster, source))?;
    settings::cookie_once(cluster).map_err(|source| at(cluster, source))?;
    settings::copy_secrets(cluster, node.dir()).map_err(|source| at(node.dir(), source))
}
