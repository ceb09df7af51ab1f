//! BuildBot's own section of its configuration file: limits on what it runs and keeps, and how git reaches servers.
use std::{path::PathBuf, time::Duration};

use bot_clients::ArchiveLimits;
use bot_pipeline::{AllowedImages, CommandLimits};
use bot_sandbox::{Limits, SandboxKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::images::EngineSetting;

/// The `settings` of `build-bot.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Seconds a step may take that does not say its own `timeout`. The whole job ends at `constraints.timeout`.
    pub step_timeout_s: u64,
    /// Steps of one build that run at a time, where their `needs` allow it. Each has all of the limits below.
    pub parallel_steps: usize,
    /// Seconds one call of git may take.
    pub fetch_timeout_s: u64,
    /// MiB of memory of a step, all its processes together.
    pub memory_mib: u64,
    /// Processes and threads of a step.
    pub processes: u32,
    /// MiB of output of a step, and of the log of a job.
    pub output_mib: u64,
    /// MiB of the largest file a step may write.
    pub file_mib: u64,
    /// Open files per process of a step.
    pub open_files: u64,
    /// MiB on disk of a job: source, what the steps write, and their home.
    pub workspace_mib: u64,
    /// MiB of the source tree of a commit, uncompressed.
    pub source_mib: u64,
    /// MiB of the artifacts of a build, uncompressed; likewise of what it keeps for the tests.
    pub artifact_mib: u64,
    /// Files in a source tree, and in the artifacts.
    pub entries: u64,
    /// MiB of a repository's mirror; a larger one is removed after the build and fetched anew for the next.
    pub mirror_mib: u64,
    /// Mirrors kept; the one not used for the longest time goes first.
    pub mirrors: usize,
    /// MiB of what `build.cache` keeps of one repository, packed; the least recently used goes first.
    pub cache_repository_mib: u64,
    /// The same of all repositories.
    pub cache_mib: u64,
    /// Builds whose products are remembered, so that the same source is not built twice.
    pub remembered_builds: usize,
    /// Images that steps may run in, as patterns: `debian:*`, `registry.example.org/**`. None: steps with `image` are refused.
    pub images: Vec<String>,
    /// The container engine that runs them.
    pub engine: EngineSetting,
    /// Whether `http://` and `git://` are fetched from: anyone on the way can change what is fetched, not its id.
    pub allow_unencrypted: bool,
    /// `bubblewrap`, `landlock` or `process-group`: that kind of sandbox and no other. Absent: the strongest that works here.
    pub sandbox: Option<SandboxKind>,
    /// Whether commands of repositories that are not `trust: own` run where only process groups work, which keep nothing in.
    pub allow_weak_sandbox: bool,
    /// Folder with the operator's secrets: a file for each name in `secrets` of repositories.yaml, and below
    /// `credentials/` one for each `credential` (`token` or `user:token` for https, a private key for ssh). Each is readable
    /// by the bot's user alone. Absent: `secrets` in the bot's own folder.
    pub secrets_dir: Option<PathBuf>,
    /// Private key for `ssh` remotes without a credential of their own, without a passphrase, readable by the bot's user alone.
    pub ssh_key_file: Option<PathBuf>,
    /// Host keys for `ssh` remotes; without it no host is believed.
    pub ssh_known_hosts_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            step_timeout_s: 3600,
            parallel_steps: 2,
            fetch_timeout_s: 600,
            memory_mib: 4096,
            processes: 512,
            output_mib: 50,
            file_mib: 4096,
            open_files: 4096,
            workspace_mib: 16_384,
            source_mib: 2048,
            artifact_mib: 2048,
            entries: 200_000,
            mirror_mib: 8192,
            mirrors: 50,
            cache_repository_mib: 2048,
            cache_mib: 10_240,
            remembered_builds: 500,
            images: Vec::new(),
            engine: EngineSetting::Auto,
            allow_unencrypted: false,
            sandbox: None,
            allow_weak_sandbox: false,
            secrets_dir: None,
            ssh_key_file: None,
            ssh_known_hosts_file: None,
        }
    }
}

impl Config {
    /// All mistakes together: no limit is zero, and key files are absolute paths that exist.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let limits = [
            ("step_timeout_s", self.step_timeout_s),
            ("parallel_steps", self.parallel_steps as u64),
            ("fetch_timeout_s", self.fetch_timeout_s),
            ("memory_mib", self.memory_mib),
            ("processes", u64::from(self.processes)),
            ("output_mib", self.output_mib),
            ("file_mib", self.file_mib),
            ("open_files", self.open_files),
            ("workspace_mib", self.workspace_mib),
            ("source_mib", self.source_mib),
            ("artifact_mib", self.artifact_mib),
            ("entries", self.entries),
            ("mirror_mib", self.mirror_mib),
            ("mirrors", self.mirrors as u64),
            ("cache_repository_mib", self.cache_repository_mib),
            ("cache_mib", self.cache_mib),
            ("remembered_builds", self.remembered_builds as u64),
        ];
        // The largest that still fits into bytes; nobody means it.
        let wrong_limits = limits.iter().filter(|(_, value)| *value == 0 || *value > u64::MAX >> 20);
        let mut wrong: Vec<String> = wrong_limits
            .map(|(name, value)| format!("settings.{name} is {value}: expected a number above zero, within reason"))
            .collect();
        let files = [("ssh_key_file", &self.ssh_key_file), ("ssh_known_hosts_file", &self.ssh_known_hosts_file)];
        wrong.extend(files.iter().filter_map(|(name, file)| {
            let file = file.as_ref().filter(|file| !file.is_absolute() || !file.is_file())?;
            Some(format!("settings.{name} is {}: expected the absolute path of a file", file.display()))
        }));
        wrong.extend(
            self.secrets_dir
                .as_ref()
                .filter(|dir| !dir.is_absolute())
                .map(|dir| format!("settings.secrets_dir is {}: expected an absolute path", dir.display())),
        );
        wrong.extend(AllowedImages::new(&self.images).err().map(|why| format!("settings.images: {why}")));
        anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    }

    pub(crate) fn step_limits(&self, time: Option<Duration>) -> Limits {
        let Self { memory_mib, processes, output_mib, file_mib, open_files, .. } = *self;
        let limits = CommandLimits { memory_mib, processes, output_mib, file_mib, open_files };
        limits.within(time.unwrap_or(Duration::from_secs(self.step_timeout_s)))
    }

    pub(crate) fn git_limits(&self) -> Limits {
        let time = Some(Duration::from_secs(self.fetch_timeout_s));
        Limits { output_bytes: 1 << 20, file_bytes: self.mirror_mib << 20, ..self.step_limits(time) }
    }

    pub(crate) fn source_limits(&self) -> ArchiveLimits {
        ArchiveLimits { entries_max: self.entries, bytes_max: self.source_mib << 20 }
    }

    pub(crate) fn artifact_limits(&self) -> ArchiveLimits {
        ArchiveLimits { entries_max: self.entries, bytes_max: self.artifact_mib << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_told_together() {
        assert!(Config::default().check().is_ok());
        let wrong = Config {
            memory_mib: 0,
            images: vec!["debian:[".into()],
            ssh_key_file: Some("key".into()),
            ..Config::default()
        };
        let told = wrong.check().unwrap_err().to_string();
        assert!(told.contains("settings.memory_mib is 0") && told.contains("settings.ssh_key_file is key"), "{told}");
        assert!(told.contains("settings.images: `debian:[`"), "{told}");
    }

    #[test]
    fn the_shipped_file_says_what_is_the_default() {
        let text = include_str!("../../../../deploy/config/build-bot.yaml");
        let file: bot_core::BotConfig<Config> = serde_saphyr::from_str(text).unwrap();
        assert_eq!(file.settings, Config::default());
        assert_eq!(file.bot.name.as_str(), "BuildBot");
    }
}
