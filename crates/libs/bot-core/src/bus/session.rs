//! One session after the other: connect, consume, publish, until something ends; then again on the next address.
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bot_store::Outgoing;
use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, Event,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    uri::AMQPUri,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{BusOptions, Consumer, Link, light::Light, publish::PublishSession, wire::Properties};
use crate::retry::{Reconnect, jitter};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A session that lasted so long is followed by the next without a longer wait.
const SETTLED: Duration = Duration::from_secs(5);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const AMQP_HEARTBEAT_S: u16 = 10;
/// Right after a cluster node's death a channel may answer nack to everything, for ever.
const NACKS_IN_A_ROW_MAX: u32 = 3;

pub(super) struct Supervisor {
    pub(super) options: BusOptions,
    pub(super) consumers: Vec<Consumer>,
    pub(super) link: watch::Sender<Link>,
    pub(super) session: watch::Sender<Option<Arc<PublishSession>>>,
    pub(super) light: Arc<Light>,
}

/// Where the parts of a session report that it is over. The first report counts.
#[derive(Clone)]
pub(crate) struct SessionFault {
    over: mpsc::Sender<String>,
    nacks: Arc<AtomicU32>,
}

impl SessionFault {
    fn new() -> (Self, mpsc::Receiver<String>) {
        let (over, rx) = mpsc::channel(1);
        (Self { over, nacks: Arc::default() }, rx)
    }
    pub(crate) fn report(&self, why: String) {
        let _ = self.over.try_send(why);
    }
    pub(super) fn confirmed(&self) {
        self.nacks.store(0, Ordering::Relaxed);
    }
    pub(super) fn nacked(&self) {
        self.unconfirmed("nack");
    }
    pub(super) fn unconfirmed(&self, why: &str) {
        if self.nacks.fetch_add(1, Ordering::Relaxed) + 1 >= NACKS_IN_A_ROW_MAX {
            self.report(format!("{NACKS_IN_A_ROW_MAX} publishes in a row were not taken (the last: {why})"));
        }
    }
}

struct Session {
    publish: Connection,
    consume: Connection,
    light: Channel,
    fault: SessionFault,
    over: mpsc::Receiver<String>,
    tasks: JoinSet<()>,
}

impl Supervisor {
    pub(super) async fn run(mut self, cancelled: CancellationToken) {
        let mut delay = Reconnect::new();
        for n in 0_usize.. {
            let address = &self.options.addresses[n % self.options.addresses.len().max(1)];
            let begun = tokio::select! {
                s = self.begin(address) => s,
                () = cancelled.cancelled() => break,
            };
            match begun {
                Ok(mut session) => {
                    let begun = Instant::now();
                    let why = self.attend(&mut session, &cancelled).await;
                    // A session that ends at once is no better than none.
                    if begun.elapsed() > SETTLED {
                        delay.reset();
                    }
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
                () = tokio::time::sleep(jitter(delay.next())) => {}
                () = cancelled.cancelled() => break,
            }
        }
        self.session.send_replace(None);
    }

    async fn begin(&self, address: &str) -> Result<Session, String> {
        let (publish, consume) = timeout(CONNECT_TIMEOUT, async {
            Ok::<_, String>((
                connect(&self.options, address, "publish").await?,
                connect(&self.options, address, "consume").await?,
            ))
        })
        .await
        .map_err(|_| format!("{address} did not answer within {} s", CONNECT_TIMEOUT.as_secs()))??;
        let (fault, over) = SessionFault::new();
        let epoch = self.link.borrow().epoch + 1;
        let mut tasks = JoinSet::new();
        let light = publish.create_channel().await.map_err(|e| e.to_string())?;
        let confirmed = publish.create_channel().await.map_err(|e| e.to_string())?;
        confirmed.confirm_select(ConfirmSelectOptions::default()).await.map_err(|e| e.to_string())?;
        for (connection, role) in [(&publish, "publish"), (&consume, "consume")] {
            tasks.spawn(watch_events(connection.events_listener(), role, self.link.clone(), fault.clone()));
        }
        for consumer in &self.consumers {
            let channel = consume.create_channel().await.map_err(|e| e.to_string())?;
            tasks.spawn(consumer.clone().run(channel, epoch, fault.clone()));
        }
        self.session.send_replace(Some(Arc::new(PublishSession { channel: confirmed, fault: fault.clone() })));
        self.link.send_modify(|l| *l = Link { epoch, up: true, blocked: None, trouble: None });
        tracing::info!(address, epoch, "session begun");
        Ok(Session { publish, consume, light, fault, over, tasks })
    }

    /// Until the session is over; says why.
    async fn attend(&mut self, session: &mut Session, cancelled: &CancellationToken) -> String {
        let mut check = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                why = session.over.recv() => return why.unwrap_or_default(),
                () = cancelled.cancelled() => return "stopping".to_owned(),
                message = self.light.pop() => send_light(&session.light, &message, &session.fault).await,
                _ = check.tick() => {
                    // What ends without an event of its own.
                    for (connection, role) in [(&session.publish, "publish"), (&session.consume, "consume")] {
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
            l.trouble = Some(why.to_owned());
        });
        tracing::warn!("session over: {why}");
        session.tasks.abort_all();
        for connection in [&session.publish, &session.consume] {
            if connection.status().connected() {
                let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "bye".into())).await;
            }
        }
    }
}

/// One connection; the password is read anew, so that a new one holds from the next session on.
pub(super) async fn connect(options: &BusOptions, address: &str, role: &str) -> Result<Connection, String> {
    let mut uri: AMQPUri = address.parse().map_err(|e| format!("{address} is no AMQP address: {e}"))?;
    let file = &options.password_file;
    let password = tokio::fs::read_to_string(file)
        .await
        .map_err(|e| format!("the password file {} cannot be read: {e}", file.display()))?;
    uri.authority.userinfo.username.clone_from(&options.user);
    password.trim_end().clone_into(&mut uri.authority.userinfo.password);
    uri.query.heartbeat = Some(AMQP_HEARTBEAT_S);
    let name = format!("{} {role}", options.name);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    Connection::connect_uri(uri, properties).await.map_err(|e| format!("{address}: {e}"))
}

async fn send_light(channel: &Channel, message: &Outgoing, fault: &SessionFault) {
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
        fault.report(format!("sending a record failed: {e}"));
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
            Event::ConnectionUnblocked => link.send_modify(|l| l.blocked = None),
            Event::Error(e) => fault.report(format!("the {role} connection ended: {e}")),
            _ => {}
        }
    }
    fault.report(format!("the {role} connection is gone"));
}
