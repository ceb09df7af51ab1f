//! The broker that a fleet starts for itself: where it comes from, and that it is a node or a container.
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use bot_provision::{
    Bundle, Container, ContainerError, ContainerOptions, DebsError, Installation, Management, Node, NodeError,
    NodeOptions, NodeTls, PackageCache, Secret,
};
use bot_sandbox::{Engine, EngineChoice, EngineError};

use super::{
    environment::{self, BrokerSource},
    tls::{self, TlsMode},
};
use crate::{
    exit::{Exit, OrExit},
    home::{BrokerKind, Home, Tls},
};

/// Running, and ours to stop.
pub(crate) enum OwnBroker {
    Node(Box<Node>),
    Container(Container),
}

/// Starts the broker of this fleet, or finds it running.
pub(crate) async fn start(home: &Home, tls: Option<TlsMode>) -> anyhow::Result<OwnBroker> {
    let tls = tls::of_node(home, tls, environment::now()).or_exit(Exit::Config)?;
    let wanted = environment::broker_source()?;
    let earlier = home.record().or_exit(Exit::Config)?.map(|record| record.broker);
    // What is queued lies with the broker that it was started with.
    let wanted = wanted.or((earlier == Some(BrokerKind::Container)).then_some(BrokerSource::Container));
    let started = match wanted {
        Some(source) => from(home, source, tls).await.with_context(|| format!("the broker was to be {}", told(source))),
        None => first_to_be_had(home, tls).await,
    };
    let started = started.map_err(|e| exit_of(&e).of(e))?;
    if earlier.is_some_and(|earlier| earlier != started.kind()) {
        say("another kind than before: what was queued stays with the earlier one, see LOTA_BROKER");
    }
    Ok(started)
}

/// A folder that cannot be used is a matter of configuration; anything else is not to be had just now.
fn exit_of(error: &anyhow::Error) -> Exit {
    let is_folder = error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(NodeError::Io { .. }))
            || matches!(cause.downcast_ref(), Some(ContainerError::Io { .. }))
            || matches!(cause.downcast_ref(), Some(DebsError::Io { .. } | DebsError::Folder { .. }))
    });
    if is_folder { Exit::Config } else { Exit::Unavailable }
}

/// Starts it again if it died. `false`: it runs, or was stopped on purpose.
pub(crate) async fn revive(home: &Home, kind: BrokerKind) -> anyhow::Result<bool> {
    match kind {
        BrokerKind::Named => Ok(false),
        BrokerKind::Node => Ok(Node::revive(&home.join("broker"), &say).await?),
        BrokerKind::Container => Ok(Container::revive(&container_dir(home), &say).await?),
    }
}

/// Stops what runs of it, ready or not, of whichever kind. `false`: nothing did.
pub(crate) async fn stop(home: &Home) -> anyhow::Result<bool> {
    let node = Node::end(&home.join("broker")).await;
    let container = Container::end(&container_dir(home), &say).await;
    Ok(node? | container?)
}

/// Whether one was ever started there.
pub(crate) fn is_known(home: &Home) -> bool {
    [home.join("broker/node.json"), container_dir(home).join("container.json")].iter().any(|record| record.exists())
}

/// In words, what `lota up` would start; the error says what there is none of.
pub(crate) async fn outlook() -> anyhow::Result<String> {
    let wanted = environment::broker_source()?;
    let may = |source| wanted.is_none_or(|wanted| wanted == source);
    if may(BrokerSource::Installed) && Installation::installed().is_some() {
        return Ok("the installed RabbitMQ, as a private node".to_owned());
    }
    if may(BrokerSource::Packages) {
        if PackageCache::new(environment::cache_dir()?).present(Bundle::RabbitMq).is_some() {
            return Ok("RabbitMQ from the cache".to_owned());
        }
        if environment::find_program("apt-get").is_some() {
            return Ok("RabbitMQ's packages will be unpacked into the cache (34 MB, without root)".to_owned());
        }
    }
    if may(BrokerSource::Container) {
        let engine = engine().await.with_context(simplest)?;
        return Ok(format!("{} in a container, by {}", environment::broker_image(), engine.name()));
    }
    bail!("LOTA_BROKER asks for what is not here; {}", simplest())
}

/// In the order of how little they need: the installed one, unpacked packages, a container.
async fn first_to_be_had(home: &Home, tls: Option<NodeTls>) -> anyhow::Result<OwnBroker> {
    let mut lacking = vec!["LOTA_BROKER_URL: not set".to_owned()];
    for source in [BrokerSource::Installed, BrokerSource::Packages, BrokerSource::Container] {
        let what = match source {
            BrokerSource::Installed => Source::installed(),
            BrokerSource::Packages => Source::packages().await,
            BrokerSource::Container => Source::container().await,
        };
        match what {
            // One that is there and does not start is told as that, not passed over.
            Ok(found) => return found.start(home, tls).await,
            Err(why) => lacking.push(format!("{}: {why:#}", told(source))),
        }
    }
    bail!("no broker can be had here.\n  {}\n{}", lacking.join("\n  "), simplest())
}

async fn from(home: &Home, source: BrokerSource, tls: Option<NodeTls>) -> anyhow::Result<OwnBroker> {
    let found = match source {
        BrokerSource::Installed => Source::installed()?,
        BrokerSource::Packages => Source::packages().await?,
        BrokerSource::Container => Source::container().await?,
    };
    found.start(home, tls).await
}

async fn engine() -> Result<Engine, EngineError> {
    Engine::find(EngineChoice::Auto, &environment::search_path()).await
}

/// What a broker can be started from.
enum Source {
    Installation(Installation),
    Engine(Engine),
}

impl Source {
    fn installed() -> anyhow::Result<Self> {
        Installation::installed().map(Self::Installation).context("there is no rabbitmq-server on this machine")
    }

    async fn packages() -> anyhow::Result<Self> {
        let root = PackageCache::new(environment::cache_dir()?).ensure(Bundle::RabbitMq, &say).await?;
        Ok(Self::Installation(Installation::unpacked(root)))
    }

    async fn container() -> anyhow::Result<Self> {
        Ok(Self::Engine(engine().await?))
    }

    async fn start(self, home: &Home, tls: Option<NodeTls>) -> anyhow::Result<OwnBroker> {
        Ok(match self {
            Self::Installation(installation) => {
                let options = NodeOptions { tls, ..NodeOptions::new(home.join("broker"), installation) };
                OwnBroker::Node(Box::new(Node::start(options, &say).await?))
            }
            Self::Engine(_) if tls.is_some() => {
                let why = "TLS is for a broker that is a node: a container's is reached from this machine alone";
                return Err(Exit::Config.of(anyhow!("{why}; leave out --tls, or say --tls off")));
            }
            Self::Engine(engine) => {
                let options = ContainerOptions::new(environment::broker_image());
                OwnBroker::Container(Container::start(&container_dir(home), engine, options, &say).await?)
            }
        })
    }
}

impl OwnBroker {
    pub(crate) fn kind(&self) -> BrokerKind {
        match self {
            Self::Node(_) => BrokerKind::Node,
            Self::Container(_) => BrokerKind::Container,
        }
    }

    pub(crate) fn amqp_url(&self) -> String {
        match self {
            Self::Node(node) => node.amqp_url(),
            Self::Container(container) => {
                format!("amqp://127.0.0.1:{}/{}", container.amqp_port(), container.vhost())
            }
        }
    }

    pub(crate) fn management_url(&self) -> String {
        match self {
            Self::Node(node) => node.management_url(),
            Self::Container(container) => format!("http://127.0.0.1:{}", container.management_port()),
        }
    }

    pub(crate) fn tls(&self) -> Option<Tls> {
        match self {
            Self::Node(node) => {
                let tls = node.record().tls.as_ref()?;
                Some(Tls { authority: tls.authority.clone(), clients: tls.asks_clients })
            }
            Self::Container(_) => None,
        }
    }

    /// The administrator, and the password.
    pub(crate) fn admin(&self) -> (&str, &Secret) {
        match self {
            Self::Node(node) => (node.admin(), node.admin_password()),
            Self::Container(container) => (container.admin(), container.admin_password()),
        }
    }

    pub(crate) fn management(&self) -> anyhow::Result<Management> {
        Ok(match self {
            Self::Node(node) => node.management()?,
            Self::Container(container) => container.management()?,
        })
    }
}

fn container_dir(home: &Home) -> PathBuf {
    home.join("broker/container")
}

fn told(source: BrokerSource) -> &'static str {
    match source {
        BrokerSource::Installed => "an installed RabbitMQ",
        BrokerSource::Packages => "unpacked packages",
        BrokerSource::Container => "a container",
    }
}

/// The one command that gets a broker on this system.
fn simplest() -> String {
    match environment::install(["rabbitmq-server", "rabbitmq-server", "rabbitmq-server", "rabbitmq"]) {
        Some(command) => format!("the simplest, as root: {command}"),
        None => "the simplest: install RabbitMQ or podman with this system's package manager".to_owned(),
    }
}

fn say(line: &str) {
    super::say::say(format_args!("  broker: {line}"));
}
