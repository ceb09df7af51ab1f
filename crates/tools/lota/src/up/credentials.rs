//! `lota credentials`: new passwords for RabbitMQ's users while the fleet runs, and users shut out at once.
//!
//! A rotation writes the new password into the user's file, then tells the broker: whoever connects reads the file anew, and
//! connections that are open stay. If it ends in between, `lota topology apply` finishes it. A user who is revoked is removed
//! from the broker with all rights and connections, while queues and bindings stay and collect what comes.
use std::{collections::BTreeSet, fs, io, process::ExitCode, time::SystemTime};

use anyhow::{Context, anyhow, bail};
use bot_messages::topology::User;
use bot_provision::{ApplyOptions, Management, Secret};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::{environment, say::say, topology};
use crate::{
    exit::{Exit, OrExit},
    home::{Home, PASSWORD_LETTERS, write_private},
};

#[derive(Debug, clap::Args)]
pub(crate) struct CredentialsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Each user: how old the password is, how many connections are open
    List,
    /// New passwords, without a restart
    Rotate {
        /// Users, such as build-bot or BuildBot [all of them]
        users: Vec<String>,
        /// Also close the connections that were opened with the old ones; bots open new ones by themselves
        #[arg(long)]
        reconnect: bool,
    },
    /// Shut a user out: password, rights and connections end now, and stay so until `restore`
    Revoke {
        user: String,
        #[arg(long)]
        reason: String,
    },
    /// Let a revoked user in again, with a new password
    Restore { user: String },
}

/// Why a user is shut out; a file beside where the password was.
#[derive(Debug, Serialize, Deserialize)]
struct Revoked {
    at: DateTime<Utc>,
    reason: String,
}

pub(crate) async fn credentials(home: &Home, args: CredentialsArgs) -> anyhow::Result<ExitCode> {
    let management = home.management()?;
    match args.what {
        What::List => list(home, &management).await?,
        What::Rotate { users, reconnect } => rotate(home, &management, &users, reconnect).await?,
        What::Revoke { user, reason } => revoke(home, &management, &user, reason).await?,
        What::Restore { user } => restore(home, &management, &user).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Users who are shut out.
pub(crate) fn revoked(home: &Home) -> anyhow::Result<BTreeSet<String>> {
    let dir = home.join("secrets");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(e) => return Err(e).with_context(|| format!("{} cannot be read", dir.display())),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_suffix(SUFFIX).map(str::to_owned)).collect())
}

const SUFFIX: &str = ".revoked";

async fn list(home: &Home, management: &Management) -> anyhow::Result<()> {
    let connections = management.connections().await.or_exit(Exit::Unavailable)?;
    say(format_args!("{:<20} {:>12} {:>12}  state", "user", "age", "connections"));
    for user in topology::all_of(home)?.users {
        let open = connections.iter().filter(|one| one.user.as_deref() == Some(user.name.as_str())).count();
        let state = match why(home, &user.name)? {
            Some(Revoked { at, reason }) => format!("revoked {}: {reason}", at.format("%Y-%m-%d %H:%M")),
            None => "good".to_owned(),
        };
        say(format_args!("{:<20} {:>12} {open:>12}  {state}", user.name, age(home, &user.name)));
    }
    Ok(())
}

async fn rotate(home: &Home, management: &Management, asked: &[String], reconnect: bool) -> anyhow::Result<()> {
    let shut_out = revoked(home)?;
    let users = topology::all_of(home)?.users;
    let chosen = if asked.is_empty() {
        users.iter().filter(|user| !shut_out.contains(&user.name)).collect()
    } else {
        asked.iter().map(|name| find(&users, name)).collect::<anyhow::Result<Vec<&User>>>()?
    };
    if let Some(user) = chosen.iter().find(|user| shut_out.contains(&user.name)) {
        let name = &user.name;
        return Err(
            Exit::Usage.of(anyhow!("{name} is revoked: `lota credentials restore {name}` gives a new password"))
        );
    }
    for user in chosen {
        let secret = Secret::random(PASSWORD_LETTERS);
        write_private(&home.password_file(&user.name), secret.expose().as_bytes())?;
        let told = management.put_user(&user.name, &secret, &user.tags).await.or_exit(Exit::Unavailable);
        told.with_context(|| {
            format!("{} has a new password that the broker lacks: run `lota topology apply`", user.name)
        })?;
        let open = if reconnect {
            format!("{} connections closed", close(management, &user.name, "the password was rotated").await?)
        } else {
            "open connections stay".to_owned()
        };
        say(format_args!("{}: new password, {open}", user.name));
    }
    Ok(())
}

async fn revoke(home: &Home, management: &Management, name: &str, reason: String) -> anyhow::Result<()> {
    let users = topology::all_of(home)?.users;
    let user = &find(&users, name)?.name;
    let note = Revoked { at: environment::now(), reason };
    // First, so that whatever follows leaves the user out.
    write_private(&file(home, user), &serde_json::to_vec_pretty(&note)?)?;
    // Before the rights: nobody may come in again while they go.
    management.put_user(user, &Secret::random(PASSWORD_LETTERS), &[]).await.or_exit(Exit::Unavailable)?;
    let closed = close(management, user, "the user was revoked").await?;
    topology::apply_to(home, management, ApplyOptions::default()).await?;
    match fs::remove_file(home.password_file(user)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).context("the old password file cannot be removed");
        }
        _ => {}
    }
    say(format_args!(
        "{user} is shut out: {closed} connections closed, user and rights removed. What is meant for it waits in its queues. \
         `lota credentials restore {user}` lets it in again"
    ));
    Ok(())
}

async fn restore(home: &Home, management: &Management, name: &str) -> anyhow::Result<()> {
    let users = topology::all_of(home)?.users;
    let user = &find(&users, name)?.name;
    if why(home, user)?.is_none() {
        bail!("{user} is not revoked: `lota credentials list` shows who is");
    }
    fs::remove_file(file(home, user)).with_context(|| format!("{} cannot be removed", file(home, user).display()))?;
    topology::apply_to(home, management, ApplyOptions::default()).await?;
    say(format_args!("{user} has a new password and its rights; a bot that runs comes back by itself within seconds"));
    Ok(())
}

/// By the user's name, or the bot's.
fn find<'a>(users: &'a [User], name: &str) -> anyhow::Result<&'a User> {
    let slug = name.parse::<bot_messages::BotName>().map_or_else(|_| name.to_owned(), |name| name.slug());
    let found = users.iter().find(|user| user.name == name || user.name == slug);
    found.ok_or_else(|| {
        let known: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        Exit::Usage.of(anyhow!("`{name}` is no user of this fleet: expected one of {}", known.join(", ")))
    })
}

async fn close(management: &Management, user: &str, reason: &str) -> anyhow::Result<usize> {
    let all = management.connections().await.or_exit(Exit::Unavailable)?;
    let own: Vec<_> = all.into_iter().filter(|one| one.user.as_deref() == Some(user)).collect();
    for connection in &own {
        management.close_connection(&connection.name, reason).await.or_exit(Exit::Unavailable)?;
    }
    Ok(own.len())
}

fn why(home: &Home, user: &str) -> anyhow::Result<Option<Revoked>> {
    let file = file(home, user);
    match fs::read(&file) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is wrong", file.display()))?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", file.display())),
    }
}

fn file(home: &Home, user: &str) -> std::path::PathBuf {
    home.join("secrets").join(format!("{user}{SUFFIX}"))
}

fn age(home: &Home, user: &str) -> String {
    let changed = home.password_file(user).metadata().and_then(|meta| meta.modified());
    let age = changed.ok().and_then(|changed| SystemTime::from(environment::now()).duration_since(changed).ok());
    age.map_or("-".to_owned(), |age| match age.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    })
}
