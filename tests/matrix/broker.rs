//! A RabbitMQ that holds the topology of a [`Fleet`], and a listener on every queue.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bot_messages::topology::{QueueType, Topology};
use bot_provision::{ApplyOptions, Node, NodeOptions, Secret, apply, verify};
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicRejectOptions},
    types::FieldTable,
};

use crate::fleet::{EAR, Fleet};

/// What work queues give back to the broker, so that it goes among the dead letters.
pub(crate) const REJECTED: &str = "reject-";
const LIMIT: Duration = Duration::from_secs(300);

/// Queue → the exchange and key that a message came with.
pub(crate) type Arrivals = BTreeMap<String, (String, String)>;

pub(crate) struct Broker {
    pub(crate) fleet: Fleet,
    pub(crate) topology: Topology,
    pub(crate) version: String,
    node: Node,
    _dir: tempfile::TempDir,
    // Closed with the last value.
    _admin: Connection,
    ears: Channel,
    /// By the message's id.
    heard: Arc<Mutex<HashMap<String, Arrivals>>>,
    consumed: Mutex<BTreeSet<String>>,
    sentinels: Mutex<u32>,
}

pub(crate) fn password(user: &str) -> Secret {
    Secret::new(format!("secret-of-{user}"))
}

/// Of a node that dies with this process.
pub(crate) async fn node(dir: &std::path::Path) -> Node {
    let mut options = NodeOptions::new(dir.join("node"), tests::installation().await);
    options.die_with_parent = true;
    Node::start(options, &tests::say).await.unwrap()
}

impl Broker {
    pub(crate) async fn provisioned() -> Self {
        let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
        let node = node(dir.path()).await;
        let management = node.management().unwrap();
        let fleet = Fleet::new();
        let topology = lightened(Topology::new(&fleet.bots, &fleet.outside).unwrap());
        apply(&management, &topology, &password, ApplyOptions::default()).await.unwrap();
        assert_eq!(verify(&management, &topology).await.unwrap(), [], "what was applied is what is there");
        let version = management.overview().await.unwrap().rabbitmq_version.unwrap();
        let url = url_of(&node, node.admin(), node.admin_password());
        let admin = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let ears = admin.create_channel().await.unwrap();
        let broker = Self {
            fleet,
            topology,
            version,
            node,
            _dir: dir,
            _admin: admin,
            ears,
            heard: Arc::default(),
            consumed: Mutex::default(),
            sentinels: Mutex::default(),
        };
        for queue in &broker.topology.queues {
            broker.listen(&queue.name).await;
        }
        broker
    }

    /// Whether topic permissions are also held against CC and BCC.
    pub(crate) fn checks_copies(&self) -> bool {
        self.version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 4)
    }

    pub(crate) fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.node.management_port())
    }

    pub(crate) fn url(&self, user: &str) -> String {
        url_of(&self.node, user, &password(user))
    }

    /// As AMQP clients take it, with another password or vhost than it should be.
    pub(crate) fn url_with(&self, user: &str, password: &str, vhost: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/{vhost}", self.node.amqp_port())
    }

    /// Takes whatever comes to a queue from now on, and writes down that it came.
    async fn listen(&self, queue: &str) {
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut deliveries = self.ears.basic_consume(queue.into(), queue.into(), options, arguments).await.unwrap();
        self.consumed.lock().unwrap().insert(queue.to_owned());
        let (queue, heard) = (queue.to_owned(), self.heard.clone());
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = deliveries.next().await {
                let id = delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
                let from = (delivery.exchange.to_string(), delivery.routing_key.to_string());
                let rejected = id.starts_with(REJECTED) && queue.ends_with(".work");
                heard.lock().unwrap().entry(id).or_default().insert(queue.clone(), from);
                if rejected {
                    delivery.reject(BasicRejectOptions { requeue: false }).await.unwrap();
                } else {
                    delivery.ack(BasicAckOptions::default()).await.unwrap();
                }
            }
        });
    }

    /// Leaves the messages of a queue where they are from now on.
    pub(crate) async fn stop_listening(&self, queue: &str) {
        self.ears.basic_cancel(queue.into(), BasicCancelOptions::default()).await.unwrap();
        self.consumed.lock().unwrap().remove(queue);
    }

    /// Waits until everything that was routed so far has been heard: one more message to each queue has come, and each
    /// queue keeps its order.
    pub(crate) async fn settled(&self) {
        let id = {
            let mut sentinels = self.sentinels.lock().unwrap();
            *sentinels += 1;
            format!("sentinel-{sentinels}")
        };
        let queues = self.consumed.lock().unwrap().clone();
        for queue in &queues {
            let properties = BasicProperties::default().with_message_id(id.as_str().into());
            let options = BasicPublishOptions::default();
            self.ears.basic_publish("".into(), queue.as_str().into(), options, b"{}", properties).await.unwrap();
        }
        self.until(&id, &queues).await;
    }

    /// Waits until a message has come to all of these queues.
    pub(crate) async fn until(&self, id: &str, queues: &BTreeSet<String>) {
        let end = Instant::now() + LIMIT;
        while !queues.iter().all(|queue| self.arrived(id).contains_key(queue)) {
            let came = self.arrived(id);
            let missing: Vec<&String> = queues.iter().filter(|queue| !came.contains_key(*queue)).collect();
            assert!(Instant::now() < end, "{id} did not come to {missing:?} within {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where a message came to.
    pub(crate) fn arrived(&self, id: &str) -> Arrivals {
        self.heard.lock().unwrap().get(id).cloned().unwrap_or_default()
    }
}

fn url_of(node: &Node, user: &str, password: &Secret) -> String {
    format!("amqp://{user}:{}@127.0.0.1:{}/lota", password.expose(), node.amqp_port())
}

/// Of an ear only its work queue is needed, and that as a plain one: each queue costs time.
fn lightened(mut topology: Topology) -> Topology {
    let is_needed = |name: &str| !name.starts_with(EAR) || name.ends_with(".work");
    topology.queues.retain(|queue| is_needed(&queue.name));
    for queue in topology.queues.iter_mut().filter(|queue| queue.name.starts_with(EAR)) {
        queue.queue_type = QueueType::Classic;
    }
    let egress = format!("lota.egress.{EAR}");
    topology.exchanges.retain(|exchange| !exchange.name.starts_with(&egress));
    topology.bindings.retain(|b| is_needed(&b.destination) && !b.source.starts_with(&egress));
    topology.users.retain(|user| !user.name.starts_with(EAR));
    topology.policies.retain(|policy| !policy.pattern.contains(EAR));
    topology
}
