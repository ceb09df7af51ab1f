//! The web application of the demo: small, real, in need of nothing but Rust; and its git repository.
#![allow(clippy::disallowed_methods, reason = "makes commits with git")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use tokio::process::Command;

const MANIFEST: &str = include_str!("../../demo/Cargo.toml.in");
const LOCK: &str = include_str!("../../demo/Cargo.lock.in");
const MAIN: &str = include_str!("../../demo/main.rs.in");
const PIPELINE: &str = include_str!("../../demo/lotabots.yaml");

/// A repository with the application in it.
pub(crate) struct DemoApp {
    pub(crate) path: PathBuf,
}

impl DemoApp {
    pub(crate) async fn create(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path.join("src"))?;
        for (name, text) in [
            ("Cargo.toml", MANIFEST),
            ("Cargo.lock", LOCK),
            ("src/main.rs", MAIN),
            (".lotabots.yaml", PIPELINE),
            (".gitignore", "/target\n"),
        ] {
            fs::write(path.join(name), text)?;
        }
        let app = Self { path: path.to_owned() };
        app.git(&["init", "--quiet", "--initial-branch=main"]).await?;
        app.commit("A shop that answers").await?;
        Ok(app)
    }

    /// Changes the program; what is replaced has to be there.
    pub(crate) async fn change(&self, from: &str, to: &str, message: &str) -> anyhow::Result<()> {
        let file = self.path.join("src/main.rs");
        let text = fs::read_to_string(&file)?;
        if !text.contains(from) {
            bail!("the demo's program has no `{from}` to change");
        }
        fs::write(&file, text.replace(from, to))?;
        self.commit(message).await
    }

    /// Takes the last commit back, as a person would.
    pub(crate) async fn revert(&self) -> anyhow::Result<()> {
        self.git(&["revert", "--no-edit", "HEAD"]).await
    }

    async fn commit(&self, message: &str) -> anyhow::Result<()> {
        self.git(&["add", "--all"]).await?;
        self.git(&["commit", "--quiet", "--message", message]).await
    }

    async fn git(&self, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(&self.path)
            .args(["-c", "user.name=demo", "-c", "user.email=demo@example.org", "-c", "commit.gpgsign=false"])
            .args(args);
        // Whoever stops the demo stops this as well.
        command.kill_on_drop(true);
        let output = command.env("GIT_CONFIG_NOSYSTEM", "1").output().await.context("git cannot be started")?;
        if !output.status.success() {
            bail!("git {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}
