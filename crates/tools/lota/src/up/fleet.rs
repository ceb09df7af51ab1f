//! A fleet while it starts, runs and ends. However far it came, [`Fleet::end`] ends all of it: what was started is found
//! by what was written down as it was started.
use std::{
    convert::Infallible,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use bot_provision::{Bundle, PackageCache};

use super::{
    broker, environment, own_broker, provision, ready,
    say::say,
    start::UpArgs,
    supervise::{Common, Supervisor},
};
use crate::{
    client::configuration,
    home::{BrokerKind, Home},
    place::Place,
};

/// How often it is looked whether the broker runs; a container's engine is asked each time.
const BROKER_EVERY: Duration = Duration::from_secs(3);
/// After a broker that could not be started.
const BROKER_PAUSE: Duration = Duration::from_secs(30);
const ATTEND_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Fleet<'a> {
    home: &'a Home,
    supervisor: Option<Supervisor>,
    is_ready: bool,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(home: &'a Home) -> Self {
        Self { home, supervisor: None, is_ready: false }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Starts everything, and looks after it until this is dropped. May be dropped at any moment: what it started is
    /// known to [`Fleet::end`].
    pub(super) async fn run(&mut self, args: &UpArgs) -> anyhow::Result<Infallible> {
        let begun = Instant::now();
        let home = self.home;
        // Of an earlier run; what is written from now on is of this one.
        for stale in [home.join("ready"), home.bot("monitor-bot").join("http-address")] {
            let _ = fs::remove_file(stale);
        }
        let (broker, common) = assemble(home, args).await?;
        let supervisor = self.supervisor.insert(Supervisor::new(home, common)?);
        supervisor.start_all()?;
        say("  bots: started, waiting until each is heard");
        let monitor = ready::wait(home, supervisor).await?;
        // What was started is what was meant.
        if let Err(e) = configuration::apply(home, "lota up".to_owned()).await {
            say(format_args!("  the monitor was not told which configuration is meant: {e:#}"));
        }
        say(format_args!("the fleet is ready after {:.1} s", begun.elapsed().as_secs_f64()));
        say(format_args!("  home     {}", home.path().display()));
        say(format_args!("  monitor  {monitor}/api/v1/health"));
        let note = home.join("ready");
        fs::write(&note, std::process::id().to_string()).with_context(|| format!("cannot write {}", note.display()))?;
        self.is_ready = true;
        look_after(home, supervisor, broker).await
    }

    /// Ends whatever runs: the bots in order, then the broker.
    pub(super) async fn end(&mut self) -> anyhow::Result<()> {
        let _ = fs::remove_file(self.home.join("ready"));
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.stop_all().await;
        }
        own_broker::stop(self.home).await.map(drop)
    }
}

/// Bots and broker that die are started again.
async fn look_after(home: &Home, supervisor: &mut Supervisor, broker: BrokerKind) -> anyhow::Result<Infallible> {
    let mut broker_at = Instant::now();
    loop {
        supervisor.attend();
        if broker_at <= Instant::now() {
            let pause = match own_broker::revive(home, broker).await {
                Ok(false) => BROKER_EVERY,
                Ok(true) => {
                    say("the broker had died and was started again");
                    BROKER_EVERY
                }
                Err(e) => {
                    say(format_args!("the broker: {e:#}; looking again in {} s", BROKER_PAUSE.as_secs()));
                    BROKER_PAUSE
                }
            };
            broker_at = Instant::now() + pause;
        }
        tokio::time::sleep(ATTEND_EVERY).await;
    }
}

/// Broker, configuration, topology, record: everything but the bots.
async fn assemble(home: &Home, args: &UpArgs) -> anyhow::Result<(BrokerKind, Common)> {
    let begun = Instant::now();
    let broker = broker::start(home, args.tls).await?;
    say(format_args!("  broker: ready after {:.1} s", begun.elapsed().as_secs_f64()));
    let changes = provision::settle(home, &broker, Place::here(), args.development).await?;
    say(format_args!("  topology: {changes} changes"));
    let common = Common {
        amqp_url: broker.amqp_url,
        management_url: broker.management_url,
        tls: broker.tls,
        bwrap: bubblewrap().await,
        monitor_listen: args.monitor.to_string(),
        objects: crate::objects::Settings::read(home)?.place,
    };
    Ok((broker.kind, common))
}

/// The system's bubblewrap, or one from the cache. Without any, bots say in their heartbeat what confines commands.
pub(crate) async fn bubblewrap() -> Option<PathBuf> {
    if let Some(found) = environment::find_program("bwrap") {
        return Some(found);
    }
    let cache = PackageCache::new(environment::cache_dir().ok()?);
    let progress = |line: &str| say(format_args!("  sandbox: {line}"));
    match cache.ensure(Bundle::Bubblewrap, &progress).await {
        Ok(root) => Some(root.join(Bundle::Bubblewrap.program())),
        Err(e) => {
            say(format_args!("  sandbox: without bubblewrap ({e}); commands get limits but are not walled off"));
            None
        }
    }
}
