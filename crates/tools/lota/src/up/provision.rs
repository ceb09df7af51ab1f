//! `lota provision`: everything of a fleet but its processes, for bots that something else starts, such as Compose.
use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use bot_provision::{ApplyOptions, Container, ContainerOptions};

use super::{
    broker::{self, Broker},
    defaults, environment,
    lock::HomeLock,
    say::say,
    tls, topology,
};
use crate::{
    exit::{Exit, OrExit},
    home::{BrokerKind, FleetRecord, Home},
    place::Place,
};

#[derive(Debug, clap::Args)]
pub(crate) struct ProvisionArgs {
    /// Write what the container of a broker starts from into DIR/config and DIR/data, its admin's password into
    /// DIR/admin.password, and do nothing else
    #[arg(long, value_name = "DIR")]
    broker_files: Option<PathBuf>,
    /// MiB of memory for the messages of that broker; its container needs twice as much
    #[arg(long, value_name = "MIB", default_value_t = 512, requires = "broker_files")]
    broker_memory_mib: u32,
    /// Mark the fleet as one for trying things out
    #[arg(long)]
    development: bool,
}

pub(crate) async fn provision(home: &Home, args: &ProvisionArgs) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &args.broker_files {
        let mut options = ContainerOptions::new(environment::broker_image());
        options.memory_mib = args.broker_memory_mib;
        Container::prepare(dir, &options).or_exit(Exit::Config)?;
        say(format_args!("what a broker starts from is in {}", dir.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let missing = "LOTA_BROKER_URL is not set: expected amqp://admin:password@host:port of a broker that runs";
    let url = environment::broker_url().context(missing).or_exit(Exit::Config)?;
    home.create().or_exit(Exit::Config)?;
    let _held = HomeLock::take(home).await?;
    let broker = broker::named(home, &url).await?;
    let changes = settle(home, &broker, None, args.development).await?;
    say(format_args!(
        "the broker holds what the contracts say, after {changes} changes; the fleet is in {}",
        home.path().display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// `place` is where the bots run, if that is known. Record, configuration, certificates, users and topology; says how much the broker lacked.
pub(super) async fn settle(
    home: &Home,
    broker: &Broker,
    place: Option<Place>,
    development: bool,
) -> anyhow::Result<usize> {
    home.write_record(&FleetRecord {
        amqp_url: broker.amqp_url.clone(),
        management_url: broker.management_url.clone(),
        admin: broker.admin.clone(),
        broker: broker.kind,
        tls: broker.tls.clone(),
        place,
        // A broker that somebody named may be everybody's.
        development: broker.kind != BrokerKind::Named || development,
    })?;
    defaults::write_missing(home)?;
    tls::of_users(home, broker.tls.as_ref(), environment::now())?;
    Ok(topology::apply_to(home, &broker.management, ApplyOptions::default()).await?.len())
}
