//! A certificate authority of a fleet's own, for TLS where nobody else issues certificates. Files only; who uses them is
//! told elsewhere.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike as _, Duration, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::settings::write_private;

const AUTHORITY_DAYS: i64 = 3650;
/// So that a machine whose clock is a little late takes a new one.
const EARLIER: Duration = Duration::days(1);

#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("cannot use {path} for certificates: {source}; make it writable for this user or choose another folder")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the authority in {path} cannot be used ({reason}); move that folder away to get a new one, after which every \
         certificate has to be issued again"
    )]
    Authority { path: PathBuf, reason: String },
    #[error("a certificate for `{name}` cannot be made: {reason}; expected a DNS name or an IP address for a server")]
    Name { name: String, reason: String },
}

/// PEM files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Readable for all.
    pub certificate: PathBuf,
    /// PKCS #8, mode 0600.
    pub key: PathBuf,
}

impl Identity {
    /// `<dir>/<name>.pem` and `<dir>/<name>.key`, whether they are there or not.
    pub fn at(dir: &Path, name: &str) -> Self {
        Self { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) }
    }

    pub fn exists(&self) -> bool {
        self.certificate.is_file() && self.key.is_file()
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Proves a server under these names and addresses.
    Server(Vec<String>),
    /// Proves a RabbitMQ user to the broker, which compares no names: the password does that.
    Client,
}

/// Issues certificates; lies in a folder as `ca.pem` and `ca.key`.
pub struct Authority {
    dir: PathBuf,
    now: DateTime<Utc>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The one in `dir`, made where there is none.
    pub fn open(dir: &Path, now: DateTime<Utc>) -> Result<Self, CertError> {
        let at = |source| CertError::Io { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at)?;
        let files = Identity::at(dir, "ca");
        if !files.exists() {
            let key = KeyPair::generate().map_err(|e| wrong(dir, &e))?;
            let own = params(now).self_signed(&key).map_err(|e| wrong(dir, &e))?;
            write_private(&files.key, key.serialize_pem().as_bytes()).map_err(at)?;
            write_public(&files.certificate, &own.pem()).map_err(at)?;
        }
        let key = std::fs::read_to_string(&files.key).map_err(at)?;
        let key = KeyPair::from_pem(&key).map_err(|e| wrong(dir, &e))?;
        // What an issued certificate says of its authority is its name and its key; both are the same each time.
        Ok(Self { dir: dir.to_owned(), now, issuer: Issuer::new(params(now), key) })
    }

    /// What others need to trust it.
    pub fn certificate(&self) -> PathBuf {
        Identity::at(&self.dir, "ca").certificate
    }

    /// A new certificate with a new key in place of the one called `name`, valid for `days`.
    pub fn issue(&self, dir: &Path, name: &str, purpose: &Purpose, days: u32) -> Result<Identity, CertError> {
        let wrong_name = |e: rcgen::Error| CertError::Name { name: name.to_owned(), reason: e.to_string() };
        let names = match purpose {
            Purpose::Server(names) => names.clone(),
            Purpose::Client => Vec::new(),
        };
        let mut params = CertificateParams::new(names).map_err(wrong_name)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match purpose {
            Purpose::Server(_) => ExtendedKeyUsagePurpose::ServerAuth,
            Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        set_period(&mut params, self.now, i64::from(days));
        let key = KeyPair::generate().map_err(wrong_name)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(wrong_name)?;
        let files = Identity::at(dir, name);
        let at = |source| CertError::Io { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at)?;
        write_private(&files.key, key.serialize_pem().as_bytes()).map_err(at)?;
        write_public(&files.certificate, &certificate.pem()).map_err(at)?;
        Ok(files)
    }
}

fn params(now: DateTime<Utc>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "LotaBots fleet authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_period(&mut params, now, AUTHORITY_DAYS);
    params
}

fn set_period(params: &mut CertificateParams, now: DateTime<Utc>, days: i64) {
    let day = |at: DateTime<Utc>| date_time_ymd(at.year(), at.month() as u8, at.day() as u8);
    params.not_before = day(now - EARLIER);
    params.not_after = day(now + Duration::days(days));
}

fn wrong(dir: &Path, error: &rcgen::Error) -> CertError {
    CertError::Authority { path: dir.to_owned(), reason: error.to_string() }
}

fn write_public(path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, text)?;
    std::fs::rename(next, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn an_authority_stays_and_what_it_issues_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), now()).unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let (own, purpose) = (read(&authority.certificate()), Purpose::Server(vec!["127.0.0.1".into()]));
        let broker = authority.issue(dir.path(), "broker", &purpose, 30).unwrap();
        let first = read(&broker.certificate);
        let authority = Authority::open(dir.path(), now()).unwrap();
        let again = authority.issue(dir.path(), "broker", &purpose, 30).unwrap();
        assert_eq!((read(&authority.certificate()), &again), (own, &broker));
        assert_ne!(read(&again.certificate), first);
        let mode = |path: &Path| std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode(&again.key) & 0o777, 0o600);
        assert_eq!(mode(&dir.path().join("ca.key")) & 0o777, 0o600);
    }

    #[test]
    fn an_authority_that_cannot_be_read_is_told_with_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ca.pem", "ca.key"] {
            std::fs::write(dir.path().join(name), "no PEM").unwrap();
        }
        let told = Authority::open(dir.path(), now()).map(drop).unwrap_err().to_string();
        assert!(told.contains(&dir.path().display().to_string()) && told.contains("move that folder away"), "{told}");
    }
}
