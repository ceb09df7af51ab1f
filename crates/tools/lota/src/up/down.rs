//! `lota down`: the bots stop in order, then the broker; with `--apps` also what was deployed.
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use bot_provision::Node;
use bot_sandbox::Served;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::start::{alive, started_at};
use crate::home::Home;

const STOP_LIMIT: Duration = Duration::from_secs(90);
const APP_GRACE: Duration = Duration::from_secs(5);
/// How deep below a bot's folder the record of an application may lie.
const RECORD_DEPTH: usize = 6;

#[derive(Debug, Default, clap::Args)]
pub(crate) struct DownArgs {
    /// Stop deployed applications as well
    #[arg(long)]
    pub(crate) apps: bool,
}

pub(crate) async fn down(home: &Home, args: &DownArgs) -> anyhow::Result<ExitCode> {
    let record = home.fleet()?;
    if alive(&record) {
        let pid = i32::try_from(record.supervisor_pid)?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        let limit = Instant::now() + STOP_LIMIT;
        let mut told = Instant::now();
        while started_at(record.supervisor_pid) == Some(record.supervisor_started) {
            if Instant::now() > limit {
                bail!(
                    "the fleet's supervisor (process {pid}) did not stop within {} s; see {}",
                    STOP_LIMIT.as_secs(),
                    home.join("logs/supervisor.log").display()
                );
            }
            if told.elapsed() > Duration::from_secs(5) {
                println!("  still stopping");
                told = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!("the bots are stopped");
    } else {
        println!("no supervisor runs in {}", home.path().display());
    }
    // After a supervisor that was killed, its broker may still be there.
    if record.own_broker
        && let Some(mut node) = Node::attach(&home.join("broker"))?
        && node.stop().await?
    {
        println!("the broker is stopped");
    }
    if args.apps {
        println!("{} applications stopped", stop_applications(home).await?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Stops every application whose record lies below DeployBot's folder.
pub(crate) async fn stop_applications(home: &Home) -> anyhow::Result<usize> {
    let mut records = Vec::new();
    find_records(&home.bot("deploy-bot"), RECORD_DEPTH, &mut records);
    let mut stopped = 0;
    for record in records {
        if let Some(served) = Served::adopt(&record)? {
            served.stop(APP_GRACE).await?;
            stopped += 1;
        }
    }
    Ok(stopped)
}

fn find_records(dir: &Path, depth: usize, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        // What was deployed is the repository's, not ours: a serve.json in there is none of our records.
        if kind.is_dir() && depth > 0 && entry.file_name() != "releases" {
            find_records(&entry.path(), depth - 1, out);
        } else if kind.is_file() && entry.file_name() == "serve.json" {
            out.push(entry.path());
        }
    }
}
