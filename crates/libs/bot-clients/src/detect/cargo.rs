//! Rust, by Cargo.toml.
use std::path::Path;

use super::{
    draft::{Draft, printed},
    look,
};

/// Which programs and libraries a workspace makes is known once they are made.
const COLLECT: &str = "mkdir -p target/artifacts\nfind target/release -maxdepth 1 -type f '(' -perm -u+x -o -name '*.rlib' ')' -exec cp '{}' target/artifacts/ ';'";

/// The network is for fetching alone, and only where there is something to fetch.
pub(super) fn find(root: &Path) -> Option<Draft> {
    if !look::is_file(root, "Cargo.toml") {
        return None;
    }
    let has_lock = look::is_file(root, "Cargo.lock");
    let fetches = if has_lock {
        look::text(root, "Cargo.lock").lines().any(|line| line.trim_start().starts_with("source = "))
    } else {
        let manifest = look::text(root, "Cargo.toml");
        manifest.contains("dependencies") || manifest.contains("[workspace")
    };
    let locked = if has_lock { " --locked" } else { "" };
    let fetch = format!("cargo fetch{locked}");
    let test = format!("cargo test --workspace --offline{locked}");
    let draft = Draft::new("cargo", "Cargo.toml")
        .when(fetches, |draft| draft.fetch(&fetch).cache(&["~/.cargo/registry"]))
        .step("compile", &format!("cargo build --release --workspace --offline{locked}"))
        .step("collect", COLLECT)
        .remark("steps.collect", "Programs and libraries of all packages.")
        .artifacts(&["target/artifacts/*"]);
    let mut suite = printed(&test);
    if fetches {
        (suite.run, suite.network) = (format!("{fetch}\n{test}"), true);
    }
    Some(draft.suite("unit", suite).remark("suites.unit", "What libtest prints is read as it comes."))
}
