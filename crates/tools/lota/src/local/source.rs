//! The files of a run: a copy, so that nothing a command does reaches the working tree, made with the archives that a
//! fleet's bots hand over, so that what they refuse is refused here too.
use std::path::{Path, PathBuf};

use anyhow::Context;
use bot_clients::{ArchiveLimits, list_tree, pack, unpack};
use bot_messages::Revision;

use crate::client::git;

/// Where there is no commit yet.
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// A folder's files, packed.
pub(super) struct Source {
    archive: PathBuf,
    limits: ArchiveLimits,
    /// What the commands are told they build.
    pub(super) revision: Revision,
    /// How many, and by whose word.
    pub(super) told: String,
}

impl Source {
    /// Packs what `dir` holds into a file in `scratch`.
    pub(super) async fn of(dir: &Path, scratch: &Path, limits: ArchiveLimits) -> anyhow::Result<Self> {
        let (files, how) = match git::files(dir).await {
            Some(files) => (files, "as git lists them, with what is not committed yet"),
            None => (list_tree(dir, limits.entries_max)?, "all there are, as this is no git repository"),
        };
        let archive = scratch.join("source.tar.zst");
        let packed = pack(dir, &files, &archive, &limits).context("the project's files cannot be copied")?;
        let (branch, commit) = git::head(dir).await;
        let name = dir.file_name().map_or_else(|| "project".into(), |name| name.to_string_lossy());
        let revision = Revision {
            repository: name.into_owned(),
            url: dir.display().to_string(),
            git_ref: branch.unwrap_or_else(|| "refs/heads/main".to_owned()),
            commit: commit.map_or_else(|| NO_COMMIT.parse(), Ok)?,
            sequence: None,
        };
        Ok(Self { archive, limits, revision, told: format!("{} files, {how}", packed.entries) })
    }

    /// Lays the files into a folder.
    pub(super) fn lay(&self, tree: &Path) -> anyhow::Result<()> {
        unpack(&self.archive, tree, &self.limits).context("the project's files cannot be copied")?;
        Ok(())
    }
}
