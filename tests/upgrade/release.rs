//! A release as it lies in its folder: what is in the archive, and what the queues held.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tests::{succeeds, workspace};

/// The bots of the main flow, in its order.
pub(crate) const BOTS: [&str; 3] = ["build-bot", "test-bot", "deploy-bot"];

/// `release.json` of a folder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Release {
    /// Of the commit that it was recorded from.
    pub(crate) commit: String,
    /// Correlations of four pushes, by how far they had come.
    pub(crate) pushes: Pushes,
    /// What waited in the work queues.
    pub(crate) queued: Vec<Queued>,
    /// A message that was settled long before.
    pub(crate) settled: Queued,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pushes {
    /// Deployed.
    pub(crate) done: String,
    /// Its artifact waits for TestBot, in a queue.
    pub(crate) built: String,
    /// Its build is under way: a job with a lease.
    pub(crate) building: String,
    /// Waits for BuildBot, in a queue.
    pub(crate) pushed: String,
}

/// A message as it is published.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Queued {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: Value,
    pub(crate) body: String,
}

/// Folders of a fleet's home that a release is made of. Secrets and the broker's files are not: a fleet makes them anew.
pub(crate) const FOLDERS: [&str; 3] = ["bots", "config", "objects"];
/// Beside them: what its messages look like.
pub(crate) const SCHEMAS: &str = "proto-schemas";

pub(crate) fn folder() -> PathBuf {
    workspace().join("tests/upgrade")
}

/// All that were recorded, by version.
pub(crate) fn releases() -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no release is recorded in {}: make upgrade-record", folder().display());
    found
}

impl Release {
    pub(crate) fn read(path: &Path) -> Self {
        serde_json::from_slice(&fs::read(path.join("release.json")).unwrap()).unwrap()
    }
}

pub(crate) fn unpack(archive: &Path, into: &Path) {
    fs::create_dir_all(into).unwrap();
    let tar = into.join("home.tar");
    zstd::stream::copy_decode(fs::File::open(archive).unwrap(), fs::File::create(&tar).unwrap()).unwrap();
    succeeds(Command::new("tar").arg("-C").arg(into).arg("-xf").arg(&tar));
    fs::remove_file(tar).unwrap();
}

pub(crate) fn pack(home: &Path, archive: &Path) {
    let tar = home.with_extension("tar");
    let reproducible = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner"];
    succeeds(
        Command::new("tar").args(reproducible).arg("-C").arg(home).arg("-cf").arg(&tar).args(FOLDERS).arg(SCHEMAS),
    );
    zstd::stream::copy_encode(fs::File::open(&tar).unwrap(), fs::File::create(archive).unwrap(), 19).unwrap();
    fs::remove_file(tar).unwrap();
}
