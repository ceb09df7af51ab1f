//! `lota down`: the bots stop in order, then the broker; with `--apps` also what was deployed.
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{applications, lock::HomeLock, own_broker, say::say, start::STOP_LIMIT};
use crate::home::Home;

const LOOK_EVERY: Duration = Duration::from_millis(100);
const TELL_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default, clap::Args)]
pub(crate) struct DownArgs {
    /// Stop deployed applications as well
    #[arg(long)]
    pub(crate) apps: bool,
}

pub(crate) async fn down(home: &Home, args: &DownArgs) -> anyhow::Result<ExitCode> {
    let is_supervised = HomeLock::holder(home).await?.is_some();
    // A start that was killed has left no record yet, but perhaps a broker.
    if !is_supervised && !own_broker::is_known(home) {
        home.fleet()?;
    }
    end(home, args.apps).await?;
    Ok(ExitCode::SUCCESS)
}

/// Ends all there is of a fleet, however far it came.
pub(super) async fn end(home: &Home, apps: bool) -> anyhow::Result<()> {
    match HomeLock::holder(home).await? {
        Some(pid) => {
            end_supervisor(home, pid).await?;
            say("the bots are stopped");
        }
        None => say(format_args!("no supervisor runs in {}", home.path().display())),
    }
    // After a supervisor that was killed, its broker may still be there.
    if own_broker::stop(home).await? {
        say("the broker is stopped");
    }
    if apps {
        say(format_args!("{} applications stopped", applications::stop(home).await?));
    }
    Ok(())
}

async fn end_supervisor(home: &Home, pid: u32) -> anyhow::Result<()> {
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)
        .with_context(|| format!("the fleet's supervisor (process {pid}) cannot be told to stop"))?;
    let limit = Instant::now() + STOP_LIMIT;
    let mut told = Instant::now();
    while HomeLock::holder(home).await? == Some(pid) {
        if Instant::now() > limit {
            let (limit, log) = (STOP_LIMIT.as_secs(), home.join("logs/supervisor.log"));
            bail!("the fleet's supervisor (process {pid}) did not stop within {limit} s; see {}", log.display());
        }
        if told.elapsed() > TELL_EVERY {
            say("  still stopping");
            told = Instant::now();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
