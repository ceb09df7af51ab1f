//! Git repositories for tests: real ones, made on the spot.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::succeeds;

/// A repository with one branch, `main`.
pub struct Repository {
    /// Its working tree.
    pub path: PathBuf,
}

impl Repository {
    /// With these files in its first commit.
    pub fn create(path: &Path, files: &[(&str, &str)]) -> Self {
        fs::create_dir_all(path).unwrap();
        let repository = Self { path: path.to_owned() };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.commit(files);
        repository
    }

    /// Writes files and commits all; gives the commit.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, content) in files {
            let file = self.path.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "a change"]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// Another repository below this one, committed.
    pub fn add_submodule(&self, other: &Self, name: &str) {
        let from = other.path.to_string_lossy().into_owned();
        // Git asks for a yes where a submodule is a local path.
        self.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &from, name]);
        self.commit(&[]);
    }

    fn git(&self, args: &[&str]) -> String {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.path).args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
        ]);
        succeeds(command.args(args).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null"))
    }
}
