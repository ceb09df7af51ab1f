//! `lota doctor`: what this machine lacks, each missing thing in one line with the command that gets it.
#![allow(clippy::disallowed_methods, reason = "asks tools for their versions")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use bot_provision::{Bundle, Installation, PackageCache, free_port};
use bot_sandbox::{Options, Sandbox, SandboxKind};
use tokio::process::Command;

use super::{environment, own_broker, say::say};
use crate::exit::Exit;

/// What `deploy/doctor.sh` holds a machine against, too, before anything is compiled.
const NEEDS: &str = include_str!("../../../../../deploy/needs");

pub(crate) async fn doctor() -> anyhow::Result<ExitCode> {
    let mut missing = Vec::new();
    for (tool, package) in [
        ("make", ["make"; 4]),
        ("git", ["git"; 4]),
        ("cc", ["build-essential", "gcc glibc-devel", "build-base", "base-devel"]),
        ("setpriv", UTIL_LINUX),
        ("setsid", UTIL_LINUX),
    ] {
        match environment::find_program(tool) {
            Some(path) => say(format_args!("ok       {tool}: {}", path.display())),
            None => missing.push(match environment::install(package) {
                Some(command) => format!("{tool}: {command}"),
                None => format!("{tool}: install {} with this system's package manager", package[0]),
            }),
        }
    }
    rust(&mut missing).await;
    broker(&mut missing).await?;
    memory(&mut missing);
    let here = std::env::current_dir().unwrap_or_default();
    disk(&mut missing, &here, "give another folder in --home");
    disk(&mut missing, &std::env::temp_dir(), "name a folder on a larger disk in TMPDIR");
    match free_port() {
        Ok(port) => say(format_args!("ok       ports: {port} and others are free")),
        Err(e) => missing.push(format!("a free port of 127.0.0.1 ({e}): end what listens there (ss -ltnp shows it)")),
    }
    for line in &missing {
        say(format_args!("missing  {line}"));
    }
    Ok(ExitCode::from(if missing.is_empty() { 0 } else { Exit::Unavailable.code() }))
}

const UTIL_LINUX: [&str; 4] = ["util-linux", "util-linux", "util-linux-misc", "util-linux"];

/// A figure of [`NEEDS`].
fn need(name: &str) -> u64 {
    let line = NEEDS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.and_then(|figure| figure.parse().ok()).unwrap_or(0)
}

async fn rust(missing: &mut Vec<String>) {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    match rust_version().await {
        Some(version) if Some(version) >= major_and_minor(oldest) => {
            say(format_args!("ok       rustc: {}.{}", version.0, version.1));
        }
        Some(version) => missing.push(format!(
            "rustc {oldest} or newer (here is {}.{}): rustup update stable && rustup default stable",
            version.0, version.1
        )),
        None => missing.push(format!("rustc {oldest} or newer: https://rustup.rs, or rustup default stable")),
    }
}

fn memory(missing: &mut Vec<String>) {
    let needed = need("memory_mib");
    match memory_mib() {
        Some(mib) if mib < needed => missing.push(format!(
            "memory: {mib} MiB are available, {needed} are needed: end other programs (ps aux --sort=-rss | head shows \
             the largest), or give this machine or container more"
        )),
        Some(mib) => say(format_args!("ok       memory: {mib} MiB available")),
        None => say("unknown  memory: /proc/meminfo cannot be read"),
    }
}

fn disk(missing: &mut Vec<String>, dir: &Path, or_else: &str) {
    let (needed, shown) = (need("disk_mib"), dir.display());
    match disk_mib(dir) {
        Some(mib) if mib < needed => missing.push(format!(
            "disk: {mib} MiB are free in {shown}, {needed} are needed: delete what is not needed (du -xh --max-depth=2 \
             {shown} | sort -h | tail shows the largest), or {or_else}"
        )),
        Some(mib) => say(format_args!("ok       disk: {mib} MiB free in {shown}")),
        None => say(format_args!("unknown  disk: {shown} cannot be asked")),
    }
}

/// Has the cache hold what a fleet and its tests need. Progress goes to standard error, bubblewrap's path to standard output.
pub(crate) async fn fetch() -> anyhow::Result<ExitCode> {
    let dir = environment::cache_dir()?;
    let progress = |line: &str| eprintln!("  {line}");
    if environment::broker_url().is_none() {
        Installation::find(&dir, &progress).await?;
    }
    let bwrap = match environment::find_program("bwrap") {
        Some(installed) => installed,
        None => PackageCache::new(&dir).ensure(Bundle::Bubblewrap, &progress).await?.join(Bundle::Bubblewrap.program()),
    };
    let versions = std::fs::read_dir(Path::new("/").join(Bundle::PostgreSql.program()));
    if !versions.into_iter().flatten().flatten().any(|version| version.path().join("bin/initdb").is_file()) {
        PackageCache::new(&dir).ensure(Bundle::PostgreSql, &progress).await?;
    }
    say(format_args!("{}", bwrap.display()));
    Ok(ExitCode::SUCCESS)
}

async fn broker(missing: &mut Vec<String>) -> anyhow::Result<()> {
    if environment::broker_url().is_some() {
        say("ok       broker: LOTA_BROKER_URL names one");
    } else {
        match own_broker::outlook().await {
            Ok(what) => say(format_args!("ok       broker: {what}")),
            Err(e) => missing.push(format!("broker: {e:#}; or name one in LOTA_BROKER_URL")),
        }
    }
    let cache = PackageCache::new(environment::cache_dir()?);
    let in_cache = || Some(cache.present(Bundle::Bubblewrap)?.join(Bundle::Bubblewrap.program()));
    match environment::find_program("bwrap").or_else(in_cache) {
        Some(bwrap) => sandbox(bwrap).await?,
        None => say("ok       sandbox: bubblewrap will be unpacked into the cache where it can be had"),
    }
    Ok(())
}

/// Which one works is known once it was tried.
async fn sandbox(bwrap: PathBuf) -> anyhow::Result<()> {
    let state = tempfile::tempdir()?;
    let options = Options {
        owner: "lota-doctor".to_owned(),
        bwrap: Some(bwrap),
        path: environment::search_path(),
        state: state.path().canonicalize()?,
        launcher: Some(Options::own_program()),
        kind: None,
    };
    let sandbox = match Sandbox::detect(options).await {
        Ok(sandbox) => sandbox,
        Err(e) => {
            say(format_args!("unknown  sandbox: {e}"));
            return Ok(());
        }
    };
    let (kind, why) = (sandbox.kind(), sandbox.why_not_stronger().unwrap_or_default());
    match kind {
        SandboxKind::Bubblewrap => say("ok       sandbox: bubblewrap"),
        SandboxKind::Landlock => {
            say(format_args!("ok       sandbox: landlock, which holds less ({why}); see docs/SECURITY.md"));
        }
        SandboxKind::ProcessGroup => {
            say(format_args!(
                "weak     sandbox: process groups, so only repositories that are `trust: own` are built ({why})"
            ));
        }
    }
    Ok(())
}

async fn rust_version() -> Option<(u32, u32)> {
    let output = Command::new("rustc").arg("--version").output().await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    major_and_minor(text.split_whitespace().nth(1)?)
}

fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Of the machine, or of this container where that has less.
fn memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let machine = line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|bytes| bytes.trim().parse::<u64>().ok()).map(|bytes| bytes / 1024 / 1024);
    Some(limit.map_or(machine, |limit| limit.min(machine)))
}

fn disk_mib(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    #[allow(clippy::useless_conversion, reason = "macOS counts blocks in 32 bits")]
    let (blocks, bytes_each) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
    Some(blocks * bytes_each / 1024 / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_there() {
        assert!(need("memory_mib") >= 512 && need("disk_mib") >= 512 && need("compile_disk_mib") >= 1024);
        assert_eq!(major_and_minor("1.95.0-nightly"), Some((1, 95)));
        assert!(major_and_minor(env!("CARGO_PKG_RUST_VERSION")).is_some());
    }

    #[test]
    fn what_is_missing_comes_with_what_helps() {
        let mut missing = Vec::new();
        disk(&mut missing, Path::new("/proc"), "go elsewhere");
        assert!(
            missing[0].contains("0 MiB are free in /proc") && missing[0].ends_with("or go elsewhere"),
            "{missing:?}"
        );
    }
}
