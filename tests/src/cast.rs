//! A bot of the workspace as a process of its own.
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use bot_messages::{Contract, OutsidePublisher, topology::Topology};
use bot_provision::Secret;

use crate::program;

/// A bot of the workspace that is put on a stage.
#[derive(Clone)]
pub struct Cast {
    /// Its user, and the name of its program.
    pub slug: &'static str,
    /// What it hears and says.
    pub contract: Contract,
    /// Its configuration file.
    pub config: String,
    /// What the publisher `outside` says to it.
    pub heard: &'static str,
    /// Further variables in its environment.
    pub variables: Vec<(&'static str, String)>,
}

impl Cast {
    /// The bot's, two publishers' and the operator's.
    pub fn topology(&self) -> Topology {
        let publisher = |name: &str, hears_all| OutsidePublisher {
            hears_all,
            ..OutsidePublisher::new(name.parse().unwrap(), &[self.heard])
        };
        let outside = [publisher("outside", true), publisher("another", false), OutsidePublisher::operator()];
        Topology::new(std::slice::from_ref(&self.contract), &outside).unwrap()
    }
}

/// The password of a user before anyone changes it.
pub fn password(user: &str) -> Secret {
    Secret::new(format!("secret of {user}"))
}

/// Starts it with `dir` as its home, where its log is written to `log`. `addresses` are those of brokers, joined by commas.
pub fn start(dir: &Path, addresses: &str, password: &Secret, cast: &Cast) -> Child {
    fs::create_dir_all(dir).unwrap();
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    // So that a test that is killed leaves no bot behind.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program(cast.slug))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LOTA_HOME", dir)
        .env("LOTA_CONFIG", private(dir, "config.yaml", &cast.config))
        .env("LOTA_AMQP_URL", addresses)
        .env("LOTA_AMQP_PASSWORD_FILE", private(dir, "password", password.expose()))
        .envs(cast.variables.iter().map(|(name, value)| (name, value)))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A file that only this user reads; as a whole or not at all.
pub fn private(dir: &Path, name: &str, text: &str) -> PathBuf {
    let (path, staged) = (dir.join(name), dir.join(format!("{name}.new")));
    fs::write(&staged, text).unwrap();
    fs::set_permissions(&staged, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&staged, &path).unwrap();
    path
}
