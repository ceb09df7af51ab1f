//! The folder of one job: the tree that is tested, a private home, logs. Made anew for every attempt, removed after it.
//! Git never runs here: everything comes from the object store by its digest.
use std::{
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use bot_clients::{ArchiveError, ArchiveLimits, ObjectError, Objects, list_tree, unpack};
use bot_core::Fail;
use bot_messages::{
    Code, Digest,
    pipeline::{FILE_BYTES_MAX, FILE_NAME},
};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, de::IgnoredAny};

use crate::{Config, bytes, junit, report::Report};

/// The folder of one job.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// An empty one, also where an earlier attempt left something.
    pub(crate) async fn create(root: PathBuf) -> Result<Self, Fail> {
        let workspace = Self { root };
        workspace.remove().await.map_err(|e| workspace.refused("clear", e))?;
        tokio::fs::create_dir_all(workspace.tree()).await.map_err(|e| workspace.refused("make", e))?;
        tokio::fs::set_permissions(&workspace.root, fs::Permissions::from_mode(0o700))
            .await
            .map_err(|e| workspace.refused("close to others", e))?;
        Ok(workspace)
    }

    /// What is tested.
    pub(crate) fn tree(&self) -> PathBuf {
        self.root.join("tree")
    }
    /// `HOME` of the suites.
    pub(crate) fn home(&self) -> PathBuf {
        self.root.join("home")
    }
    /// All that the suites printed.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log.txt")
    }
    /// What the suite that runs printed.
    pub(crate) fn suite_log(&self) -> PathBuf {
        self.root.join("suite.txt")
    }

    /// Unpacks an object over the tree.
    pub(crate) async fn lay(
        &self,
        objects: &Objects,
        what: &str,
        digest: &Digest,
        config: &Config,
    ) -> Result<(), Fail> {
        let archive = self.root.join("archive");
        objects.get_file(digest, &archive, bytes(config.archive_mib)).await.map_err(|e| fetch_failed(what, e))?;
        let limits = ArchiveLimits { entries_max: config.entries, bytes_max: bytes(config.tree_mib) };
        let (from, into) = (archive.clone(), self.tree());
        let unpacked = blocking(move || unpack(&from, &into, &limits)).await?;
        unpacked.map_err(|e| unpack_failed(what, digest, e))?;
        tokio::fs::remove_file(&archive).await.map_err(|e| self.refused("tidy up in", e))
    }

    /// Deletes it. Tests may have made folders that even their owner may not write to.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        let root = self.root.clone();
        let removed = blocking(move || bot_clients::remove_tree(&root));
        removed.await.unwrap_or_else(|_| Err(io::Error::other("the removal did not end in order")))
    }

    fn refused(&self, doing: &str, error: io::Error) -> Fail {
        let context = format!("could not {doing} the workspace {}: check space and rights", self.root.display());
        Fail::retry(anyhow::Error::from(error).context(context))
    }
}

/// Runs what blocks beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, Fail> {
    tokio::task::spawn_blocking(run).await.map_err(Fail::retry)
}

/// What is missing or damaged stays so; a disk or a store that refuses may work next time.
fn fetch_failed(what: &str, error: ObjectError) -> Fail {
    let code = match &error {
        ObjectError::NotFound { .. } | ObjectError::Damaged { .. } => Code::FetchFailed,
        ObjectError::TooLarge { .. } => Code::LimitExceeded,
        _ => return Fail::retry(anyhow::Error::from(error).context(format!("could not fetch the {what}"))),
    };
    Fail::reject(code, anyhow::Error::from(error).context(format!("could not fetch the {what}")))
}

fn unpack_failed(what: &str, digest: &Digest, error: ArchiveError) -> Fail {
    let code = match &error {
        ArchiveError::Io { .. } => None,
        ArchiveError::TooMuch { .. } => Some(Code::LimitExceeded),
        _ => Some(Code::FetchFailed),
    };
    let error = anyhow::Error::from(error).context(format!("could not unpack the {what} {}", digest.short()));
    match code {
        Some(code) => Fail::reject(code, error),
        None => Fail::retry(error),
    }
}

/// Whether the pipeline file says in so many words that there is nothing to test: `test: {suites: {}}`. Reading it as a
/// pipeline does not tell that from a file that forgot its tests.
pub(crate) fn asks_for_no_tests(tree: &Path) -> bool {
    #[derive(Deserialize)]
    struct File {
        test: Option<Stage>,
    }
    #[derive(Deserialize)]
    struct Stage {
        suites: Option<IgnoredAny>,
    }
    let Ok(text) = read_regular(&tree.join(FILE_NAME), FILE_BYTES_MAX as u64) else {
        return false;
    };
    serde_saphyr::from_str::<File>(&text).is_ok_and(|f| f.test.is_some_and(|t| t.suites.is_some()))
}

/// Deletes the reports that are there before a suite runs: one that came with the source would count as its result.
pub(crate) fn clear_reports(tree: &Path, patterns: &[String], config: &Config) -> Result<(), String> {
    for path in reports(tree, patterns, config)? {
        fs::remove_file(&path).map_err(|e| format!("could not delete the old report {}: {e}", path.display()))?;
    }
    Ok(())
}

/// Reads the reports a suite wrote.
pub(crate) fn read_reports(tree: &Path, patterns: &[String], config: &Config) -> Result<Report, String> {
    let mut all = Report::default();
    for path in reports(tree, patterns, config)? {
        let name = path.strip_prefix(tree).unwrap_or(&path).display();
        let text = read_regular(&path, bytes(config.report_mib))
            .map_err(|e| format!("the report {name} cannot be read: {e}"))?;
        all.add(junit::parse(&text).map_err(|e| format!("the report {name} is no JUnit XML: {e}"))?);
    }
    Ok(all)
}

fn reports(tree: &Path, patterns: &[String], config: &Config) -> Result<Vec<PathBuf>, String> {
    let wanted = globs(patterns)?;
    let files = list_tree(tree, config.entries).map_err(|e| format!("could not look for reports: {e}"))?;
    let found: Vec<PathBuf> = files.into_iter().filter(|f| wanted.is_match(f)).map(|f| tree.join(f)).collect();
    if found.len() > config.reports {
        return Err(format!(
            "{} files fit {}: at most {} reports are read",
            found.len(),
            patterns.join(", "),
            config.reports
        ));
    }
    Ok(found)
}

fn globs(patterns: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let plain = pattern.strip_prefix("./").unwrap_or(pattern);
        let glob = GlobBuilder::new(plain).literal_separator(true).build();
        set.add(glob.map_err(|e| format!("the pattern `{pattern}` in `reports` cannot be used: {e}"))?);
    }
    set.build().map_err(|e| format!("the patterns in `reports` cannot be used: {e}"))
}

/// A file that is one: what is tested could leave a link to something that only the bot may read.
fn read_regular(path: &Path, bytes_max: u64) -> io::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::other("expected a regular file, not a link"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("expected at most {bytes_max} bytes, it has {}", meta.len())));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "<testsuite><testcase name='a'/></testsuite>";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn patterns(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reports_are_found_by_pattern_and_added_up() {
        let dir = tree(&[("a/junit.xml", PASSED), ("b/c/junit.xml", PASSED), ("junit.xml", PASSED), ("x.xml", "no")]);
        let config = Config::default();
        let read = |all: &[&str]| read_reports(dir.path(), &patterns(all), &config).unwrap().passed;
        assert_eq!((read(&["./junit.xml"]), read(&["*/junit.xml"]), read(&["**/junit.xml"])), (1, 1, 3));
        clear_reports(dir.path(), &patterns(&["**/junit.xml"]), &config).unwrap();
        assert_eq!(read(&["**/junit.xml"]), 0);
        assert!(dir.path().join("x.xml").exists());
    }

    #[test]
    fn what_cannot_be_a_report_is_told() {
        let dir = tree(&[("big.xml", &"x".repeat(1 << 21)), ("bad.xml", "<html/>")]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.xml")).unwrap();
        let config = Config { report_mib: 1, reports: 2, ..Config::default() };
        let told = |pattern: &str| read_reports(dir.path(), &patterns(&[pattern]), &config).unwrap_err();
        assert!(told("big.xml").contains("at most 1048576 bytes"));
        assert!(told("bad.xml").contains("report bad.xml is no JUnit XML: expected `testsuites`"));
        assert!(told("link.xml").contains("not a link"), "it would be read with the rights of the bot");
        assert!(told("*.xml").contains("3 files fit *.xml: at most 2"));
        assert!(told("a[").contains("`a[` in `reports` cannot be used"));
    }

    #[test]
    fn no_tests_are_asked_for_only_in_so_many_words() {
        for (text, asked) in [
            ("version: 1\ntest: {suites: {}}\n", true),
            ("version: 1\ntest: {}\n", false),
            ("version: 1\ntest:\n  suites:\n", false),
            ("version: 1\n", false),
            (": :", false),
        ] {
            assert_eq!(asks_for_no_tests(tree(&[(FILE_NAME, text)]).path()), asked, "{text}");
        }
        assert!(!asks_for_no_tests(tree(&[]).path()));
    }

    #[tokio::test]
    async fn a_workspace_is_removed_whatever_the_tests_did_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::create(dir.path().join("job-1")).await.unwrap();
        let locked = workspace.tree().join("locked");
        fs::create_dir_all(locked.join("inside")).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
        workspace.remove().await.unwrap();
        workspace.remove().await.unwrap();
        assert!(!workspace.root.exists());
    }
}
