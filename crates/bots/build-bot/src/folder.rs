//! A job's folder on disk: what is in it, how much, and how it goes away. Whatever a job writes is below it.
use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;
use walkdir::WalkDir;

/// The folder of one job.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Empty, and for this user alone; what an earlier attempt left is removed.
    pub(crate) async fn make(work: &Path, job: &str) -> io::Result<Self> {
        let own = Self { root: work.join(job) };
        remove_tree(&own.root).await?;
        for folder in [own.tree(), own.home(), own.git_home()] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(own)
    }

    /// The source tree, where steps run.
    pub(crate) fn tree(&self) -> PathBuf {
        self.root.join("tree")
    }

    /// HOME of the steps, kept from one to the next.
    pub(crate) fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// HOME of git; steps never see it.
    pub(crate) fn git_home(&self) -> PathBuf {
        self.root.join("git")
    }

    /// A file of the bot's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Bytes on disk of what steps can write.
    pub(crate) async fn used(&self) -> u64 {
        size_of(&self.tree()).await + size_of(&self.home()).await
    }

    pub(crate) async fn remove(&self) -> io::Result<()> {
        remove_tree(&self.root).await
    }
}

/// Removes a folder with all that is in it; fine if it is not there.
pub(crate) async fn remove_tree(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    spawn_blocking(move || remove_tree_now(&path)).await.map_err(io::Error::other)?
}

/// The same, for callers that may block.
pub(crate) fn remove_tree_now(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            // Caches such as Go's are full of folders that nobody may write.
            let folders = WalkDir::new(path).into_iter().flatten().filter(|entry| entry.file_type().is_dir());
            for folder in folders {
                fs::set_permissions(folder.path(), Permissions::from_mode(0o700))?;
            }
            fs::remove_dir_all(path)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Bytes on disk; what cannot be looked at counts nothing.
pub(crate) async fn size_of(path: &Path) -> u64 {
    let path = path.to_owned();
    let sum = move || {
        let entries = WalkDir::new(path).into_iter().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
    };
    spawn_blocking(sum).await.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_empty_at_first_and_gone_at_last() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::make(dir.path(), "job-1").await.unwrap();
        fs::create_dir_all(first.home().join("closed/deep")).unwrap();
        fs::write(first.home().join("closed/deep/file"), vec![1; 100_000]).unwrap();
        fs::set_permissions(first.home().join("closed"), Permissions::from_mode(0o500)).unwrap();
        assert!((100_000..300_000).contains(&first.used().await), "{}", first.used().await);
        let again = Folder::make(dir.path(), "job-1").await.unwrap();
        assert_eq!(fs::read_dir(again.home()).unwrap().count(), 0);
        again.remove().await.unwrap();
        again.remove().await.unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
