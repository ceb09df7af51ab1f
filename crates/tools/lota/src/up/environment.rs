//! What `lota` itself reads from its environment and of its own place, in one file.
#![allow(clippy::disallowed_methods, reason = "the environment's one home in this tool")]

use std::{collections::BTreeMap, env, path::PathBuf};

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};

use crate::exit::{Exit, OrExit};

/// `amqp://user:password@host:port`: the administrator of a broker that is not ours to start.
pub(crate) fn broker_url() -> Option<String> {
    env::var("LOTA_BROKER_URL").ok().filter(|u| !u.is_empty())
}

/// The administrator's password, where the URL leaves it out.
pub(crate) fn broker_password_file() -> Option<PathBuf> {
    env::var_os("LOTA_BROKER_PASSWORD_FILE").filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// Where the monitor answers, where that is not on this machine.
pub(crate) fn monitor_url() -> Option<String> {
    env::var("LOTA_MONITOR_URL").ok().filter(|url| !url.is_empty())
}

/// Which broker of its own a fleet gets, where it is not to choose by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerSource {
    Installed,
    Packages,
    Container,
}

/// `LOTA_BROKER`.
pub(crate) fn broker_source() -> anyhow::Result<Option<BrokerSource>> {
    match env::var("LOTA_BROKER").unwrap_or_default().as_str() {
        "" => Ok(None),
        "installed" => Ok(Some(BrokerSource::Installed)),
        "packages" => Ok(Some(BrokerSource::Packages)),
        "container" => Ok(Some(BrokerSource::Container)),
        other => Err(Exit::Config
            .of(anyhow!("LOTA_BROKER is `{other}`: expected installed, packages or container, or leave it out"))),
    }
}

/// What a broker's container is made of.
pub(crate) fn broker_image() -> String {
    let named = env::var("LOTA_BROKER_IMAGE").ok().filter(|image| !image.is_empty());
    named.unwrap_or_else(|| "rabbitmq:4-management".to_owned())
}

/// The management API of that broker.
pub(crate) fn broker_management_url() -> Option<String> {
    env::var("LOTA_BROKER_MANAGEMENT_URL").ok().filter(|u| !u.is_empty())
}

/// Whom to trust for it, besides the system's authorities.
pub(crate) fn broker_ca_file() -> Option<PathBuf> {
    env::var_os("LOTA_BROKER_CA_FILE").filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// The PostgreSQL that bots' stores are made in, as its administrator; the file of that one's password.
pub(crate) fn store_admin() -> (Option<String>, Option<PathBuf>) {
    let url = env::var("LOTA_STORE_ADMIN_URL").ok().filter(|url| !url.is_empty());
    let file = env::var_os("LOTA_STORE_ADMIN_PASSWORD_FILE").filter(|file| !file.is_empty());
    (url, file.map(PathBuf::from))
}

/// The time.
#[allow(clippy::disallowed_methods, reason = "the clock's one home in this part of the tool")]
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Where the object store is, if not where `objects.yaml` says.
pub(crate) fn objects() -> Option<String> {
    env::var("LOTA_OBJECTS").ok().filter(|place| !place.is_empty())
}

/// Where unpacked packages lie, shared by all fleets of this user.
pub(crate) fn cache_dir() -> anyhow::Result<PathBuf> {
    let dir = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    dir("LOTA_CACHE")
        .or_else(|| dir("XDG_CACHE_HOME").map(|d| d.join("lotabots")))
        .or_else(|| dir("HOME").map(|d| d.join(".cache/lotabots")))
        .context("neither LOTA_CACHE nor HOME is set: set LOTA_CACHE to a folder that may be written")
        .or_exit(Exit::Config)
}

/// Folders that programs are looked for in.
pub(crate) fn search_path() -> Vec<PathBuf> {
    env::var_os("PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default()
}

/// All variables, for finding toolchains and proxies.
pub(crate) fn variables() -> BTreeMap<String, String> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// A program on the path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    search_path().into_iter().map(|d| d.join(name)).find(|p| p.is_file())
}

/// The command that installs a package with the package manager that is here: its name for apt, dnf, apk and pacman.
pub(crate) fn install(package: [&str; 4]) -> Option<String> {
    let managers = [
        ("apt-get", "apt-get install -y"),
        ("dnf", "dnf install -y"),
        ("apk", "apk add"),
        ("pacman", "pacman -S --needed"),
    ];
    let mut pairs = managers.into_iter().zip(package);
    let ((_, command), package) = pairs.find(|((program, _), _)| find_program(program).is_some())?;
    Some(format!("{command} {package}"))
}

/// A program that lies beside this one.
pub(crate) fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let own = own_program()?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        return Err(Exit::Unavailable.of(anyhow!(
            "{} is missing: the bots' programs lie beside `lota`; build them with `cargo build --workspace --bins`",
            path.display()
        )));
    }
    Ok(path)
}

/// This program.
pub(crate) fn own_program() -> anyhow::Result<PathBuf> {
    env::current_exe().context("the path of this program is not known")
}
