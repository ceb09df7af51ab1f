//! How each fault begins and how it ends.
use std::time::{Duration, Instant};

use bot_provision::Secret;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use nix::sys::signal::Signal;
use tests::proxy::{Cut, Network};

use crate::{
    ground::Ground,
    schedule::{Bindings, Fault, Round, Who},
};

/// For what was under way to arrive, before bindings are changed one by one.
const QUIET: Duration = Duration::from_millis(500);
const SEEN_LIMIT: Duration = Duration::from_secs(60);
/// A store that may have fewer pages than it has keeps those.
const NO_MORE_PAGES: u32 = 1;
const FULL_LIMIT: Duration = Duration::from_secs(120);
/// Sent every half second until it is full.
const MESSAGES_TO_FILL: u64 = 10;

/// What a fault needs until it ends.
#[derive(Default)]
pub(crate) struct Held {
    narrow: Option<(Connection, Channel)>,
    rotated: Option<(Who, Secret)>,
}

impl Ground {
    /// The whole of a round. Gives when it was over.
    pub(crate) async fn suffer(&self, number: usize, round: Round) -> Instant {
        let held = self.begin(number, round.fault).await;
        let half = Duration::from_millis(round.hold_ms / 2);
        tokio::time::sleep(half).await;
        if let Some(who) = round.also_killed {
            self.player(who).signal(Signal::SIGKILL);
        }
        tokio::time::sleep(half).await;
        self.end(round.fault, held).await;
        Instant::now()
    }

    async fn begin(&self, number: usize, fault: Fault) -> Held {
        let mut held = Held::default();
        match fault {
            Fault::Kill(who) => self.player(who).signal(Signal::SIGKILL),
            Fault::Stop(who) => {
                self.player(who).is_wanted(false);
                self.player(who).signal(Signal::SIGTERM);
            }
            Fault::Freeze(who) => self.player(who).signal(Signal::SIGSTOP),
            Fault::CrashAt(who, place) => self.arm(who, place).await,
            Fault::Cut(who, how) => self.player(who).cut(how),
            Fault::Refuse(who) => {
                self.player(who).set_network(Network { refuses: true, ..Network::default() });
                self.player(who).cut(Cut::Reset);
            }
            Fault::Delay(who) => {
                let network = Network { delay: Duration::from_millis(200), ..Network::default() };
                self.player(who).set_network(network);
            }
            Fault::Throttle(who) => {
                self.player(who).set_network(Network { bytes_per_s: Some(4000), ..Network::default() });
            }
            Fault::Blackhole(who, sent) => {
                let network = Network { swallows_sent: sent, swallows_received: !sent, ..Network::default() };
                self.player(who).set_network(network);
            }
            Fault::CloseConnections(who) => {
                assert!(self.close_connections(who, SEEN_LIMIT).await, "{} had no connection to close", who.slug());
            }
            Fault::Unbind(bindings) => self.unbind(bindings).await,
            Fault::DeleteQueue(who) => {
                let queue = format!("{}.control", who.slug());
                self.management().await.delete_queue("lota", &queue).await.unwrap();
            }
            Fault::FullStore(who) => self.fill(who).await,
            Fault::RejectConfirms => held.narrow = Some(self.narrow_queue().await),
            Fault::Rotate(who) => {
                let password = Secret::new(format!("secret {number} of {}", who.slug()));
                self.management().await.put_user(who.slug(), &password, &[]).await.unwrap();
                // One that was not connected just now does not get in with the old password either.
                self.close_connections(who, QUIET).await;
                held.rotated = Some((who, password));
            }
            Fault::KillBroker(_)
            | Fault::StopBroker
            | Fault::FreezeBroker(_)
            | Fault::EndChannels(_)
            | Fault::MemoryAlarm
            | Fault::DiskAlarm => self.begin_at_broker(fault).await,
        }
        held
    }

    async fn begin_at_broker(&self, fault: Fault) {
        match fault {
            Fault::KillBroker(node) => self.broker.lock().await.kill(node).await,
            Fault::StopBroker => self.broker.lock().await.stop().await,
            Fault::FreezeBroker(node) => self.broker.lock().await.signal(node, Signal::SIGSTOP),
            Fault::EndChannels(node) => {
                let ended = "[exit(C, kill) || C <- rabbit_channel:list_local()].";
                self.broker.lock().await.ctl(node, &["eval", ended]).await;
            }
            Fault::MemoryAlarm => self.ctl(&["set_vm_memory_high_watermark", "0.0001"]).await,
            Fault::DiskAlarm => self.ctl(&["set_disk_free_limit", "100000GB"]).await,
            _ => unreachable!("{fault:?} is no fault of the broker"),
        }
    }

    async fn end(&self, fault: Fault, held: Held) {
        match fault {
            Fault::Stop(who) => {
                self.player(who).ended().await;
                self.player(who).is_wanted(true);
            }
            Fault::Freeze(who) => self.player(who).signal(Signal::SIGCONT),
            Fault::CrashAt(who, place) => {
                let begun = Instant::now();
                while !self.player(who).has_ended_there() {
                    assert!(begun.elapsed() < SEEN_LIMIT, "{} did not come to its end at {place}", who.slug());
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Fault::Refuse(who) | Fault::Delay(who) | Fault::Throttle(who) | Fault::Blackhole(who, _) => {
                self.player(who).set_network(Network::default());
            }
            Fault::Unbind(bindings) => self.bind_again(bindings).await,
            Fault::DeleteQueue(_) => self.apply().await,
            Fault::FullStore(who) => {
                self.player(who).limit_store(None);
                self.player(who).signal(Signal::SIGKILL);
            }
            Fault::RejectConfirms => {
                if let Some((connection, _)) = held.narrow {
                    let _ = connection.close(200, "done".into()).await;
                }
            }
            Fault::Rotate(_) => {
                if let Some((who, password)) = held.rotated {
                    self.player(who).write_password(password);
                }
            }
            Fault::KillBroker(_) | Fault::StopBroker => self.broker.lock().await.bring_back().await,
            Fault::FreezeBroker(node) => self.broker.lock().await.signal(node, Signal::SIGCONT),
            Fault::MemoryAlarm => self.ctl(&["set_vm_memory_high_watermark", "0.8"]).await,
            Fault::DiskAlarm => self.ctl(&["set_disk_free_limit", "50MB"]).await,
            Fault::Kill(_) | Fault::Cut(..) | Fault::CloseConnections(_) | Fault::EndChannels(_) => {}
        }
    }

    async fn arm(&self, who: Who, place: &str) {
        let player = self.player(who);
        player.end_at(place);
        if place.starts_with("suspect: ") {
            // What it is handed while it stands still is delivered again, and so under suspicion.
            player.signal(Signal::SIGSTOP);
            tokio::time::sleep(QUIET).await;
            player.signal(Signal::SIGKILL);
        }
    }

    /// An alarm of one node is one of all.
    async fn ctl(&self, args: &[&str]) {
        self.broker.lock().await.ctl(0, args).await;
    }

    /// Until one is seen to be closed, since the list may be a moment old.
    async fn close_connections(&self, who: Who, limit: Duration) -> bool {
        let (management, begun) = (self.management().await, Instant::now());
        let mut closed = 0;
        while closed == 0 && begun.elapsed() < limit {
            let connections = management.connections().await.unwrap_or_default();
            for connection in connections.iter().filter(|c| c.user.as_deref() == Some(who.slug())) {
                closed += usize::from(management.close_connection(&connection.name, "chaos").await.is_ok());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        closed > 0
    }

    /// A message that only one of its queues still hears is taken by the broker, and missed by the others without a word. So
    /// whoever says what is unbound is quiet while its bindings go, or come, one after the other.
    async fn unbind(&self, bindings: Bindings) {
        let (source, key) = match bindings {
            Bindings::Retries => ("lota.egress.work-bot", "retry.work-bot.5s"),
            Bindings::OfOutside => ("lota.egress.outside", "repository.pushed"),
            Bindings::OfWork => ("lota.egress.work-bot", "build.completed"),
            Bindings::OfCount => ("lota.egress.count-bot", "test.completed"),
        };
        let management = self.management().await;
        self.quietly(bindings, async || {
            let all = management.bindings("lota").await.unwrap();
            for binding in all.iter().filter(|b| b.source == source && b.routing_key == key) {
                management.delete_binding("lota", binding).await.unwrap();
            }
        })
        .await;
    }

    async fn bind_again(&self, bindings: Bindings) {
        self.quietly(bindings, async || self.apply().await).await;
    }

    async fn quietly(&self, bindings: Bindings, change: impl AsyncFnOnce()) {
        let speaker = self.player(Who::Work);
        let gate = if bindings == Bindings::OfOutside { Some(self.publisher.gate.lock().await) } else { None };
        if bindings == Bindings::OfWork {
            speaker.signal(Signal::SIGSTOP);
            tokio::time::sleep(QUIET).await;
        }
        change().await;
        if bindings == Bindings::OfWork {
            speaker.signal(Signal::SIGCONT);
        }
        drop(gate);
    }

    /// Starts it with a store that takes no more than it has, and waits until it has noticed.
    async fn fill(&self, who: Who) {
        let player = self.player(who);
        let log = player.log_bytes();
        player.limit_store(Some(NO_MORE_PAGES));
        player.signal(Signal::SIGKILL);
        let begun = Instant::now();
        while !player.logged_since(log, "is full") {
            assert!(begun.elapsed() < FULL_LIMIT, "the store of {} did not become full", who.slug());
            // What earlier messages left free in its pages has to be used up first.
            self.publisher.allow_more(MESSAGES_TO_FILL);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// A queue that hears everything, takes one message, and has the broker refuse the others to whoever says them.
    async fn narrow_queue(&self) -> (Connection, Channel) {
        let broker = self.broker.lock().await;
        let ((admin, password), port) = (broker.admin(), broker.ports()[0]);
        let url = format!("amqp://{admin}:{}@127.0.0.1:{port}/lota", password.expose());
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("tmp.narrow".into(), exclusive, arguments).await.unwrap();
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind("tmp.narrow".into(), "lota.events".into(), "#".into(), options, none).await.unwrap();
        (connection, channel)
    }
}
