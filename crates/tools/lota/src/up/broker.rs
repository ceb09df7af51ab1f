//! The broker of a fleet: one that was named, or a private node.
use anyhow::{Context, bail};
use bot_messages::keys;
use bot_provision::{Installation, Management, Node, NodeOptions, Permission, Secret};

use super::environment;
use crate::home::Home;

/// A broker that is up, with the administrator's way in.
pub(crate) struct Broker {
    pub(crate) amqp_url: String,
    pub(crate) management_url: String,
    pub(crate) admin: String,
    pub(crate) management: Management,
    /// The private node, where it is ours.
    pub(crate) node: Option<Node>,
}

/// The one named by `LOTA_BROKER_URL`; otherwise a private node. Never one that merely happens to listen.
pub(crate) async fn start(home: &Home) -> anyhow::Result<Broker> {
    match environment::broker_url() {
        Some(url) => named(home, &url).await,
        None => private(home).await,
    }
}

async fn private(home: &Home) -> anyhow::Result<Broker> {
    let dir = home.join("broker");
    let progress = |line: &str| println!("  broker: {line}");
    let node = if let Some(node) = Node::attach(&dir)?.filter(Node::is_running) {
        node
    } else {
        let installation = Installation::find(&environment::cache_dir()?, &progress).await?;
        Node::start(NodeOptions::new(&dir, installation), &progress).await?
    };
    let admin = node.admin().to_owned();
    crate::home::write_private(&home.password_file(&admin), node.admin_password().expose().as_bytes())?;
    Ok(Broker {
        amqp_url: format!("amqp://127.0.0.1:{}/{}", node.amqp_port(), node.vhost()),
        management_url: format!("http://127.0.0.1:{}", node.management_port()),
        admin,
        management: node.management()?,
        node: Some(node),
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
        node: None,
    })
}
