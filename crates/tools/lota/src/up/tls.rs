//! TLS of a fleet: an authority of its own in `secrets/tls`, what it issues, and `lota certs`, which renews it.
use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use bot_provision::{Authority, Identity, NodeTls, Purpose};
use chrono::{DateTime, Utc};

use super::{environment, say::say, topology};
use crate::{
    exit::{Exit, OrExit},
    home::{Home, Tls},
};

/// Until a certificate has to be renewed.
const DAYS: u32 = 365;
/// Under which the broker and the monitor of this machine are reached.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Who shows certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TlsMode {
    /// No TLS: for a broker that this machine alone reaches
    Off,
    /// Broker and monitor prove who they are
    Server,
    /// Every RabbitMQ user shows a certificate as well, besides the password
    Clients,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CertsArgs {
    /// A further name or address under which the broker and the monitor are reached
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// For how many days
    #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// The TLS that a fleet's own node is to speak, its certificates made where they are missing. As it was before, where it is
/// not asked for in words.
pub(crate) fn of_node(home: &Home, asked: Option<TlsMode>, now: DateTime<Utc>) -> anyhow::Result<Option<NodeTls>> {
    let before = home.record()?.and_then(|record| record.tls);
    let mode = asked.unwrap_or(match before {
        None => TlsMode::Off,
        Some(Tls { clients: false, .. }) => TlsMode::Server,
        Some(Tls { clients: true, .. }) => TlsMode::Clients,
    });
    if mode == TlsMode::Off {
        return Ok(None);
    }
    let dir = home.tls_dir();
    let authority = Authority::open(&dir, now)?;
    for name in ["broker", "monitor"] {
        if !Identity::at(&dir, name).exists() {
            authority.issue(&dir, name, &server(&[]), DAYS)?;
        }
    }
    let Identity { certificate, key } = Identity::at(&dir, "broker");
    Ok(Some(NodeTls { authority: authority.certificate(), certificate, key, asks_clients: mode == TlsMode::Clients }))
}

/// Certificates of the users that have none yet, where the broker asks for them.
pub(crate) fn of_users(home: &Home, tls: Option<&Tls>, now: DateTime<Utc>) -> anyhow::Result<()> {
    if tls.is_none_or(|tls| !tls.clients) {
        return Ok(());
    }
    let authority = Authority::open(&home.tls_dir(), now)?;
    for user in topology::of(home)?.users {
        let dir = home.client_certs();
        if !Identity::at(&dir, &user.name).exists() {
            authority.issue(&dir, &user.name, &Purpose::Client, DAYS)?;
        }
    }
    Ok(())
}

/// The authority of a broker that is not ours, as `LOTA_BROKER_CA_FILE` says.
pub(crate) fn of_named() -> anyhow::Result<Option<Tls>> {
    let Some(file) = environment::broker_ca_file() else { return Ok(None) };
    let authority =
        std::path::absolute(&file).with_context(|| format!("LOTA_BROKER_CA_FILE is `{}`", file.display()))?;
    if !authority.is_file() {
        bail!("LOTA_BROKER_CA_FILE is `{}`: expected a PEM file", file.display());
    }
    Ok(Some(Tls { authority, clients: false }))
}

/// `lota certs`: everything but the authority, anew.
pub(crate) fn certs(home: &Home, args: &CertsArgs) -> anyhow::Result<ExitCode> {
    home.create().or_exit(Exit::Config)?;
    let dir = home.tls_dir();
    let authority = Authority::open(&dir, environment::now()).or_exit(Exit::Config)?;
    let issue = |dir: PathBuf, name: &str, purpose: Purpose| -> anyhow::Result<()> {
        let made = authority.issue(&dir, name, &purpose, args.days).or_exit(Exit::Usage)?;
        say(format_args!("{}  (key {})", made.certificate.display(), made.key.display()));
        Ok(())
    };
    say(format_args!("{}  (the authority; kept)", authority.certificate().display()));
    for name in ["broker", "monitor"] {
        issue(dir.clone(), name, server(&args.hosts))?;
    }
    for user in topology::of(home)?.users {
        issue(home.client_certs(), &user.name, Purpose::Client)?;
    }
    say(format_args!(
        "valid for {} days. Bots show the new ones from their next session on; RabbitMQ and the monitor take theirs within \
         minutes",
        args.days
    ));
    Ok(ExitCode::SUCCESS)
}

fn server(more: &[String]) -> Purpose {
    Purpose::Server(OWN_NAMES.into_iter().map(str::to_owned).chain(more.iter().cloned()).collect())
}
