//! Programs of this machine: those that tests need, and a machine that lacks some.
use std::{env, fs, os::unix::fs::symlink};

use tempfile::TempDir;

/// A folder for `PATH` with all programs of this machine but these.
pub fn programs_without(missing: &[&str]) -> TempDir {
    let programs = TempDir::new().unwrap();
    for folder in env::split_paths(&env::var_os("PATH").unwrap()) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !missing.iter().any(|name| entry.file_name() == *name) {
                // The first of a name is the one that counts.
                let _ = symlink(entry.path(), programs.path().join(entry.file_name()));
            }
        }
    }
    programs
}
