//! The files of a checkout, read once, for the rules to look at. No rule lives here.
#![allow(
    clippy::disallowed_methods,
    reason = "asks git for the files that belong to the checkout; a tool on a developer's machine needs no sandbox"
)]
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A file of more bytes than this is reported, and not read.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A checkout's files by their path from the root, with `/` between the parts.
pub(super) struct Tree(BTreeMap<String, File>);

pub(super) struct File {
    pub(super) bytes: u64,
    /// What it says, if it is text and not too large.
    pub(super) text: Option<String>,
}

impl Tree {
    /// Reads all files that git tracks or would track.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for path in paths(root)? {
            let full = root.join(&path);
            // A path that git still lists may be deleted, and a link belongs to what it points at.
            let Ok(about) = full.symlink_metadata() else {
                continue;
            };
            if !about.is_file() {
                continue;
            }
            let bytes = about.len();
            let text = if bytes > FILE_BYTES_MAX {
                None
            } else {
                let content = std::fs::read(&full).with_context(|| format!("{path} cannot be read"))?;
                String::from_utf8(content).ok().filter(|text| !text.contains('\0'))
            };
            files.insert(path, File { bytes, text });
        }
        Ok(Self(files))
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.0.iter().map(|(path, file)| (path.as_str(), file))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path)?.text.as_deref()
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter_map(|(path, file)| Some((path, file.text.as_deref()?)))
    }

    /// The workspace's Rust sources. What lies under a folder `fixtures` is data that happens to be Rust.
    pub(super) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(|(path, _)| {
            let ours = path.starts_with("crates/") || path.starts_with("tests/");
            ours && Path::new(path).extension().is_some_and(|end| end == "rs")
                && !path.split('/').any(|part| part == "fixtures")
        })
    }
}

/// What git lists; where there is no repository (an unpacked archive), all files but the build's own.
fn paths(root: &Path) -> Result<Vec<String>> {
    if root.join(".git").exists() {
        let output = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .output()
            .context("git does not start: install it")?;
        if !output.status.success() {
            bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let list = String::from_utf8(output.stdout).context("a path is not UTF-8")?;
        return Ok(list.split_terminator('\0').map(str::to_owned).collect());
    }
    let mut paths = Vec::new();
    let ours =
        |entry: &walkdir::DirEntry| entry.depth() != 1 || !["target", ".cache"].iter().any(|n| entry.file_name() == *n);
    for entry in walkdir::WalkDir::new(root).into_iter().filter_entry(ours) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let path = entry.path().strip_prefix(root)?.to_str().context("a path is not UTF-8")?;
            paths.push(path.replace(std::path::MAIN_SEPARATOR, "/"));
        }
    }
    Ok(paths)
}

/// A tree of these files, written to a folder and read from it.
#[cfg(test)]
#[track_caller]
pub(super) fn made(files: &[(&str, &str)]) -> Tree {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let full = folder.path().join(path);
        std::fs::create_dir_all(full.parent().expect("a parent")).expect("folders");
        std::fs::write(full, text).expect("a file");
    }
    Tree::read(folder.path()).expect("the tree reads")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_repository_the_builds_own_files_are_left_out() {
        let tree = made(&[("target/debug/x.rs", ""), ("crates/target/y.rs", "y"), ("a.bin", "\0")]);
        assert_eq!(tree.files().map(|(path, _)| path).collect::<Vec<_>>(), ["a.bin", "crates/target/y.rs"]);
        assert_eq!(tree.text("a.bin"), None);
        assert_eq!(tree.text("crates/target/y.rs"), Some("y"));
    }

    #[test]
    fn in_a_repository_ignored_and_deleted_files_are_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
        let git = |arguments: &[&str]| {
            let status = Command::new("git").arg("-C").arg(folder.path()).args(arguments).status();
            assert!(status.expect("git starts").success());
        };
        git(&["init", "-q"]);
        write(".gitignore", "*.log\n");
        write("noise.log", "");
        write("gone.md", "");
        write("new.md", "");
        git(&["add", "gone.md"]);
        std::fs::remove_file(folder.path().join("gone.md")).expect("deleted");
        let tree = Tree::read(folder.path()).expect("the tree reads");
        assert_eq!(tree.files().map(|(path, _)| path).collect::<Vec<_>>(), [".gitignore", "new.md"]);
    }

    #[test]
    fn a_broken_repository_is_an_error_and_not_an_empty_tree() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(".git"), "gitdir: nowhere\n").expect("a file");
        let error = Tree::read(folder.path()).err().expect("an error");
        assert!(error.to_string().starts_with("git ls-files failed: "), "{error}");
    }
}
