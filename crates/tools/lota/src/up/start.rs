//! `lota up`: broker, topology, bots; ready when every bot is heard.
#![allow(clippy::disallowed_methods, reason = "starts itself again for --detach")]

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bot_provision::{ApplyOptions, Bundle, PackageCache};

use super::{
    bots, broker, defaults, environment, own_broker,
    supervise::{Common, Supervisor},
    topology,
};
use crate::{
    home::{BrokerKind, FleetRecord, Home},
    place::Place,
};

/// From the start of the bots to all of them being heard.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// From `lota up --detach` to ready, the broker's packages being fetched included.
const DETACH_LIMIT: Duration = Duration::from_secs(600);
/// How often it is looked whether the broker runs; a container's engine is asked each time.
const BROKER_EVERY: Duration = Duration::from_secs(3);
/// After a broker that could not be started.
const BROKER_PAUSE: Duration = Duration::from_secs(30);
const ATTEND_EVERY: Duration = Duration::from_millis(200);

/// Where the broker comes from.
pub(crate) const BROKER_HELP: &str = "\
The broker is the first of these that can be had:
  LOTA_BROKER_URL=amqp://admin:password@host:port   one that runs already
  LOTA_BROKER=installed                             a private node of the installed RabbitMQ
  LOTA_BROKER=packages                              the same of the distribution's packages, unpacked into the cache
  LOTA_BROKER=container                             docker or podman runs LOTA_BROKER_IMAGE [rabbitmq:4-management]
LOTA_BROKER set to one of the words takes that or fails. A fleet that began with a container keeps it.";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct UpArgs {
    /// Return once the fleet is ready, and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// Where the monitor answers; 0 picks a port
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) monitor: String,
}

pub(crate) async fn up(home: &Home, args: &UpArgs) -> anyhow::Result<ExitCode> {
    if let Some(record) = home.record()?
        && alive(&record)
    {
        bail!(
            "a fleet is up in {} already (process {}): see `lota status`, or stop it with `lota down`",
            home.path().display(),
            record.supervisor_pid
        );
    }
    home.create()?;
    if args.detach { detached(home, args).await } else { foreground(home, args).await }
}

/// Whether the record's supervisor still runs.
pub(crate) fn alive(record: &FleetRecord) -> bool {
    started_at(record.supervisor_pid) == Some(record.supervisor_started)
}

/// When a process was started, in the kernel's ticks: field 22 of its stat, after the name in parentheses.
pub(crate) fn started_at(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

async fn foreground(home: &Home, args: &UpArgs) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let (mut supervisor, broker) = assemble(home, args).await?;
    let mut stop = Box::pin(told_to_stop());
    supervisor.start_all()?;
    println!("  bots: started, waiting until each is heard");
    let ready = tokio::select! {
        ready = wait_ready(home, &mut supervisor) => ready,
        () = &mut stop => Err(anyhow::anyhow!("stopped before the fleet was ready")),
    };
    let result = match ready {
        Ok(monitor) => {
            println!("the fleet is ready after {:.1} s", begun.elapsed().as_secs_f64());
            println!("  home     {}", home.path().display());
            println!("  monitor  {monitor}/api/v1/health");
            fs::write(home.join("ready"), std::process::id().to_string())?;
            tokio::select! {
                () = &mut stop => Ok(ExitCode::SUCCESS),
                Err(e) = look_after(home, &mut supervisor, broker.kind) => Err(e),
            }
        }
        Err(e) => Err(e),
    };
    println!("stopping");
    let _ = fs::remove_file(home.join("ready"));
    supervisor.stop_all().await;
    own_broker::stop(home, broker.kind).await?;
    println!("stopped");
    result
}

/// Bots and broker that die are started again, until this is dropped.
async fn look_after(home: &Home, supervisor: &mut Supervisor, broker: BrokerKind) -> anyhow::Result<Infallible> {
    let mut broker_at = Instant::now();
    loop {
        supervisor.attend()?;
        if broker_at <= Instant::now() {
            let pause = match own_broker::revive(home, broker).await {
                Ok(false) => BROKER_EVERY,
                Ok(true) => {
                    println!("the broker had died and was started again");
                    BROKER_EVERY
                }
                Err(e) => {
                    println!("the broker: {e:#}; looking again in {} s", BROKER_PAUSE.as_secs());
                    BROKER_PAUSE
                }
            };
            broker_at = Instant::now() + pause;
        }
        tokio::time::sleep(ATTEND_EVERY).await;
    }
}

/// Broker, configuration, topology, record: everything but the bots.
async fn assemble(home: &Home, args: &UpArgs) -> anyhow::Result<(Supervisor, broker::Broker)> {
    let begun = Instant::now();
    let broker = broker::start(home).await?;
    println!("  broker: ready after {:.1} s", begun.elapsed().as_secs_f64());
    defaults::write_missing(home)?;
    let changes = topology::apply_to(home, &broker.management, ApplyOptions::default()).await?;
    println!("  topology: {} changes", changes.len());
    let pid = std::process::id();
    home.write_record(&FleetRecord {
        amqp_url: broker.amqp_url.clone(),
        management_url: broker.management_url.clone(),
        admin: broker.admin.clone(),
        broker: broker.kind,
        supervisor_pid: pid,
        supervisor_started: started_at(pid).unwrap_or_default(),
        place: Place::here(),
    })?;
    // Of an earlier run; what is written from now on is of this one.
    let _ = fs::remove_file(home.bot("monitor-bot").join("http-address"));
    let common = Common {
        amqp_url: broker.amqp_url.clone(),
        management_url: broker.management_url.clone(),
        bwrap: bubblewrap().await,
        monitor_listen: args.monitor.clone(),
    };
    Ok((Supervisor::new(home, common)?, broker))
}

/// The system's bubblewrap, or one from the cache. Without any, bots say in their heartbeat what confines commands.
pub(crate) async fn bubblewrap() -> Option<PathBuf> {
    if let Some(found) = environment::find_program("bwrap") {
        return Some(found);
    }
    let cache = PackageCache::new(environment::cache_dir().ok()?);
    let progress = |line: &str| println!("  sandbox: {line}");
    match cache.ensure(Bundle::Bubblewrap, &progress).await {
        Ok(root) => Some(root.join(Bundle::Bubblewrap.program())),
        Err(e) => {
            println!("  sandbox: without bubblewrap ({e}); commands get limits but are not walled off");
            None
        }
    }
}

/// Until the monitor has heard every bot; gives its address.
async fn wait_ready(home: &Home, supervisor: &mut Supervisor) -> anyhow::Result<String> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).no_proxy().build()?;
    let limit = Instant::now() + READY_LIMIT;
    let mut told = Instant::now();
    let wanted = bots::slugs()?;
    loop {
        supervisor.attend()?;
        if let Some(slug) = supervisor.refused().first() {
            bail!("{slug} does not start; the end of {}:\n{}", home.log(slug).display(), log_end(home, slug));
        }
        let heard = match home.monitor_url() {
            Ok(url) => heard(&http, &url).await.unwrap_or_default(),
            Err(_) => BTreeSet::new(),
        };
        let missing: Vec<&str> = wanted.iter().map(String::as_str).filter(|slug| !heard.contains(*slug)).collect();
        if missing.is_empty() {
            return home.monitor_url();
        }
        if Instant::now() > limit {
            let ends = missing
                .iter()
                .fold(String::new(), |all, s| all + &format!("\n{}:\n{}", home.log(s).display(), log_end(home, s)));
            bail!("not heard within {} s: {}{ends}", READY_LIMIT.as_secs(), missing.join(", "));
        }
        if told.elapsed() > Duration::from_secs(5) {
            println!("  bots: still waiting for {}", missing.join(", "));
            told = Instant::now();
        }
        tokio::time::sleep(ATTEND_EVERY).await;
    }
}

/// Slugs of the bots whose latest heartbeat says that they work.
async fn heard(http: &reqwest::Client, url: &str) -> anyhow::Result<BTreeSet<String>> {
    let body: serde_json::Value = http.get(format!("{url}/api/v1/bots")).send().await?.json().await?;
    let list = body.get("bots").unwrap_or(&body).as_array().cloned().unwrap_or_default();
    let working = list.into_iter().filter_map(|b| {
        let heartbeat = b.get("heartbeat").unwrap_or(&b).clone();
        let state = heartbeat.get("state")?.as_str()?.to_owned();
        let name: bot_messages::BotName = heartbeat.get("bot")?.as_str()?.parse().ok()?;
        (state != "starting" && state != "stopping").then(|| name.slug())
    });
    Ok(working.collect())
}

fn log_end(home: &Home, slug: &str) -> String {
    let text = fs::read_to_string(home.log(slug)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

pub(crate) async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Starts itself in a session of its own, shows what it says, and returns when it is ready.
async fn detached(home: &Home, args: &UpArgs) -> anyhow::Result<ExitCode> {
    let log = home.join("logs/supervisor.log");
    let out = fs::OpenOptions::new().create(true).write(true).truncate(true).open(&log)?;
    let _ = fs::remove_file(home.join("ready"));
    let mut command = tokio::process::Command::new("setsid");
    command.arg(environment::own_program()?).arg("--home").arg(home.path()).args(["up", "--monitor", &args.monitor]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("cannot start the supervisor (by setsid, of the package util-linux)")?;
    let limit = Instant::now() + DETACH_LIMIT;
    let mut shown = 0;
    loop {
        let text = fs::read_to_string(&log).unwrap_or_default();
        print!("{}", &text[shown.min(text.len())..]);
        shown = text.len();
        if home.join("ready").exists() {
            println!("  stop it  lota --home {} down", home.path().display());
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the fleet did not start ({status}); its log is {}", log.display());
        }
        if Instant::now() > limit {
            child.kill().await?;
            bail!("the fleet was not ready within {} s; its log is {}", DETACH_LIMIT.as_secs(), log.display());
        }
        tokio::time::sleep(ATTEND_EVERY).await;
    }
}
