//! What goes to an environment, and the folder of unpacked releases. Blocks: called off the runtime's threads.
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::Context;
use bot_clients::{ArchiveError, ArchiveLimits, ObjectError, Objects, archive};
use bot_core::Fail;
use bot_messages::{
    Code, Digest, ObjectRef, Revision,
    pipeline::{DeployStage, Health, Serve},
};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, task::spawn_blocking};

use crate::OBJECTS;

/// A tested artifact and how the pipeline wants it served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) artifact: ObjectRef,
    pub(crate) revision: Revision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serve: Option<Serve>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<Health>,
}

impl Release {
    pub(crate) fn new(artifact: ObjectRef, revision: Revision, stage: DeployStage) -> Self {
        Self { artifact, revision, serve: stage.serve, health: stage.health }
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.artifact.digest
    }

    /// Whether putting the other one in its place would change nothing on the machine.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.digest() == other.digest() && self.serve == other.serve && self.health == other.health
    }
}

/// How large an artifact may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) artifact_bytes_max: u64,
    pub(crate) unpacked: ArchiveLimits,
}

/// What is being unpacked has this in front of its name; a crash leaves it behind.
const UNFINISHED: &str = ".unfinished-";

/// `<environment>/releases`: unpacked artifacts by digest, read-only.
#[derive(Clone, Debug)]
pub(crate) struct Releases {
    root: PathBuf,
}

impl Releases {
    pub(crate) fn in_folder(root: &Path) -> Self {
        Self { root: root.join("releases") }
    }

    /// Where an artifact is once it is unpacked.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.hex())
    }

    /// Makes `<environment>/current` lead to an artifact, or to nothing. Never half: a link is renamed over the other.
    pub(crate) fn point(&self, digest: Option<&Digest>) -> anyhow::Result<()> {
        let current = self.root.with_file_name("current");
        if fs::symlink_metadata(&current).is_ok_and(|found| !found.is_symlink()) {
            anyhow::bail!("{} is no link and not ours to remove: move it away", current.display());
        }
        let Some(digest) = digest else {
            return remove(&current);
        };
        let target = Path::new("releases").join(digest.hex());
        if fs::read_link(&current).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let new = self.root.with_file_name(".current.new");
        remove(&new)?;
        let renamed = symlink(target, &new).and_then(|()| fs::rename(&new, &current));
        renamed.with_context(|| format!("{} cannot be replaced by a link", current.display()))
    }

    /// Fetches and unpacks an artifact, unless it is there. It gets its name last, so what has one is whole.
    /// `attempt` is a file name that no other attempt uses: an earlier one may still be writing.
    pub(crate) async fn unpack(
        &self,
        artifact: &ObjectRef,
        objects: &Objects,
        sizes: Sizes,
        attempt: &str,
    ) -> Result<(), Fail> {
        let place = self.path(&artifact.digest);
        if place.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(&self.root)
            .with_context(|| format!("{} cannot be made", self.root.display()))
            .map_err(Fail::Retry)?;
        let tree = self.root.join(format!("{UNFINISHED}{attempt}"));
        let packed = self.root.join(format!("{UNFINISHED}{attempt}.packed"));
        let (objects, artifact, runtime) = (objects.clone(), artifact.clone(), Handle::current());
        let unpacked = spawn_blocking(move || {
            let fetched = runtime.block_on(objects.get_file(&artifact.digest, &packed, sizes.artifact_bytes_max));
            fetched.map_err(|error| object_fail(&artifact, error))?;
            let unpacked = unpack_as(&artifact.digest, &packed, &tree, &place, &sizes.unpacked);
            for left in [packed, tree] {
                remove(&left).map_err(Fail::Retry)?;
            }
            unpacked
        });
        unpacked.await.map_err(Fail::retry)?
    }

    /// Removes what is not kept, and what earlier attempts left unfinished.
    pub(crate) fn prune(&self, kept: &BTreeSet<Digest>) -> anyhow::Result<()> {
        let kept: BTreeSet<&str> = kept.iter().map(Digest::hex).collect();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// What the store does not have, or has wrong, will not get better by asking again.
fn object_fail(artifact: &ObjectRef, error: ObjectError) -> Fail {
    let code = match error {
        ObjectError::NotFound { .. } | ObjectError::Damaged { .. } => Code::FetchFailed,
        ObjectError::TooLarge { .. } => Code::LimitExceeded,
        failed if failed.is_of_store() => return Fail::outside(OBJECTS, failed),
        _ => return Fail::retry(error),
    };
    Fail::reject(
        code,
        anyhow::Error::from(error).context(format!("the artifact {} cannot be had", artifact.digest.short())),
    )
}

fn unpack_as(digest: &Digest, packed: &Path, tree: &Path, place: &Path, limits: &ArchiveLimits) -> Result<(), Fail> {
    remove(tree).map_err(Fail::Retry)?;
    archive::unpack(packed, tree, limits).map_err(|error| {
        let code = match error {
            ArchiveError::Io { .. } => return Fail::retry(error),
            ArchiveError::TooMuch { .. } => Code::LimitExceeded,
            _ => Code::Rejected,
        };
        Fail::reject(
            code,
            anyhow::Error::from(error).context(format!("the artifact {} cannot be unpacked", digest.short())),
        )
    })?;
    seal(tree).context("the unpacked artifact cannot be made read-only").map_err(Fail::Retry)?;
    name(tree, place).map_err(Fail::Retry)
}

/// Makes a whole tree durable under its final name.
fn name(tree: &Path, place: &Path) -> anyhow::Result<()> {
    // One call for all files: after a power cut a name without its content would pass for a release.
    nix::unistd::syncfs(fs::File::open(tree)?).context("the unpacked artifact cannot be written to disk")?;
    match fs::rename(tree, place) {
        // Another attempt was quicker; what it unpacked has the same digest.
        Err(_) if place.is_dir() => remove(tree),
        renamed => renamed.with_context(|| format!("{} cannot be named", place.display())),
    }
}

/// Takes away every leave to write, below first. Links stay as they are: they have no mode of their own.
fn seal(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return Ok(());
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            seal(&entry?.path())?;
        }
    }
    fs::set_permissions(path, fs::Permissions::from_mode(meta.permissions().mode() & 0o555))
}

/// Removes a file or a sealed tree; what is not there is removed.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(meta) if meta.is_dir() => unseal(path).and_then(|()| fs::remove_dir_all(path)),
        _ => fs::remove_file(path),
    };
    removed.with_context(|| format!("{} cannot be removed", path.display()))
}

/// Whoever is not root may remove nothing from a read-only folder.
fn unseal(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unseal(&entry.path())?;
        }
    }
    Ok(())
}
