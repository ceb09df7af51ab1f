//! The bot's own section of its configuration file.
use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use bot_messages::pipeline::Span;
use bot_sandbox::SandboxKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `settings` of `deploy-bot.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The operator's file of environments; a relative path starts from the configuration folder.
    pub environments: PathBuf,
    /// The folder of what targets name as secrets: one file each, mode 0600; a relative path starts from the configuration
    /// folder.
    pub secret_dir: PathBuf,
    /// A larger artifact is refused. MiB, as stored.
    pub artifact_mib_max: u64,
    /// An artifact that is larger once it is unpacked is refused. MiB.
    pub unpacked_mib_max: u64,
    /// An artifact with more files, links and folders is refused.
    pub entries_max: u64,
    /// How long an application may take to end by itself before it is killed.
    pub stop_grace: Span,
    /// `bubblewrap`, `landlock` or `process-group`: that kind of sandbox and no other. Absent: the strongest that works here.
    pub sandbox: Option<SandboxKind>,
    /// Whether commands of repositories that are not `trust: own` run where only process groups work, which keep nothing in.
    pub allow_weak_sandbox: bool,
    /// How often applications are looked after.
    pub check_every: Span,
    /// The first and the last of the ports that are picked, where an environment says `port: auto`.
    pub ports: (u16, u16),
    /// The address that applications are told to listen on, as `HOST`. Where DeployBot is in a container, `0.0.0.0`: what
    /// listens on 127.0.0.1 there is reached from nowhere else.
    pub listen: IpAddr,
    /// By which name other processes of the fleet reach applications: the monitor asks there how they are.
    pub reached_at: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            environments: "environments.yaml".into(),
            secret_dir: "deploy-secrets".into(),
            artifact_mib_max: 1024,
            unpacked_mib_max: 4096,
            entries_max: 100_000,
            stop_grace: Span(Duration::from_secs(10)),
            sandbox: None,
            allow_weak_sandbox: false,
            check_every: Span(Duration::from_secs(5)),
            ports: (20_000, 29_999),
            listen: Ipv4Addr::LOCALHOST.into(),
            reached_at: "127.0.0.1".into(),
        }
    }
}
