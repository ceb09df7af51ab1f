//! A bot of the workspace as a process of its own on the stage.
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use bot_messages::{Contract, OutsidePublisher, topology::Topology};
use tests::{program, toy::ToyBot};

use crate::stage::{CONFIG, password};

/// A bot of the workspace that is put on the stage.
pub(crate) struct Cast {
    pub(crate) slug: &'static str,
    pub(crate) contract: Contract,
    /// Its configuration file.
    pub(crate) config: String,
    /// What the publisher `outside` says to it.
    pub(crate) heard: &'static str,
    /// Further variables in its environment.
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl Cast {
    /// The toy bot, with further variables in its environment.
    pub(crate) fn toy(variables: Vec<(&'static str, String)>) -> Self {
        let (contract, config) = (bot_core::contract_of::<ToyBot>(), CONFIG.to_owned());
        Self { slug: "toy-bot", contract, config, heard: "repository.pushed", variables }
    }

    /// The bot's, two publishers' and the operator's.
    pub(crate) fn topology(&self) -> Topology {
        let publisher = |name: &str, hears_all| OutsidePublisher {
            hears_all,
            ..OutsidePublisher::new(name.parse().unwrap(), &[self.heard])
        };
        let outside = [publisher("outside", true), publisher("another", false), OutsidePublisher::operator()];
        Topology::new(std::slice::from_ref(&self.contract), &outside).unwrap()
    }
}

pub(crate) fn start(dir: &Path, amqp_urls: &str, cast: &Cast) -> Child {
    fs::create_dir_all(dir).unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    // So that a test that is killed leaves no bot behind.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program(cast.slug))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LOTA_HOME", dir)
        .env("LOTA_CONFIG", file("config.yaml", &cast.config))
        .env("LOTA_AMQP_URL", amqp_urls)
        .env("LOTA_AMQP_PASSWORD_FILE", file("password", password(cast.slug).expose()))
        .envs(cast.variables.iter().map(|(name, value)| (name, value)))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
