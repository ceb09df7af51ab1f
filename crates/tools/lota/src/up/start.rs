//! `lota up`: one process that starts a fleet, looks after it and ends it; with `--detach`, in a session of its own.
#![allow(clippy::disallowed_methods, reason = "starts itself again for --detach")]

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{ExitCode, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Child;

use super::{
    environment,
    fleet::Fleet,
    lock::HomeLock,
    say::{say, say_raw},
    stop::{Stop, stopped},
    tls::TlsMode,
};
use crate::{
    exit::{Exit, OrExit},
    home::Home,
};

/// From `lota up --detach` to ready, the broker's packages being fetched included.
const DETACH_LIMIT: Duration = Duration::from_secs(600);
/// For a supervisor that was told to stop: its bots get 40 s, its broker 30 s.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Where the broker comes from.
pub(crate) const BROKER_HELP: &str = "\
The broker is the first of these that can be had:
  LOTA_BROKER_URL=amqp://admin:password@host:port   one that runs already (amqps://: LOTA_BROKER_CA_FILE trusts further)
  LOTA_BROKER=installed                             a private node of the installed RabbitMQ
  LOTA_BROKER=packages                              the same of the distribution's packages, unpacked into the cache
  LOTA_BROKER=container                             docker or podman runs LOTA_BROKER_IMAGE [rabbitmq:4-management]
LOTA_BROKER set to one of the words takes that or fails. A fleet that began with a container keeps it.";

#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// Return once the fleet is ready, and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// Where the monitor answers; port 0 picks one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub(crate) monitor: SocketAddr,
    /// Certificates of the fleet's own for the broker and the monitor; stays so until another is said [off at first]
    #[arg(long, value_name = "MODE")]
    pub(crate) tls: Option<TlsMode>,
    /// With LOTA_BROKER_URL: mark the fleet as one for trying things out, as fleets with a broker of their own are
    #[arg(long)]
    pub(crate) development: bool,
}

pub(crate) async fn up(home: &Home, args: &UpArgs) -> anyhow::Result<ExitCode> {
    // Before anything else, so that no signal comes between a start and its end.
    let stop = Stop::install()?;
    let result = if args.detach { detached(home, args, &stop).await } else { foreground(home, args, &stop).await };
    result.or_exit(Exit::Internal)
}

async fn foreground(home: &Home, args: &UpArgs, stop: &Stop) -> anyhow::Result<ExitCode> {
    home.create().or_exit(Exit::Config)?;
    let _held = HomeLock::take(home).await?;
    let mut fleet = Fleet::new(home);
    let ended = tokio::select! {
        signal = stop.told() => Ok(signal),
        Err(e) = fleet.run(args) => Err(e),
    };
    say("stopping");
    let cleaned = fleet.end().await;
    match (ended, cleaned) {
        (Ok(_), Ok(())) if fleet.is_ready() => {
            say("stopped");
            Ok(ExitCode::SUCCESS)
        }
        (Ok(signal), Ok(())) => Err(stopped(signal, "the fleet was ready")),
        (Err(e), Ok(())) => Err(e),
        (Ok(_), Err(left)) => Err(left),
        (Err(e), Err(left)) => {
            say(format_args!("and not everything could be stopped: {left:#}"));
            Err(e)
        }
    }
}

/// Starts itself in a session of its own, shows what it says, and returns when it is ready. When that does not come to
/// be, it is ended again.
pub(super) async fn detached(home: &Home, args: &UpArgs, stop: &Stop) -> anyhow::Result<ExitCode> {
    home.create().or_exit(Exit::Config)?;
    HomeLock::is_free(home).await?;
    let log = home.join("logs/supervisor.log");
    let mut child = spawn(home, args, &log)?;
    let mut shown = Shown { log: &log, bytes: 0 };
    let ended = tokio::select! {
        ended = until_ready(home, &mut child, &mut shown) => ended,
        signal = stop.told() => Err(stopped(signal, "the fleet was ready")),
    };
    let Err(e) = ended else {
        shown.more();
        say(format_args!("  stop it  lota --home {} down", home.path().display()));
        return Ok(ExitCode::SUCCESS);
    };
    end(&mut child, &mut shown).await?;
    Err(e)
}

fn spawn(home: &Home, args: &UpArgs, log: &Path) -> anyhow::Result<Child> {
    // Appended to, so that it may be cut while it is written.
    let out = fs::OpenOptions::new().create(true).append(true).open(log);
    let out = out.and_then(|file| file.set_len(0).map(|()| file));
    let out = out.with_context(|| format!("cannot write {}", log.display())).or_exit(Exit::Config)?;
    let _ = fs::remove_file(home.join("ready"));
    let mut command = tokio::process::Command::new("setsid");
    command.arg(environment::own_program()?).arg("--home").arg(home.path()).arg("up");
    if let Some(mode) = args.tls.as_ref().and_then(clap::ValueEnum::to_possible_value) {
        command.args(["--tls", mode.get_name()]);
    }
    command
        .args(["--monitor", &args.monitor.to_string()])
        .args(args.development.then_some("--development"))
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("cannot start the supervisor (by setsid, of the package util-linux)")
        .or_exit(Exit::Unavailable)
}

async fn until_ready(home: &Home, child: &mut Child, shown: &mut Shown<'_>) -> anyhow::Result<()> {
    let limit = Instant::now() + DETACH_LIMIT;
    loop {
        shown.more();
        if home.join("ready").exists() {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            shown.more();
            let why = anyhow!("the fleet did not start; its log is {}", shown.log.display());
            return Err(told(status).of(why));
        }
        if Instant::now() > limit {
            let (limit, log) = (DETACH_LIMIT.as_secs(), shown.log.display());
            return Err(Exit::Internal.of(anyhow!("the fleet was not ready within {limit} s; its log is {log}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Has it end what it started, and waits.
async fn end(child: &mut Child, shown: &mut Shown<'_>) -> anyhow::Result<()> {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let limit = Instant::now() + STOP_LIMIT;
    while child.try_wait()?.is_none() {
        shown.more();
        if Instant::now() > limit {
            let (limit, log) = (STOP_LIMIT.as_secs(), shown.log.display());
            return Err(anyhow!("the supervisor did not stop within {limit} s; its log is {log}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    shown.more();
    Ok(())
}

fn told(status: ExitStatus) -> Exit {
    status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).map_or(Exit::Internal, Exit::Told)
}

/// How much of the supervisor's log was shown.
struct Shown<'a> {
    log: &'a Path,
    bytes: usize,
}

impl Shown<'_> {
    fn more(&mut self) {
        let text = fs::read(self.log).unwrap_or_default();
        say_raw(&String::from_utf8_lossy(text.get(self.bytes..).unwrap_or_default()));
        self.bytes = text.len();
    }
}
