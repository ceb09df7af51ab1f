//! `lota down`: the bots stop in order, then the broker; with `--apps` also what was deployed.
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    applications, own_broker,
    start::{alive, started_at},
};
use crate::home::Home;

const STOP_LIMIT: Duration = Duration::from_secs(90);

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
    if own_broker::stop(home, record.broker).await? {
        println!("the broker is stopped");
    }
    if args.apps {
        println!("{} applications stopped", applications::stop(home).await?);
    }
    Ok(ExitCode::SUCCESS)
}
