//! Where a fleet's state lies, and how its broker is reached from there. One home is one fleet.
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use bot_core::{BusOptions, TlsFiles};
use bot_provision::{Identity, Management, Secret};
use serde::{Deserialize, Serialize};

use crate::{place::Place, up::environment};

/// About 238 bits.
pub(crate) const PASSWORD_LETTERS: usize = 40;

/// A fleet's folder: `fleet.json`, `secrets/`, `config/`, `broker/`, `bots/`, `objects/`, `logs/`.
#[derive(Clone, Debug)]
pub(crate) struct Home(PathBuf);

/// What runs the broker of a fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BrokerKind {
    /// Named by `LOTA_BROKER_URL`; not ours to start or stop.
    Named,
    /// A private node, in `broker/`.
    #[default]
    Node,
    /// A container, in `broker/container/`.
    Container,
}

/// How the fleet is reached; written by `lota up`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FleetRecord {
    /// Without user and password.
    pub(crate) amqp_url: String,
    /// Of the management API.
    pub(crate) management_url: String,
    /// Its administrator; only the provisioner uses it.
    pub(crate) admin: String,
    /// Whose the broker is, and what it is.
    #[serde(default)]
    pub(crate) broker: BrokerKind,
    /// Where the broker speaks TLS.
    #[serde(default)]
    pub(crate) tls: Option<Tls>,
    /// Where the bots run.
    #[serde(default)]
    pub(crate) place: Option<Place>,
    /// For trying things out: `lota connection` also prints what bots and the operator connect with.
    #[serde(default)]
    pub(crate) development: bool,
}

/// How a fleet speaks TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tls {
    /// Whom to trust besides the system's authorities (PEM).
    pub(crate) authority: PathBuf,
    /// Users show certificates of their own.
    pub(crate) clients: bool,
}

impl Home {
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        Ok(Self(std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))?))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
    pub(crate) fn join(&self, part: &str) -> PathBuf {
        self.0.join(part)
    }
    /// The data folder of one bot.
    pub(crate) fn bot(&self, slug: &str) -> PathBuf {
        self.0.join("bots").join(slug)
    }
    pub(crate) fn log(&self, slug: &str) -> PathBuf {
        self.0.join("logs").join(format!("{slug}.log"))
    }
    /// A folder `secrets/<user>`, where there is one, holds it instead: it can be a volume that this user alone is given.
    pub(crate) fn password_file(&self, user: &str) -> PathBuf {
        let (secrets, own) = (self.0.join("secrets"), self.0.join("secrets").join(user));
        if own.is_dir() { own.join("password") } else { secrets.join(format!("{user}.password")) }
    }

    /// Certificates and keys of a fleet that issues its own.
    pub(crate) fn tls_dir(&self) -> PathBuf {
        self.0.join("secrets/tls")
    }
    /// Those of the users.
    pub(crate) fn client_certs(&self) -> PathBuf {
        self.tls_dir().join("clients")
    }
    /// What a user needs for the broker.
    pub(crate) fn tls_files(&self, tls: Option<&Tls>, user: &str) -> TlsFiles {
        let own = tls.filter(|tls| tls.clients).map(|_| Identity::at(&self.client_certs(), user));
        TlsFiles {
            authorities: tls.map(|tls| tls.authority.clone()),
            identity: own.map(|own| (own.certificate, own.key)),
        }
    }

    /// Makes the folders; only their owner may look inside. One that was there before keeps its rights; but nobody else lists
    /// the passwords.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        for dir in ["", "secrets", "config", "broker", "bots", "objects", "logs"] {
            let dir = self.0.join(dir);
            let lists_passwords = |mode: u32| dir.ends_with("secrets") && mode & 0o044 != 0;
            if fs::metadata(&dir).map_or(true, |found| lists_passwords(found.mode())) {
                fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
            }
        }
        // Passwords lie here, perhaps inside of somebody's repository.
        fs::write(self.0.join(".gitignore"), "*\n")?;
        Ok(())
    }

    /// The password of a user; made on first use.
    pub(crate) fn password(&self, user: &str) -> anyhow::Result<Secret> {
        let file = self.password_file(user);
        match fs::read_to_string(&file) {
            Ok(text) => Ok(Secret::new(text.trim_end())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let secret = Secret::random(PASSWORD_LETTERS);
                write_private(&file, secret.expose().as_bytes())?;
                Ok(secret)
            }
            Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    pub(crate) fn record(&self) -> anyhow::Result<Option<FleetRecord>> {
        match fs::read(self.0.join("fleet.json")) {
            Ok(bytes) => Ok(Some(
                serde_json::from_slice(&bytes).context("fleet.json cannot be read: delete it and run `lota up`")?,
            )),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context("fleet.json cannot be read"),
        }
    }

    pub(crate) fn write_record(&self, record: &FleetRecord) -> anyhow::Result<()> {
        write_private(&self.0.join("fleet.json"), &serde_json::to_vec_pretty(record)?)
    }

    /// The record of a fleet that is there, or an error that says how to get one.
    pub(crate) fn fleet(&self) -> anyhow::Result<FleetRecord> {
        match self.record()? {
            Some(record) => Ok(record),
            None => {
                bail!("there is no fleet in {}: run `lota up`, or name another folder with --home", self.0.display())
            }
        }
    }

    /// How a user of this fleet reaches the broker.
    pub(crate) fn bus(&self, user: &str) -> anyhow::Result<BusOptions> {
        let fleet = self.fleet()?;
        Ok(bot_core::bus_options(
            vec![fleet.amqp_url],
            user.to_owned(),
            self.password_file(user),
            self.tls_files(fleet.tls.as_ref(), user),
            format!("lota {user}"),
        ))
    }

    /// The management API, as the administrator.
    pub(crate) fn management(&self) -> anyhow::Result<Management> {
        let fleet = self.fleet()?;
        let password = self.password(&fleet.admin)?;
        let authority = fleet.tls.as_ref().map(|tls| tls.authority.as_path());
        Ok(Management::new(&fleet.management_url, &fleet.admin, password, authority)?)
    }

    /// For the monitor: trusts the fleet's authority, and asks no proxy, since it is on this machine or on the fleet's own
    /// network.
    pub(crate) fn http(&self) -> anyhow::Result<reqwest::ClientBuilder> {
        let authority = self.record()?.and_then(|fleet| fleet.tls).map(|tls| tls.authority);
        let authority = authority.map(|file| {
            let pem = fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            reqwest::Certificate::from_pem(&pem).with_context(|| format!("{} is no certificate", file.display()))
        });
        Ok(reqwest::Client::builder().no_proxy().tls_certs_merge(authority.transpose()?))
    }

    /// Where the monitor answers, once it does.
    pub(crate) fn monitor_url(&self) -> anyhow::Result<String> {
        if let Some(url) = environment::monitor_url() {
            return Ok(url);
        }
        let file = self.bot("monitor-bot").join("http-address");
        match fs::read_to_string(&file) {
            Ok(address) => Ok(address.trim().to_owned()),
            Err(_) => bail!(
                "the monitor is not up yet ({} is missing): see `lota status` and {}",
                file.display(),
                self.log("monitor-bot").display()
            ),
        }
    }
}

/// Writes a file that only its owner may read, whole or not at all. Where its folder is open to a group, that group may read
/// it too: so root hands a user's password to that user.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let cannot = || format!("cannot write {}", path.display());
    let folder = fs::metadata(path.parent().unwrap_or(Path::new("."))).with_context(cannot)?;
    let _ = fs::remove_file(&temporary);
    // A new one, so that no link that somebody else left there is followed.
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).with_context(cannot)?;
    if folder.mode() & 0o040 != 0 {
        fchown(&file, None, Some(folder.gid())).with_context(cannot)?;
        file.set_permissions(fs::Permissions::from_mode(0o640)).with_context(cannot)?;
    }
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_password_lies_in_the_users_own_folder_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path()).unwrap();
        home.create().unwrap();
        fs::create_dir(home.join("secrets/build-bot")).unwrap();
        let (own, shared) = (home.password("build-bot").unwrap(), home.password("test-bot").unwrap());
        assert_eq!(fs::read_to_string(home.join("secrets/build-bot/password")).unwrap(), own.expose());
        assert_eq!(fs::read_to_string(home.join("secrets/test-bot.password")).unwrap(), shared.expose());
    }

    #[test]
    fn who_may_look_into_a_folder_may_read_what_is_private_there() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str, folder: u32| {
            let folder_path = dir.path().join(name);
            fs::create_dir(&folder_path).unwrap();
            fs::set_permissions(&folder_path, fs::Permissions::from_mode(folder)).unwrap();
            write_private(&folder_path.join("password"), b"x").unwrap();
            fs::metadata(folder_path.join("password")).unwrap().mode() & 0o777
        };
        assert_eq!((mode("own", 0o700), mode("passable", 0o711), mode("group", 0o750)), (0o600, 0o600, 0o640));
    }
}
