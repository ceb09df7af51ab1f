//! `lota stores`: a login and a schema for each bot in the PostgreSQL that its replicas share. The administrator's URL is
//! used here and nowhere else; bots get passwords of their own.
use std::process::ExitCode;

use anyhow::anyhow;
use bot_messages::keys;
use bot_store::{PostgresOptions, StoreError, StoreLogin, apply_stores};
use clap::Subcommand;

use super::{environment, say::say, topology};
use crate::{exit::Exit, home::Home};

#[derive(Debug, clap::Args)]
pub(crate) struct StoresArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a login and a schema for each bot in the database that LOTA_STORE_ADMIN_URL names, and set each password to what
    /// its file says; nothing is ever dropped
    #[command(
        after_help = "LOTA_STORE_ADMIN_URL            postgres://USER@host:port/database, a database of the fleet's own\n\
                            LOTA_STORE_ADMIN_PASSWORD_FILE  the password of that user, who may make roles and schemas\n\n\
                            The password of a bot is in secrets/<bot>.store.password of the fleet's folder, made where it \
                            is missing.\nTo rotate one, write another into the file and run this again."
    )]
    Apply,
}

pub(crate) async fn stores(home: &Home, args: &StoresArgs) -> anyhow::Result<ExitCode> {
    let What::Apply = args.what;
    let (url, password_file) = environment::store_admin();
    let url = url.ok_or_else(|| {
        Exit::Config.of(anyhow!("LOTA_STORE_ADMIN_URL is not set: expected postgres://USER@host:port/database"))
    })?;
    let admin = PostgresOptions::new(&url, "admin", password_file, home.path())
        .map_err(|why| Exit::Config.of(anyhow!("LOTA_STORE_ADMIN_URL: {why}")))?;
    let mut logins = Vec::new();
    for contract in topology::contracts()? {
        let slug = contract.name.slug();
        let password = home.password(&format!("{slug}.store"))?;
        logins.push(StoreLogin { name: keys::store(&slug), password });
    }
    let made = apply_stores(admin, &logins).await.map_err(|e| match e {
        StoreError::Unreachable { .. } => Exit::Unavailable.of(e),
        e => Exit::Config.of(e),
    })?;
    for login in &logins {
        let what = if made.contains(&login.name) { "made" } else { "there before, its password set again" };
        say(format_args!("{}: {what}", login.name));
    }
    Ok(ExitCode::SUCCESS)
}
