//! `lota doctor`: what this machine lacks, each missing thing in one line with the command that gets it.
#![allow(clippy::disallowed_methods, reason = "asks tools for their versions")]

use std::process::ExitCode;

use bot_provision::{Bundle, Installation, PackageCache, free_port};
use tokio::process::Command;

use super::{environment, own_broker, say::say};

/// Something is unavailable (sysexits.h).
const EXIT_UNAVAILABLE: u8 = 69;
const MEMORY_MIN_MIB: u64 = 1024;
const DISK_MIN_MIB: u64 = 1024;
const OLDEST_RUST: (u32, u32) = (1, 95);

pub(crate) async fn doctor() -> anyhow::Result<ExitCode> {
    let mut missing = Vec::new();
    for (tool, how) in [
        ("make", "apt-get install -y make"),
        ("git", "apt-get install -y git"),
        ("cc", "apt-get install -y build-essential"),
        ("setpriv", "apt-get install -y util-linux"),
    ] {
        match environment::find_program(tool) {
            Some(path) => say(format_args!("ok       {tool}: {}", path.display())),
            None => missing.push(format!("{tool}: {how}")),
        }
    }
    match rust_version().await {
        Some(version) if version >= OLDEST_RUST => say(format_args!("ok       rustc: {}.{}", version.0, version.1)),
        Some(version) => missing.push(format!(
            "rustc {}.{} or newer (here is {}.{}): rustup update stable",
            OLDEST_RUST.0, OLDEST_RUST.1, version.0, version.1
        )),
        None => missing.push("rustc: https://rustup.rs, or rustup default stable".to_owned()),
    }
    broker(&mut missing).await?;
    match memory_mib() {
        Some(mib) if mib < MEMORY_MIN_MIB => {
            missing.push(format!("memory: {mib} MiB are free, a fleet with its broker wants {MEMORY_MIN_MIB}"));
        }
        Some(mib) => say(format_args!("ok       memory: {mib} MiB free")),
        None => say("unknown  memory: /proc/meminfo cannot be read"),
    }
    match disk_mib() {
        Some(mib) if mib < DISK_MIN_MIB => {
            missing.push(format!("disk: {mib} MiB are free here, a fleet wants {DISK_MIN_MIB}"));
        }
        Some(mib) => say(format_args!("ok       disk: {mib} MiB free here")),
        None => say("unknown  disk"),
    }
    match free_port() {
        Ok(port) => say(format_args!("ok       ports: {port} and others are free")),
        Err(e) => missing.push(format!("a free port: {e}")),
    }
    for line in &missing {
        say(format_args!("missing  {line}"));
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNAVAILABLE) })
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
    match environment::find_program("bwrap").or_else(|| cache.present(Bundle::Bubblewrap)) {
        Some(_) => say("ok       sandbox: bubblewrap"),
        None => say("ok       sandbox: bubblewrap will be unpacked into the cache where it can be had"),
    }
    Ok(())
}

async fn rust_version() -> Option<(u32, u32)> {
    let output = Command::new("rustc").arg("--version").output().await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut parts = text.split_whitespace().nth(1)?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

fn disk_mib() -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(".").ok()?;
    #[allow(clippy::useless_conversion, reason = "macOS counts blocks in 32 bits")]
    let (blocks, bytes_each) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
    Some(blocks * bytes_each / 1024 / 1024)
}
