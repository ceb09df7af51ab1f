//! One session after the other: connect, consume, publish, until something ends; then again on the next address.
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, DefaultConnectionBuilder, Event,
    options::BasicPublishOptions,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::AMQPUri,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    BusOptions, Consumer, Link, TlsFiles,
    course::{Course, Trust, Try},
    light::Light,
    publish::PublishSession,
    wire::Properties,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const AMQP_HEARTBEAT_S: u16 = 10;

pub(super) struct Supervisor {
    pub(super) options: BusOptions,
    pub(super) consumers: Vec<Consumer>,
    pub(super) link: watch::Sender<Link>,
    pub(super) session: watch::Sender<Option<Arc<PublishSession>>>,
    pub(super) light: Arc<Light>,
}

/// Where the parts of a session report that it is over. The first report counts.
#[derive(Clone, Debug)]
pub(crate) struct SessionFault {
    over: mpsc::Sender<String>,
    trust: Arc<Mutex<Trust>>,
}

impl SessionFault {
    pub(super) fn new() -> (Self, mpsc::Receiver<String>) {
        let (over, rx) = mpsc::channel(1);
        (Self { over, trust: Arc::default() }, rx)
    }
    pub(crate) fn report(&self, why: String) {
        let _ = self.over.try_send(why);
    }
    pub(super) fn trust<T>(&self, f: impl FnOnce(&mut Trust) -> T) -> T {
        f(&mut self.trust.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Session {
    publish: Arc<Connection>,
    consume: Connection,
    over: mpsc::Receiver<String>,
    tasks: JoinSet<()>,
}

impl Supervisor {
    pub(super) async fn run(self, cancelled: CancellationToken) {
        let mut course = Course::new(self.options.addresses.clone());
        while let Some(Try { address, epoch }) = course.next() {
            let begun = tokio::select! {
                s = self.begin(&address, epoch) => s,
                () = cancelled.cancelled() => break,
            };
            match begun {
                Ok(mut session) => {
                    course.begun(Instant::now());
                    let why = Self::attend(&mut session, &cancelled).await;
                    self.end(session, &why).await;
                }
                Err(why) => {
                    tracing::warn!(address, "no session: {why}");
                    self.link.send_modify(|l| l.trouble = Some(why));
                }
            }
            if cancelled.is_cancelled() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(course.over(Instant::now())) => {}
                () = cancelled.cancelled() => break,
            }
        }
        self.session.send_replace(None);
    }

    async fn begin(&self, address: &str, epoch: u64) -> Result<Session, String> {
        timeout(CONNECT_TIMEOUT, self.open(address, epoch))
            .await
            .map_err(|_| format!("{address} did not answer within {} s", CONNECT_TIMEOUT.as_secs()))?
    }

    async fn open(&self, address: &str, epoch: u64) -> Result<Session, String> {
        let publish = Arc::new(connect(&self.options, address, "publish").await?);
        let consume = connect(&self.options, address, "consume").await?;
        let (fault, over) = SessionFault::new();
        let mut tasks = JoinSet::new();
        let light = publish.create_channel().await.map_err(|e| e.to_string())?;
        let confirmed = PublishSession::open(publish.clone(), fault.clone()).await?;
        for (connection, role) in [(publish.as_ref(), "publish"), (&consume, "consume")] {
            tasks.spawn(watch_events(connection.events_listener(), role, self.link.clone(), fault.clone()));
        }
        for consumer in &self.consumers {
            let channel = consume.create_channel().await.map_err(|e| e.to_string())?;
            tasks.spawn(consumer.clone().run(channel, epoch, fault.clone()));
        }
        // A task of its own, since it waits for as long as the broker holds back publishers.
        tasks.spawn(send_light(light, self.light.clone(), fault));
        self.link.send_modify(|l| *l = Link { epoch, up: true, blocked: None, trouble: None });
        self.session.send_replace(Some(Arc::new(confirmed)));
        tracing::info!(address, epoch, "session begun");
        Ok(Session { publish, consume, over, tasks })
    }

    /// Until the session is over; says why.
    async fn attend(session: &mut Session, cancelled: &CancellationToken) -> String {
        let mut check = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                why = session.over.recv() => return why.unwrap_or_default(),
                () = cancelled.cancelled() => return "stopping".to_owned(),
                _ = check.tick() => {
                    // What ends without an event of its own.
                    for (connection, role) in [(session.publish.as_ref(), "publish"), (&session.consume, "consume")] {
                        if !connection.status().connected() {
                            return format!("the {role} connection is gone");
                        }
                    }
                }
            }
        }
    }

    async fn end(&self, mut session: Session, why: &str) {
        self.session.send_replace(None);
        self.link.send_modify(|l| {
            l.up = false;
            l.blocked = None;
            l.trouble = Some(why.to_owned());
        });
        tracing::warn!("session over: {why}");
        session.tasks.abort_all();
        for connection in [session.publish.as_ref(), &session.consume] {
            if connection.status().connected() {
                let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "bye".into())).await;
            }
        }
    }
}

/// One connection; the password is read anew, so that a new one holds from the next session on.
pub(super) async fn connect(options: &BusOptions, address: &str, role: &str) -> Result<Connection, String> {
    let mut uri: AMQPUri = address.parse().map_err(|e| format!("{address} is no AMQP address: {e}"))?;
    let password = options.password.read().await?;
    uri.authority.userinfo.username.clone_from(&options.user);
    password.expose().clone_into(&mut uri.authority.userinfo.password);
    uri.query.heartbeat = Some(AMQP_HEARTBEAT_S);
    let name = format!("{} {role}", options.name);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let tls = tls_config(&options.tls).await?;
    let builder = DefaultConnectionBuilder::new().map_err(|e| e.to_string())?.with_uri(uri);
    let builder = builder.with_properties(properties).with_tls_config(tls);
    builder.connect().await.map_err(|e| format!("{address}: {e}"))
}

async fn tls_config(files: &TlsFiles) -> Result<OwnedTLSConfig, String> {
    let mut config = OwnedTLSConfig::default();
    if let Some(file) = &files.authorities {
        let pem = String::from_utf8(read("certificate", file).await?);
        config.cert_chain = Some(pem.map_err(|_| format!("{} is no PEM file", file.display()))?);
    }
    if let Some((certificate, key)) = &files.identity {
        let (pem, key) = (read("certificate", certificate).await?, read("key", key).await?);
        config.identity = Some(OwnedIdentity::PKCS8 { pem, key });
    }
    Ok(config)
}

async fn read(what: &str, file: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(file).await.map_err(|e| format!("the {what} file {} cannot be read: {e}", file.display()))
}

async fn send_light(channel: Channel, light: Arc<Light>, fault: SessionFault) {
    loop {
        let message = light.pop().await;
        let properties: Properties = serde_json::from_value(message.properties.clone()).unwrap_or_default();
        let sent = channel
            .basic_publish(
                message.exchange.as_str().into(),
                message.routing_key.as_str().into(),
                BasicPublishOptions::default(),
                &message.body,
                properties.write(message.priority, false),
            )
            .await;
        if let Err(e) = sent {
            return fault.report(format!("sending a record failed: {e}"));
        }
    }
}

async fn watch_events(
    mut events: impl futures_util::Stream<Item = Event> + Unpin,
    role: &'static str,
    link: watch::Sender<Link>,
    fault: SessionFault,
) {
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => {
                tracing::warn!(role, "the broker holds back publishers: {reason}");
                link.send_modify(|l| l.blocked = Some(reason));
            }
            Event::ConnectionUnblocked => {
                tracing::info!(role, "the broker takes publishers' messages again");
                link.send_modify(|l| l.blocked = None);
            }
            Event::Error(e) => fault.report(format!("the {role} connection ended: {e}")),
            _ => {}
        }
    }
    fault.report(format!("the {role} connection is gone"));
}
