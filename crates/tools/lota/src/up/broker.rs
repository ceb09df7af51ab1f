//! The broker of a fleet: one that was named, or one of its own.
use anyhow::{Context, bail};
use bot_messages::keys;
use bot_provision::{Management, Permission, Secret};

use super::{environment, own_broker};
use crate::home::{BrokerKind, Home};

/// A broker that is up, with the administrator's way in.
pub(crate) struct Broker {
    pub(crate) amqp_url: String,
    pub(crate) management_url: String,
    pub(crate) admin: String,
    pub(crate) management: Management,
    pub(crate) kind: BrokerKind,
}

/// The one named by `LOTA_BROKER_URL`; otherwise one of its own. Never one that merely happens to listen.
pub(crate) async fn start(home: &Home) -> anyhow::Result<Broker> {
    match environment::broker_url() {
        Some(url) => named(home, &url).await,
        None => own(home).await,
    }
}

async fn own(home: &Home) -> anyhow::Result<Broker> {
    let own = own_broker::start(home).await?;
    let (admin, password) = own.admin();
    crate::home::write_private(&home.password_file(admin), password.expose().as_bytes())?;
    Ok(Broker {
        amqp_url: own.amqp_url(),
        management_url: own.management_url(),
        admin: admin.to_owned(),
        management: own.management()?,
        kind: own.kind(),
    })
}

async fn named(home: &Home, url: &str) -> anyhow::Result<Broker> {
    let expected = "LOTA_BROKER_URL: expected amqp://user:password@host:port of an administrator";
    let parsed = reqwest::Url::parse(url).context(expected)?;
    let (Some(host), Some(password), false) = (parsed.host_str(), parsed.password(), parsed.username().is_empty())
    else {
        bail!(expected);
    };
    let admin = parsed.username().to_owned();
    crate::home::write_private(&home.password_file(&admin), password.as_bytes())?;
    let port = parsed.port().map(|p| format!(":{p}")).unwrap_or_default();
    let management_url = environment::broker_management_url().unwrap_or_else(|| format!("http://{host}:15672"));
    let management = Management::new(&management_url, &admin, Secret::new(password))?;
    management
        .put_vhost(keys::VHOST)
        .await
        .with_context(|| format!("the broker's management API at {management_url} does not answer {admin}; LOTA_BROKER_MANAGEMENT_URL names another"))?;
    let all = || ".*".to_owned();
    let permission =
        Permission { vhost: keys::VHOST.into(), user: admin.clone(), configure: all(), write: all(), read: all() };
    management.put_permission(&permission).await?;
    Ok(Broker {
        amqp_url: format!("{}://{host}{port}/{}", parsed.scheme(), keys::VHOST),
        management_url,
        admin,
        management,
        kind: BrokerKind::Named,
    })
}
