//! What `lota` does for a project without a fleet, on real tools in the real sandbox; and the guide to pipeline files,
//! whose examples are run; and the fleet as units of systemd, as they are installed.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests look at the machine from outside, and a broken assumption ends them"
)]

mod container;
mod init;
mod pipelines_page;
mod run;
mod units;

use std::{fs, path::Path};

use tests::{fixtures::Files, lota, text};

/// Writes files into a folder.
fn lay(dir: &Path, files: Files) {
    for (name, content) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// A folder with files.
fn project(files: Files) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    lay(dir.path(), files);
    dir
}

/// `lota`: its exit code, and all it said.
fn said(args: &[&str]) -> (i32, String) {
    let output = lota(args).output().unwrap();
    (output.status.code().unwrap(), text(&output))
}
