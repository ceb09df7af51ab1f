//! A job's folder on disk: what is in it, how much, and how it goes away. Whatever a job writes is below it.
use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use walkdir::WalkDir;

/// The folder of one job, or of a part of it.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
    /// The job's.
    whole: PathBuf,
}

const TREE: &str = "tree";
const HOME: &str = "home";
/// Below a job's folder, one for each of its parts.
const PARTS: &str = "parts";

impl Folder {
    /// Empty, and for this user alone. What earlier attempts of the job left is removed; the fencing token in the name
    /// keeps an attempt that lost its lease from removing the folder of the one that has it.
    pub async fn make(work: &Path, job: &str, token: i64) -> io::Result<Self> {
        let prefix = format!("{job}.");
        for entry in fs::read_dir(work)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                remove_tree(&entry.path()).await?;
            }
        }
        let root = work.join(format!("{prefix}{token}"));
        let own = Self { whole: root.clone(), root };
        for folder in [own.tree(), own.home(), own.git_home()] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(own)
    }

    /// A tree and a home for steps that must not see those of other parts. They go with the job's folder.
    pub fn part(&self, name: &str) -> io::Result<Self> {
        let own = Self { root: self.whole.join(PARTS).join(name), whole: self.whole.clone() };
        for folder in [own.tree(), own.home()] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(own)
    }

    /// The source tree, where steps run.
    pub fn tree(&self) -> PathBuf {
        self.root.join(TREE)
    }

    /// HOME of the steps, kept from one to the next.
    pub fn home(&self) -> PathBuf {
        self.root.join(HOME)
    }

    /// Removes all that is in the home.
    pub async fn empty_home(&self) -> io::Result<()> {
        remove_tree(&self.home()).await?;
        DirBuilder::new().mode(0o700).create(self.home())
    }

    /// HOME of git; steps never see it.
    pub fn git_home(&self) -> PathBuf {
        self.root.join("git")
    }

    /// A file of the bot's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Bytes on disk of what the steps of the whole job can write.
    pub async fn used(&self) -> u64 {
        let mut used = 0;
        for name in [TREE, HOME, PARTS] {
            used += size_of(&self.whole.join(name)).await;
        }
        used
    }

    /// With all that is in it.
    pub async fn remove(&self) -> io::Result<()> {
        remove_tree(&self.root).await
    }
}

/// A job's id as the name of its folder and of its processes.
pub fn name_of(job_id: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !job_id.is_empty() && job_id.len() <= 64 && job_id.chars().all(is_plain) {
        return job_id.to_owned();
    }
    short_hash(Path::new(job_id))
}

/// A path as a short word.
pub fn short_hash(path: &Path) -> String {
    hex::encode(Sha256::digest(path.as_os_str().as_encoded_bytes()))[..16].to_owned()
}

/// Removes a folder with all that is in it; fine if it is not there.
pub async fn remove_tree(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    spawn_blocking(move || bot_clients::remove_tree(&path)).await.map_err(io::Error::other)?
}

/// Bytes on disk; what cannot be looked at counts nothing.
pub async fn size_of(path: &Path) -> u64 {
    let path = path.to_owned();
    let sum = move || {
        let entries = WalkDir::new(path).into_iter().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
    };
    spawn_blocking(sum).await.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    #[tokio::test]
    async fn a_folder_is_empty_at_first_and_gone_at_last() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::make(dir.path(), "job-1", 1).await.unwrap();
        fs::create_dir_all(first.home().join("closed/deep")).unwrap();
        fs::write(first.home().join("closed/deep/file"), vec![1; 100_000]).unwrap();
        fs::set_permissions(first.home().join("closed"), Permissions::from_mode(0o500)).unwrap();
        assert!((100_000..300_000).contains(&first.used().await), "{}", first.used().await);
        let part = first.part("one").unwrap();
        fs::write(part.tree().join("file"), vec![1; 100_000]).unwrap();
        assert_ne!(part.home(), first.home());
        fs::write(part.home().join("file"), "").unwrap();
        part.empty_home().await.unwrap();
        assert_eq!(fs::read_dir(part.home()).unwrap().count(), 0);
        assert!((200_000..400_000).contains(&part.used().await), "of the whole job");
        let again = Folder::make(dir.path(), "job-1", 2).await.unwrap();
        assert_eq!(fs::read_dir(again.home()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "what the first attempt left is gone");
        first.remove().await.unwrap();
        assert!(again.tree().exists());
        again.remove().await.unwrap();
        again.remove().await.unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
