//! The limits that BuildBot and TestBot of a new fleet hold, so that what passes here passes there.
use std::time::Duration;

use anyhow::Context;
use bot_clients::ArchiveLimits;
use bot_pipeline::CommandLimits;
use bot_sandbox::Limits;
use serde::Deserialize;

use crate::up;

/// Of one bot: the part of its `settings` that counts here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct BotLimits {
    #[serde(alias = "suite_timeout_s")]
    step_timeout_s: u64,
    memory_mib: u64,
    processes: u32,
    output_mib: u64,
    file_mib: u64,
    #[serde(default = "open_files")]
    open_files: u64,
    workspace_mib: u64,
    entries: u64,
    #[serde(alias = "tree_mib")]
    artifact_mib: u64,
}

/// What TestBot gives without saying so in its file.
fn open_files() -> u64 {
    4096
}

impl BotLimits {
    /// From the bot's shipped configuration.
    pub(super) fn of(bot: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct File {
            settings: BotLimits,
        }
        let name = format!("{bot}.yaml");
        let text = up::config(&name).with_context(|| format!("deploy/config/{name} was not there at the build"))?;
        let file: File = serde_saphyr::from_slice(text).with_context(|| format!("deploy/config/{name}"))?;
        Ok(file.settings)
    }

    pub(super) fn commands(&self) -> Limits {
        let Self { memory_mib, processes, output_mib, file_mib, open_files, .. } = *self;
        let limits = CommandLimits { memory_mib, processes, output_mib, file_mib, open_files };
        limits.within(Duration::from_secs(self.step_timeout_s))
    }

    pub(super) fn log_bytes(&self) -> u64 {
        self.output_mib << 20
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.workspace_mib << 20
    }

    pub(super) fn archives(&self) -> ArchiveLimits {
        ArchiveLimits { entries_max: self.entries, bytes_max: self.artifact_mib << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bots_say_their_limits() {
        let (build, test) = (BotLimits::of("build-bot").unwrap(), BotLimits::of("test-bot").unwrap());
        assert!(build.commands().time > test.commands().time && build.disk_bytes() > 0 && test.log_bytes() > 0);
    }
}
