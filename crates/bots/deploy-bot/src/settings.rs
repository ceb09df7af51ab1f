//! The bot's own section of its configuration file.
use std::{
    fmt,
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
    /// Those that one is picked from where an environment says `port: auto`.
    pub ports: Ports,
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
            ports: Ports { first: 20_000, last: 29_999 },
            listen: Ipv4Addr::LOCALHOST.into(),
            reached_at: "127.0.0.1".into(),
        }
    }
}

/// Ports, written as the first and the last: `20000-29999`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// All of them, beginning with a place among them that `seed` alone decides.
    pub(crate) fn beginning_by(self, seed: u16) -> impl Iterator<Item = u16> {
        let count = u32::from(self.last - self.first) + 1;
        (0..count).map(move |n| self.first + ((u32::from(seed) + n) % count) as u16)
    }

    pub(crate) fn holds(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let ends = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match ends {
            Some((first, last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(format!("`{text}` is no range of ports: expected the first and the last, such as 20000-29999")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_first_and_the_last() {
        let ports = Ports::try_from("20000-20002".to_owned()).unwrap();
        assert_eq!(ports.beginning_by(7).collect::<Vec<_>>(), [20001, 20002, 20000]);
        assert!(ports.holds(20002) && !ports.holds(20003));
        assert_eq!(Ports::try_from("1-65535".to_owned()).unwrap().beginning_by(65535).count(), 65535);
        for wrong in ["", "20000", "0-5", "6-5", "1-65536", "a-b", "1-2-3"] {
            let told = Ports::try_from(wrong.to_owned()).unwrap_err();
            assert!(told.contains("20000-29999"), "{told}");
        }
    }
}
