//! Builds that need not be done again: what came of one, by all that it depended on. A file each in the bot's own folder,
//! the one not asked for the longest goes first.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bot_clients::list_tree;
use bot_messages::{ObjectRef, build::StepResult};
use serde::{Deserialize, Serialize};

use crate::files::{digest, make_room_for, touch};

/// Scripts that say which commit they build are smaller.
const SCRIPT_BYTES_MAX: u64 = 256 << 10;
const ENTRIES_MAX: u64 = 2_000_000;
/// How the variables that name a commit begin.
const NAMES_COMMIT: &[u8] = b"LOTA_";

/// What a build came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) job_id: String,
    pub(crate) artifact: ObjectRef,
    pub(crate) keep: Option<ObjectRef>,
    pub(crate) steps: Vec<StepResult>,
}

/// Those that are remembered.
#[derive(Clone, Debug)]
pub(crate) struct Builds {
    dir: PathBuf,
    count_max: usize,
}

impl Builds {
    pub(crate) fn new(dir: PathBuf, count_max: usize) -> Self {
        Self { dir, count_max }
    }

    /// What came of the same. What cannot be read is not there. Blocks.
    pub(crate) fn find(&self, key: &str) -> Option<Product> {
        let file = self.file(key);
        let product = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
        if let Err(e) = touch(&file) {
            tracing::warn!(file = %file.display(), "its last use cannot be noted: {e}");
        }
        Some(product)
    }

    /// Blocks.
    pub(crate) fn keep(&self, key: &str, product: &Product) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        make_room_for(&self.dir, self.count_max);
        let aside = self.dir.join(format!("{key}.{}", product.job_id));
        fs::write(&aside, serde_json::to_vec(product)?)?;
        fs::rename(aside, self.file(key))
    }

    fn file(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.json"))
    }
}

/// The key of a build that depends on all of these.
pub(crate) fn key(parts: &[&str]) -> String {
    digest(parts)
}

/// Whether something in a source tree speaks of the variables that name the commit: then another commit with the same
/// tree may come to something else. Blocks.
pub(crate) fn names_commit(tree: &Path) -> io::Result<bool> {
    for name in list_tree(tree, ENTRIES_MAX).map_err(io::Error::other)? {
        let path = tree.join(name);
        let meta = path.symlink_metadata()?;
        if meta.is_file()
            && meta.len() <= SCRIPT_BYTES_MAX
            && fs::read(&path)?.windows(NAMES_COMMIT.len()).any(|window| window == NAMES_COMMIT)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(job: &str) -> Product {
        let artifact = ObjectRef::example("application/zstd");
        Product { job_id: job.to_owned(), artifact, keep: None, steps: Vec::new() }
    }

    #[test]
    fn what_was_kept_is_found_until_too_many_came_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let builds = Builds::new(dir.path().join("builds"), 3);
        assert_eq!(builds.find("a"), None);
        for name in ["a", "b", "c"] {
            builds.keep(name, &product(name)).unwrap();
        }
        assert_eq!(builds.find("a"), Some(product("a")));
        builds.keep("d", &product("d")).unwrap();
        assert_eq!(builds.find("b"), None);
        assert_eq!(["a", "c", "d"].map(|name| builds.find(name).is_some()), [true; 3]);
        fs::write(builds.file("a"), "{").unwrap();
        assert_eq!(builds.find("a"), None, "damaged");
        builds.keep("a", &product("again")).unwrap();
        assert_eq!(builds.find("a"), Some(product("again")));
    }

    #[test]
    fn a_script_that_asks_for_the_commit_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/build.sh"), "echo fine").unwrap();
        assert!(!names_commit(dir.path()).unwrap());
        fs::write(dir.path().join("bin/build.sh"), "git tag v$LOTA_COMMIT").unwrap();
        assert!(names_commit(dir.path()).unwrap());
    }
}
