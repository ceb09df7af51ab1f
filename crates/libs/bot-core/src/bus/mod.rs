//! The bus: one supervised session with the broker. The only place that speaks AMQP.
//!
//! A session is two connections (publish, consume) with their channels and an epoch. Whatever ends any of them ends the
//! session, and a new one begins on the next address, for ever. lapin's own recovery stays off: it leaves a consumer whose
//! channel was closed by the broker pending.

mod consume;
mod letters;
mod light;
mod observe;
mod publish;
mod session;
mod wire;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bot_secrets::{Handle, Secret, Sources, known};
use bot_store::Outgoing;
pub(crate) use consume::{Consumer, Delivery, Intake};
pub use letters::{DeadLetters, GivenUp, Letter, Why};
use light::Light;
pub use observe::watch;
pub use publish::PublishError;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
pub use wire::Properties;
pub(crate) use wire::{
    ATTEMPT, CAUSATION_ID, ERROR_ATTEMPTS, ERROR_BOT, ERROR_CODE, ERROR_MESSAGE, ERROR_TIME, HEADERS_BYTES_MAX, HOP,
    NOT_BEFORE, PUBLISHER, REPLAY, SCHEMA, TRACEPARENT, TRACESTATE,
};

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct BusOptions {
    /// `amqp://host:port/vhost` or `amqps://…`, tried in turn. Without user and password.
    pub addresses: Vec<String>,
    /// The RabbitMQ user.
    pub user: String,
    /// Its password; read anew for each session.
    pub password: Password,
    /// For `amqps` addresses.
    pub tls: TlsFiles,
    /// Shown in the broker's list of connections.
    pub name: String,
    /// How long a publisher confirm may take.
    pub confirm_timeout: Duration,
}

/// PEM files for TLS, read anew for each session. None: the certificates that this system trusts, and no own one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities to trust besides the system's.
    pub authorities: Option<PathBuf>,
    /// The user's own certificate and its key (PKCS #8), where the broker asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Where a password is.
#[derive(Clone, Debug)]
pub enum Password {
    /// All of a file, without the white space at its end.
    File(PathBuf),
    /// A name, and where it is looked up.
    Handle(Handle, Sources),
}

impl Password {
    /// The file it is in, where it is one.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::File(file) => Some(file.clone()),
            Self::Handle(..) => None,
        }
    }

    /// What it is now. From then on no log of this process shows it.
    async fn read(&self) -> Result<Secret, String> {
        match self {
            Self::File(file) => {
                let text = tokio::fs::read_to_string(file).await;
                let text = text.map_err(|e| format!("the password file {} cannot be read: {e}", file.display()))?;
                let password = Secret::new(text.trim_end());
                known().add(&password);
                Ok(password)
            }
            Self::Handle(handle, sources) => sources.resolve(handle).map_err(|e| e.to_string()),
        }
    }
}

/// What is known of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Rises with every session; 0 before the first.
    pub epoch: u64,
    /// Whether there is one now.
    pub up: bool,
    /// The broker holds back publishers, and says why.
    pub blocked: Option<String>,
    /// Why there is none.
    pub trouble: Option<String>,
}

/// Makes a harmless message that the broker takes at any time, to learn whether it takes any.
pub(crate) type Probe = Arc<dyn Fn() -> Outgoing + Send + Sync>;

/// A handle to the bus; clones share it.
#[derive(Clone)]
pub struct Bus {
    pub(crate) link: watch::Receiver<Link>,
    publisher: publish::Publisher,
    light: Arc<Light>,
}

impl Bus {
    /// Begins to connect, and goes on until cancelled. Returns at once.
    pub(crate) fn start(
        options: BusOptions,
        consumers: Vec<Consumer>,
        probe: Probe,
        tasks: &TaskTracker,
        cancelled: CancellationToken,
    ) -> Self {
        Self::begin(options, consumers, Some(probe), tasks, cancelled)
    }

    /// A bus that only publishes, and does not wait for a broker that holds back publishers: for the operator's command.
    pub fn publish_only(options: BusOptions, tasks: &TaskTracker, cancelled: CancellationToken) -> Self {
        Self::begin(options, Vec::new(), None, tasks, cancelled)
    }

    fn begin(
        options: BusOptions,
        consumers: Vec<Consumer>,
        probe: Option<Probe>,
        tasks: &TaskTracker,
        cancelled: CancellationToken,
    ) -> Self {
        let (link_tx, link) = watch::channel(Link::default());
        let (session_tx, session) = watch::channel(None);
        let light = Arc::<Light>::default();
        let confirm_timeout = options.confirm_timeout;
        let patient = probe.is_some();
        let publisher = publish::Publisher { session, link: link.clone(), confirm_timeout, probe, patient };
        let supervisor =
            session::Supervisor { options, consumers, link: link_tx, session: session_tx, light: light.clone() };
        tasks.spawn(supervisor.run(cancelled));
        Self { link, publisher, light }
    }

    /// Publishes messages, persistent and mandatory, and waits until the broker has confirmed or refused each. Waits for
    /// a session first; a bot's bus also for as long as the broker holds back publishers.
    pub async fn publish(&self, batch: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        self.publisher.publish(batch).await
    }

    /// Sends a transient message once there is a session. When the buffer is full the oldest is dropped and counted.
    pub(crate) fn send_light(&self, message: Outgoing) {
        self.light.push(message);
    }

    /// Transient messages dropped so far.
    pub(crate) fn light_dropped(&self) -> u64 {
        self.light.dropped()
    }

    /// How many messages are ready in a queue, as the broker says now.
    pub(crate) async fn ready(&self, queue: &str) -> Result<u32, String> {
        self.publisher.ready(queue).await
    }

    /// Ends the session, so that a new one begins.
    pub(crate) fn renew(&self, why: &str) {
        self.publisher.renew(why);
    }

    /// What is known of the session now.
    pub fn link(&self) -> Link {
        self.link.borrow().clone()
    }

    /// Waits for a session, at most so long.
    pub async fn wait_up(&self, limit: Duration) -> Result<(), Link> {
        let mut link = self.link.clone();
        match tokio::time::timeout(limit, link.wait_for(|l| l.up)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.link()),
        }
    }
}
