//! What builds find again: the paths of `build.cache`, packed after a build and laid out before the next one of the same
//! repository. Nothing here fails a build: what cannot be used or kept is a line in its log.
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bot_clients::{ArchiveLimits, Part, Times, list_tree, pack_parts, remove_tree, unpack_with};
use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::files::{Entry, digest, digest_of, entries_of, make_room, touch};

/// Files that say which versions of what a build uses.
const LOCK_FILES: [&str; 12] = [
    "Cargo.lock",
    "package-lock.json",
    "pnpm-lock.yaml",
    "yarn.lock",
    "poetry.lock",
    "uv.lock",
    "requirements*.txt",
    "go.sum",
    "pom.xml",
    "build.gradle*",
    "Gemfile.lock",
    "packages.lock.json",
];
/// Files looked at in a workspace, and in an entry.
const ENTRIES_MAX: u64 = 2_000_000;
const SUFFIX: &str = ".tar.zst";

/// The caches of all repositories, one folder each.
#[derive(Debug)]
pub(crate) struct Caches {
    dir: PathBuf,
    repository_bytes_max: u64,
    total_bytes_max: u64,
    /// Held while entries come and go; one that vanishes while it is read is a miss.
    changing: Mutex<()>,
}

/// Where an entry lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Of the repository, and how far it is trusted: nothing passes from one to another.
    pub(crate) scope: String,
    /// Of the combination of the matrix and the cached paths.
    pub(crate) variant: String,
    /// Of the lock files; where there are none, of the whole source.
    pub(crate) locks: String,
}

impl Key {
    pub(crate) fn new(scope: &[&str], variant: &[&str], locks: String) -> Self {
        Self { scope: digest(scope), variant: digest(variant), locks }
    }

    /// Without the digest that follows.
    fn prefix(&self) -> String {
        format!("{}-{}-", self.variant, self.locks)
    }
}

/// What was found for a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    /// An entry of exactly this key: nothing has to be kept after the build.
    pub(crate) is_exact: bool,
    /// What may be kept, below the job's folder: paths that are no part of the source.
    pub(crate) paths: Vec<PathBuf>,
    /// For the log.
    pub(crate) lines: Vec<String>,
}

impl Caches {
    pub(crate) fn new(dir: PathBuf, repository_bytes_max: u64, total_bytes_max: u64) -> Self {
        Self { dir, repository_bytes_max, total_bytes_max, changing: Mutex::default() }
    }

    /// Lays the cached `paths` out below `root`: of the exact key, else what was last used for another. Blocks.
    pub(crate) fn restore(&self, key: &Key, paths: &[String], root: &Path) -> Restored {
        let mut restored = Restored::default();
        for path in paths {
            match place(path) {
                Some(place) if root.join(&place).symlink_metadata().is_err() => restored.paths.push(place),
                _ => restored.lines.push(format!("{path} is part of the source, so it is not cached")),
            }
        }
        let Some(entry) = self.find(key) else {
            restored.lines.push("nothing was kept by an earlier build".to_owned());
            return restored;
        };
        let is_exact = name_of(&entry).starts_with(&key.prefix());
        match self.lay_out(&entry, &restored.paths, root) {
            Ok(files) => {
                restored.is_exact = is_exact;
                let which = if is_exact { "the same lock files" } else { "other lock files" };
                restored.lines.push(format!("{files} files of a build with {which}"));
                let touched = touch(&entry);
                if let Err(e) = touched {
                    tracing::warn!(entry = %entry.display(), "its last use cannot be noted: {e}");
                }
            }
            Err(why) => {
                restored.lines.push(format!("what an earlier build kept cannot be used: {why}"));
                let _changing = self.changing();
                let _ = fs::remove_file(&entry);
            }
        }
        restored
    }

    /// Keeps `paths` below `root` for later builds; says a line for the log. `Err`: nothing can be kept here. Blocks.
    pub(crate) fn keep(&self, key: &Key, paths: &[PathBuf], root: &Path) -> Result<String, String> {
        let dir = self.dir.join(&key.scope);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|e| format!("{} cannot be made: {e}", dir.display()))?;
        Ok(self.try_keep(key, paths, root, &dir).unwrap_or_else(|why| format!("nothing is kept: {why}")))
    }

    fn try_keep(&self, key: &Key, paths: &[PathBuf], root: &Path, dir: &Path) -> Result<String, String> {
        let told = |e: io::Error| e.to_string();
        // In the job's folder, and so on the same disk.
        let packing = root.join(format!("cache{SUFFIX}"));
        let mut entries = Vec::new();
        for top in ["tree", "home"].map(Path::new).into_iter().filter(|top| paths.iter().any(|p| p.starts_with(top))) {
            let files = list_tree(&root.join(top), ENTRIES_MAX).map_err(|e| e.to_string())?;
            let files = files.into_iter().map(|file| top.join(file));
            entries.extend(files.filter(|file| paths.iter().any(|path| file.starts_with(path))));
        }
        if entries.is_empty() {
            return Err("the steps left nothing in these paths".to_owned());
        }
        let limits = ArchiveLimits { entries_max: ENTRIES_MAX, bytes_max: self.unpacked_bytes_max() };
        let part = Part { below: Path::new(""), root, entries: &entries };
        let packed = pack_parts(&[part], &packing, &limits, Times::Kept);
        let kept = packed.map_err(|e| e.to_string()).and_then(|packed| {
            let size = packing.metadata().map_err(told)?.len();
            if size > self.repository_bytes_max.min(self.total_bytes_max) {
                return Err(format!("{size} bytes are more than the settings cache_repository_mib or cache_mib allow"));
            }
            let name = format!("{}{}{SUFFIX}", key.prefix(), digest_of(&packing).map_err(told)?);
            let _changing = self.changing();
            // One key, one entry.
            for old in entries_of(dir).into_iter().filter(|old| name_of(&old.path).starts_with(&key.prefix())) {
                fs::remove_file(&old.path).map_err(told)?;
            }
            fs::rename(&packing, dir.join(name)).map_err(told)?;
            self.evict(&key.scope);
            Ok(format!("{} files kept, {size} bytes packed", packed.entries))
        });
        if kept.is_err() {
            let _ = fs::remove_file(&packing);
        }
        kept
    }

    /// Where unpacked, some things take a multiple of their packed size.
    fn unpacked_bytes_max(&self) -> u64 {
        self.repository_bytes_max.saturating_mul(4)
    }

    fn find(&self, key: &Key) -> Option<PathBuf> {
        let mut entries = entries_of(&self.dir.join(&key.scope));
        entries.retain(|entry| name_of(&entry.path).starts_with(&format!("{}-", key.variant)));
        let prefix = key.prefix();
        let rank = |entry: &Entry| (name_of(&entry.path).starts_with(&prefix), entry.used);
        entries.into_iter().max_by_key(rank).map(|entry| entry.path)
    }

    /// Beside its place first: an entry that turns out damaged has changed nothing.
    fn lay_out(&self, entry: &Path, paths: &[PathBuf], root: &Path) -> Result<u64, String> {
        let told = |e: io::Error| e.to_string();
        let expected = name_of(entry).trim_end_matches(SUFFIX).rsplit('-').next().unwrap_or_default().to_owned();
        if digest_of(entry).map_err(told)? != expected {
            return Err("it is damaged".to_owned());
        }
        let aside = root.join("cache");
        let limits = ArchiveLimits { entries_max: ENTRIES_MAX, bytes_max: self.unpacked_bytes_max() };
        let unpacked = unpack_with(entry, &aside, &limits, Times::Kept).map_err(|e| e.to_string());
        let moved = unpacked.and_then(|unpacked| {
            for path in paths.iter().filter(|path| aside.join(path).symlink_metadata().is_ok()) {
                make_parents(root, path).map_err(told)?;
                fs::rename(aside.join(path), root.join(path)).map_err(told)?;
            }
            Ok(unpacked.entries)
        });
        remove_tree(&aside).map_err(told)?;
        moved
    }

    /// The least recently used go first, of this repository and then of all.
    fn evict(&self, scope: &str) {
        make_room(entries_of(&self.dir.join(scope)), self.repository_bytes_max);
        let folders = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        make_room(folders.flat_map(|folder| entries_of(&folder.path())).collect(), self.total_bytes_max);
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Below a job's folder: `target` lies in its tree, `~/.cargo` in its home.
fn place(path: &str) -> Option<PathBuf> {
    let (top, rest) = path.strip_prefix("~/").map_or(("tree", path), |rest| ("home", rest));
    let mut place = PathBuf::from(top);
    for part in Path::new(rest).components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (place.components().count() > 1).then_some(place)
}

/// Never through a link that the source brought along.
fn make_parents(root: &Path, path: &Path) -> io::Result<()> {
    let mut at = root.to_owned();
    for part in path.parent().into_iter().flat_map(Path::components) {
        at.push(part);
        match at.symlink_metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(io::Error::other(format!("{} is no folder", at.display()))),
            Err(_) => fs::create_dir(&at)?,
        }
    }
    Ok(())
}

/// Of the lock files in a source tree; of `source` where it has none. Blocks.
pub(crate) fn locks_of(tree: &Path, source: &str) -> io::Result<String> {
    let names = lock_files()?;
    let files = list_tree(tree, ENTRIES_MAX).map_err(io::Error::other)?;
    let is_lock = |file: &&PathBuf| file.file_name().is_some_and(|name| names.is_match(name));
    let mut locks = BTreeMap::new();
    for file in files.iter().filter(is_lock) {
        let path = tree.join(file);
        if path.symlink_metadata()?.is_file() {
            locks.insert(file.display().to_string(), digest_of(&path)?);
        }
    }
    if locks.is_empty() {
        return Ok(digest(&[source]));
    }
    let parts: Vec<&str> = locks.iter().flat_map(|(name, hash)| [name.as_str(), hash.as_str()]).collect();
    Ok(digest(&parts))
}

fn lock_files() -> io::Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for name in LOCK_FILES {
        set.add(Glob::new(name).map_err(io::Error::other)?);
    }
    set.build().map_err(io::Error::other)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::fs::symlink,
        time::{Duration, SystemTime},
    };

    use sha2::{Digest, Sha256};

    use super::*;

    struct Jobs {
        dir: tempfile::TempDir,
        caches: Caches,
    }

    impl Jobs {
        fn new(repository: u64, total: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let caches = Caches::new(dir.path().join("cache"), repository, total);
            Self { dir, caches }
        }

        /// An empty folder of a job.
        fn root(&self) -> PathBuf {
            let root = self.dir.path().join("job");
            remove_tree(&root).unwrap();
            for name in ["tree", "home"] {
                fs::create_dir_all(root.join(name)).unwrap();
            }
            root
        }

        /// A build that finds what is there and writes one file of so many random-looking bytes.
        fn build(&self, key: &Key, bytes: usize) -> Restored {
            let root = self.root();
            let restored = self.caches.restore(key, &["target".to_owned()], &root);
            fs::create_dir_all(root.join("tree/target")).unwrap();
            let noise: Vec<u8> =
                (0..bytes).flat_map(|i| Sha256::digest(format!("{key:?}{i}")).to_vec()).take(bytes).collect();
            fs::write(root.join("tree/target/app"), noise).unwrap();
            let told = self.caches.keep(key, &restored.paths, &root).unwrap();
            assert!(!root.join("cache").exists() && !root.join("cache.tar.zst").exists());
            assert_eq!(told.contains("kept,"), bytes < 10_000, "{told}");
            restored
        }

        fn hits(&self, key: &Key) -> bool {
            let root = self.root();
            self.caches.restore(key, &["target".to_owned()], &root).is_exact && root.join("tree/target/app").exists()
        }
    }

    fn key(scope: &str, locks: &str) -> Key {
        Key::new(&[scope], &["v"], locks.to_owned())
    }

    #[test]
    fn paths_come_back_with_their_times_and_the_source_stays_what_it_is() {
        let jobs = Jobs::new(1 << 20, 1 << 20);
        let paths = ["target/", "./src", "~/.tool/store"].map(str::to_owned);
        let root = jobs.root();
        let empty = jobs.caches.restore(&key("a", "1"), &paths, &root);
        assert_eq!(empty.paths, ["tree/target", "tree/src", "home/.tool/store"].map(PathBuf::from));
        for name in ["tree/target/deep/app", "tree/src/old", "tree/other", "home/.tool/store/x", "home/.tool/secret"] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::options().append(true).open(root.join("tree/target/deep/app")).unwrap().set_modified(then).unwrap();
        let told = jobs.caches.keep(&key("a", "1"), &empty.paths, &root).unwrap();
        assert!(told.starts_with("3 files kept"), "{told}");

        let root = jobs.root();
        fs::create_dir(root.join("tree/src")).unwrap();
        fs::write(root.join("tree/src/new"), "").unwrap();
        let found = jobs.caches.restore(&key("a", "1"), &paths, &root);
        assert!(found.is_exact);
        assert!(found.lines[0].contains("./src is part of the source"), "{:?}", found.lines);
        assert_eq!(found.paths, ["tree/target", "home/.tool/store"].map(PathBuf::from));
        assert_eq!(fs::metadata(root.join("tree/target/deep/app")).unwrap().modified().unwrap(), then);
        assert!(root.join("home/.tool/store/x").exists() && !root.join("home/.tool/secret").exists());
        assert!(!root.join("tree/src/old").exists() && !root.join("tree/other").exists());
        assert!(!root.join("cache").exists());
    }

    #[test]
    fn the_exact_key_comes_first_then_the_newest_and_never_anothers() {
        let jobs = Jobs::new(1 << 20, 1 << 20);
        assert!(jobs.build(&key("a", "1"), 10).lines[0].contains("nothing was kept"));
        let other = jobs.build(&key("a", "2"), 10);
        assert!(!other.is_exact && other.lines[0].contains("other lock files"), "{:?}", other.lines);
        assert!(jobs.hits(&key("a", "1")) && jobs.hits(&key("a", "2")));
        assert!(jobs.build(&key("b", "1"), 10).lines[0].contains("nothing was kept"));
        let variant = Key::new(&["a"], &["w"], "1".to_owned());
        assert!(jobs.build(&variant, 10).lines[0].contains("nothing was kept"));
    }

    #[test]
    fn a_damaged_entry_is_a_miss_and_goes() {
        let jobs = Jobs::new(1 << 20, 1 << 20);
        let key = key("a", "1");
        jobs.build(&key, 10);
        let entry = jobs.caches.find(&key).unwrap();
        let mut bytes = fs::read(&entry).unwrap();
        bytes[20] ^= 1;
        fs::write(&entry, bytes).unwrap();
        let found = jobs.build(&key, 10);
        assert!(!found.is_exact && found.lines[0].contains("damaged"), "{:?}", found.lines);
        assert!(jobs.hits(&key));
    }

    #[test]
    fn a_link_in_the_source_leads_nothing_out() {
        let jobs = Jobs::new(1 << 20, 1 << 20);
        let paths = ["deep/target".to_owned()];
        let root = jobs.root();
        fs::create_dir_all(root.join("tree/deep/target")).unwrap();
        fs::write(root.join("tree/deep/target/x"), "").unwrap();
        jobs.caches.keep(&key("a", "1"), &[PathBuf::from("tree/deep/target")], &root).unwrap();
        let root = jobs.root();
        let outside = jobs.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, root.join("tree/deep")).unwrap();
        let found = jobs.caches.restore(&key("a", "1"), &paths, &root);
        assert!(found.lines.last().unwrap().contains("is no folder"), "{:?}", found.lines);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        let told = jobs.caches.keep(&key("a", "1"), &[PathBuf::from("tree/deep/target")], &root).unwrap();
        assert!(told.starts_with("nothing is kept"), "{told}");
    }

    #[test]
    fn the_least_recently_used_goes_when_it_becomes_too_much() {
        let jobs = Jobs::new(7000, 11_000);
        for locks in ["1", "2"] {
            jobs.build(&key("a", locks), 3000);
        }
        assert!(jobs.hits(&key("a", "1")), "and so it was used last");
        jobs.build(&key("a", "3"), 3000);
        assert_eq!(["1", "2", "3"].map(|locks| jobs.hits(&key("a", locks))), [true, false, true]);
        jobs.build(&key("b", "1"), 3000);
        jobs.build(&key("c", "1"), 3000);
        assert_eq!(["1", "3"].map(|locks| jobs.hits(&key("a", locks))), [false, true], "{}", jobs.dir.path().display());
        jobs.build(&key("d", "1"), 12_000);
        assert!(!jobs.hits(&key("d", "1")), "larger than all there may be");
        assert!(jobs.hits(&key("c", "1")));
    }

    #[test]
    fn lock_files_decide_the_key_and_the_source_where_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let locks = |source: &str| locks_of(dir.path(), source).unwrap();
        let none = locks("s1");
        assert_ne!(none, locks("s2"));
        let mut seen = vec![none];
        for name in ["web/package-lock.json", "requirements-dev.txt", "build.gradle.kts"] {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), "1").unwrap();
            let now = locks("s1");
            assert_eq!(now, locks("s2"));
            assert!(!seen.contains(&now), "{name}");
            seen.push(now);
        }
        fs::write(dir.path().join("web/main.js"), "1").unwrap();
        assert_eq!(seen.last(), Some(&locks("s1")));
    }
}
