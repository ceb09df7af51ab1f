//! The broker of a fleet: one that was named, or one of its own.
use std::{borrow::Cow, fs, path::Path};

use anyhow::{Context, anyhow};
use bot_messages::keys;
use bot_provision::{Management, ManagementError, Permission, Secret};
use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::{environment, own_broker, tls::TlsMode};
use crate::{
    exit::{Exit, OrExit},
    home::{BrokerKind, Home, Tls},
};

/// A broker that is up, with the administrator's way in.
pub(crate) struct Broker {
    pub(crate) amqp_url: String,
    pub(crate) management_url: String,
    pub(crate) admin: String,
    pub(crate) management: Management,
    pub(crate) kind: BrokerKind,
    pub(crate) tls: Option<Tls>,
}

/// The one named by `LOTA_BROKER_URL`; otherwise one of its own. Never one that merely happens to listen.
pub(crate) async fn start(home: &Home, tls: Option<TlsMode>) -> anyhow::Result<Broker> {
    match environment::broker_url() {
        Some(_) if tls.is_some_and(|mode| mode != TlsMode::Off) => Err(Exit::Config.of(anyhow!(
            "--tls is for a broker of the fleet's own, and LOTA_BROKER_URL names another: say amqps:// there, and whom to \
             trust in LOTA_BROKER_CA_FILE"
        ))),
        Some(url) => named(home, &url).await,
        None => own(home, tls).await,
    }
}

async fn own(home: &Home, tls: Option<TlsMode>) -> anyhow::Result<Broker> {
    let own = own_broker::start(home, tls).await?;
    let (admin, password) = own.admin();
    crate::home::write_private(&home.password_file(admin), password.expose().as_bytes())?;
    Ok(Broker {
        amqp_url: own.amqp_url(),
        management_url: own.management_url(),
        admin: admin.to_owned(),
        management: own.management()?,
        kind: own.kind(),
        tls: own.tls(),
    })
}

pub(crate) async fn named(home: &Home, url: &str) -> anyhow::Result<Broker> {
    let file = environment::broker_password_file();
    let Named { admin, password, amqp_url, host } = Named::read(url, file.as_deref()).or_exit(Exit::Config)?;
    crate::home::write_private(&home.password_file(&admin), password.expose().as_bytes())?;
    let tls = super::tls::of_named().or_exit(Exit::Config)?;
    let default =
        if amqp_url.starts_with("amqps:") { format!("https://{host}:15671") } else { format!("http://{host}:15672") };
    let management_url = environment::broker_management_url().unwrap_or(default);
    let authority = tls.as_ref().map(|tls| tls.authority.as_path());
    let management = Management::new(&management_url, &admin, password, authority).or_exit(Exit::Config)?;
    management.put_vhost(keys::VHOST).await.map_err(|e| {
        let exit = if matches!(e, ManagementError::NotAllowed { .. }) { Exit::Config } else { Exit::Unavailable };
        exit.of(anyhow::Error::new(e).context(format!(
            "the broker's management API at {management_url} does not answer {admin}; LOTA_BROKER_MANAGEMENT_URL names \
             another"
        )))
    })?;
    let all = || ".*".to_owned();
    let permission =
        Permission { vhost: keys::VHOST.into(), user: admin.clone(), configure: all(), write: all(), read: all() };
    management.put_permission(&permission).await.or_exit(Exit::Unavailable)?;
    Ok(Broker { amqp_url, management_url, admin, management, kind: BrokerKind::Named, tls })
}

/// What `LOTA_BROKER_URL` says.
#[derive(Debug)]
struct Named {
    admin: String,
    password: Secret,
    /// Without user and password.
    amqp_url: String,
    host: String,
}

impl Named {
    /// No error repeats any of the text: a password may stand where none is expected.
    fn read(text: &str, password_file: Option<&Path>) -> anyhow::Result<Self> {
        let wrong = |what: &str| {
            anyhow!(
                "LOTA_BROKER_URL: {what}; expected amqp://user:password@host:port of an administrator, in user and \
                 password each of : / ? # [ ] @ % as its %-code (@ is %40); or no password there, and \
                 LOTA_BROKER_PASSWORD_FILE"
            )
        };
        let url = Url::parse(text).map_err(|e| wrong(&format!("it is no URL ({e})")))?;
        if !["amqp", "amqps"].contains(&url.scheme()) {
            return Err(wrong("it does not begin with amqp:// or amqps://"));
        }
        let host =
            url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("the host is missing"))?.to_owned();
        if !["", "/"].contains(&url.path()) || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(&format!(
                "something follows host and port, but the virtual host is always {}",
                keys::VHOST
            )));
        }
        let admin = decoded(url.username()).ok_or_else(|| wrong("the user is no text"))?;
        // It is part of a file's name.
        if admin.is_empty() || admin.starts_with('.') || admin.contains(['/', '\0']) {
            return Err(wrong("the user is missing, or begins with a dot or holds a slash"));
        }
        let password = match (url.password().filter(|password| !password.is_empty()), password_file) {
            (Some(password), None) => decoded(password).ok_or_else(|| wrong("the password is no text"))?,
            (None, Some(file)) => {
                let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
                text.trim_end().to_owned()
            }
            (None, None) => return Err(wrong("the password is missing")),
            (Some(_), Some(_)) => return Err(wrong("a password stands there and LOTA_BROKER_PASSWORD_FILE is set")),
        };
        let password = Secret::new(password);
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let amqp_url = format!("{}://{host}{port}/{}", url.scheme(), keys::VHOST);
        Ok(Self { admin, password, amqp_url, host })
    }
}

/// None where the bytes are no UTF-8.
fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_decoded() {
        let read = Named::read("amqps://ad%6Din:p%40ss%2Fw%25rd%3A@broker.example.org:5671/", None).unwrap();
        assert_eq!((read.admin.as_str(), read.password.expose()), ("admin", "p@ss/w%rd:"));
        assert_eq!(read.amqp_url, "amqps://broker.example.org:5671/lota");
        let read = Named::read("amqp://a:p@[::1]", None).unwrap();
        assert_eq!((read.amqp_url.as_str(), read.host.as_str()), ("amqp://[::1]/lota", "[::1]"));
    }

    #[test]
    fn the_password_may_lie_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "hunter2\n").unwrap();
        let read = Named::read("amqp://admin@rabbitmq:5672", Some(&file)).unwrap();
        assert_eq!((read.password.expose(), read.amqp_url.as_str()), ("hunter2", "amqp://rabbitmq:5672/lota"));
        let both = Named::read("amqp://admin:hunter2@rabbitmq", Some(&file)).unwrap_err();
        assert!(both.to_string().contains("PASSWORD_FILE is set") && !both.to_string().contains("hunter2"), "{both}");
    }

    #[test]
    fn what_is_wrong_is_said_without_a_word_of_it() {
        for (text, what) in [
            ("amqp://admin:hunter2/x@host:5672", "no URL"),
            ("hunter2", "no URL"),
            ("http://admin:hunter2@host:5672", "amqp://"),
            ("amqp://admin@host/hunter2", "virtual host"),
            ("amqp://admin:@host", "the password is missing"),
            ("amqp://:hunter2@host", "the user is missing"),
            ("amqp://..%2Fhunter2:hunter2@host", "the user is missing"),
            ("amqp://admin:hunter2%ff@host", "no text"),
            ("amqp:hunter2", "the host is missing"),
        ] {
            let error = format!("{:#}", Named::read(text, None).map(drop).unwrap_err());
            assert!(error.contains(what), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
