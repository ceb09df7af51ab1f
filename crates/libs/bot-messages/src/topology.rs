//! From contracts to what the broker holds: exchanges, queues, bindings, policies, users. Who may hear whom is decided here.
pub mod loops;
mod model;

use std::collections::{BTreeMap, BTreeSet};

pub use model::{Binding, DestinationType, Exchange, Policy, Queue, QueueType, TopicPermission, Topology, User};
use serde_json::{Value, json};

use crate::{Contract, Kind, OutsidePublisher, Tap, Tier, catalogue, keys};

/// The user that may only read figures; the monitor asks the management API with it.
pub const METRICS_USER: &str = "lota-metrics";
const TAP_MESSAGES_MAX: u64 = 100_000;
/// Only a net: the runtime ends crash loops long before.
const WORK_DELIVERY_LIMIT: u64 = 1000;
/// In effect none. RabbitMQ 4 deletes or dead-letters after 20 by default, which would eat letters that are looked at.
const NO_DELIVERY_LIMIT: u64 = 1_000_000_000;

/// A contract is wrong, or an outside publisher is granted what does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// An unknown type.
    #[error("`{who}` {verb} `{event_type}`, which is no message type; did you mean `{near}`?")]
    UnknownType {
        /// Bot or publisher.
        who: String,
        /// `says` or `hears`.
        verb: &'static str,
        /// What it names.
        event_type: String,
        /// The nearest that exists.
        near: String,
    },
    /// Two with the same slug.
    #[error("two publishers are called `{0}` on the broker: names must differ in more than case and `_`/`-`")]
    SameName(String),
    /// Messages that lead to each other for ever.
    #[error("{0}")]
    Loop(String),
}

impl Topology {
    /// The topology of a fleet: its bots and whoever else may publish. The operator is always among them.
    pub fn new(contracts: &[Contract], outside: &[OutsidePublisher]) -> Result<Self, TopologyError> {
        let mut outside: Vec<OutsidePublisher> = outside.to_vec();
        if !outside.iter().any(|o| o.operator) {
            outside.push(OutsidePublisher::operator());
        }
        check(contracts, &outside)?;
        let mut t = Builder::default();
        t.shared();
        for c in contracts {
            t.bot(c, contracts, &outside);
        }
        for o in &outside {
            t.outside(o, contracts);
        }
        Ok(t.finish())
    }
}

fn check(contracts: &[Contract], outside: &[OutsidePublisher]) -> Result<(), TopologyError> {
    let known: Vec<&str> = catalogue::all().iter().map(|e| e.event_type).collect();
    let mut slugs = BTreeSet::new();
    let lists = contracts
        .iter()
        .flat_map(|c| [(&c.name, "says", &c.says), (&c.name, "hears", &c.hears)])
        .chain(outside.iter().map(|o| (&o.name, "says", &o.says)));
    for (who, verb, types) in lists {
        for t in types {
            if !known.contains(&t.as_str()) {
                let near = known.iter().max_by_key(|k| (strsim::jaro_winkler(k, t) * 1000.0) as u32);
                return Err(TopologyError::UnknownType {
                    who: who.to_string(),
                    verb,
                    event_type: t.clone(),
                    near: near.map(ToString::to_string).unwrap_or_default(),
                });
            }
        }
    }
    for name in contracts.iter().map(|c| &c.name).chain(outside.iter().map(|o| &o.name)) {
        if !slugs.insert(name.slug()) {
            return Err(TopologyError::SameName(name.slug()));
        }
    }
    let loops = loops::undeclared(contracts);
    if !loops.is_empty() {
        return Err(TopologyError::Loop(loops.join("\n")));
    }
    Ok(())
}

/// The routing keys by which `publisher` may say `event_type`: one, or one per bot that hears the command.
fn keys_of(event_type: &str, contracts: &[Contract]) -> Vec<String> {
    match catalogue::find(event_type).map(|e| e.kind) {
        Some(Kind::Command) => contracts
            .iter()
            .filter(|c| c.hears.iter().any(|h| h == event_type))
            .map(|c| keys::command(&c.name.slug(), event_type))
            .collect(),
        _ => vec![event_type.to_owned()],
    }
}

fn escape(s: &str) -> String {
    s.replace('.', "\\.")
}

fn exactly(names: &[String]) -> String {
    format!("^({})$", names.iter().map(|n| escape(n)).collect::<Vec<_>>().join("|"))
}

#[derive(Default)]
struct Builder {
    exchanges: BTreeSet<Exchange>,
    queues: BTreeSet<Queue>,
    bindings: BTreeSet<Binding>,
    policies: BTreeMap<String, Policy>,
    users: Vec<User>,
}

impl Builder {
    fn exchange(&mut self, name: &str, internal: bool) {
        self.exchanges.insert(Exchange { name: name.to_owned(), internal });
    }
    fn queue(&mut self, name: &str, queue_type: QueueType) {
        self.queues.insert(Queue { name: name.to_owned(), queue_type });
    }
    fn bind(&mut self, source: &str, queue: &str, key: &str) {
        self.binding(source, queue, DestinationType::Queue, key);
    }
    fn binding(&mut self, source: &str, destination: &str, destination_type: DestinationType, key: &str) {
        self.bindings.insert(Binding {
            source: source.to_owned(),
            destination: destination.to_owned(),
            destination_type,
            routing_key: key.to_owned(),
        });
    }
    fn policy(&mut self, name: &str, pattern: &str, apply_to: &str, definition: Value) {
        let Value::Object(definition) = definition else {
            return;
        };
        let policy = Policy {
            name: name.to_owned(),
            pattern: pattern.to_owned(),
            apply_to: apply_to.to_owned(),
            priority: 1,
            definition,
        };
        self.policies.insert(policy.name.clone(), policy);
    }

    fn shared(&mut self) {
        for name in [keys::EVENTS, keys::HEALTH, keys::AUDIT, keys::LOGS, keys::REQUEUE, keys::DEAD, keys::UNROUTED] {
            self.exchange(name, true);
        }
        self.queue(keys::UNROUTED_QUEUE, QueueType::Quorum);
        self.bind(keys::UNROUTED, keys::UNROUTED_QUEUE, "#");
        self.policy("lota-unrouted", "^unrouted$", "queues", json!({"delivery-limit": NO_DELIVERY_LIMIT}));
        let alternate = json!({"alternate-exchange": keys::UNROUTED});
        self.policy("lota-alternate", r"^lota\.(events|requeue|dead)$", "exchanges", alternate);
        self.policy(
            "lota-health",
            r"^[a-z0-9-]+\.health$",
            "queues",
            json!({"message-ttl": 30_000, "max-length": 1000, "overflow": "drop-head"}),
        );
        self.policy(
            "lota-taps",
            r"^[a-z0-9-]+\.tap\.events$",
            "queues",
            json!({"max-length": TAP_MESSAGES_MAX, "overflow": "drop-head", "delivery-limit": NO_DELIVERY_LIMIT}),
        );
        self.policy(
            "lota-taps-plain",
            r"^[a-z0-9-]+\.tap\.(health|logs|audit)$",
            "queues",
            json!({"max-length": TAP_MESSAGES_MAX, "overflow": "drop-head"}),
        );
        self.policy("lota-dead", r"^[a-z0-9-]+\.dead$", "queues", json!({"delivery-limit": NO_DELIVERY_LIMIT}));
        self.policy(
            "lota-control",
            r"^[a-z0-9-]+\.control$",
            "queues",
            json!({"max-length": 10_000, "overflow": "reject-publish", "delivery-limit": WORK_DELIVERY_LIMIT}),
        );
        self.users.push(User {
            name: METRICS_USER.to_owned(),
            configure: "^$".into(),
            write: "^$".into(),
            read: "^$".into(),
            topic_permissions: Vec::new(),
            tags: vec!["monitoring".into()],
            // The management API counts as no AMQP connection; 0 would read as "refuse all" to an operator, which it is.
            max_connections: Some(0),
            max_channels: Some(0),
        });
    }

    /// The exchange of one publisher, tapped by exactly the keys it may say.
    fn egress(&mut self, publisher: &str, said: &[String], contracts: &[Contract]) -> String {
        let egress = keys::egress(publisher);
        self.exchange(&egress, false);
        for event_type in said {
            for key in keys_of(event_type, contracts) {
                self.binding(&egress, keys::EVENTS, DestinationType::Exchange, &key);
            }
        }
        egress
    }

    fn bot(&mut self, c: &Contract, all: &[Contract], outside: &[OutsidePublisher]) {
        let slug = c.name.slug();
        let said: Vec<String> = c.all_says().iter().map(ToString::to_string).collect();
        let egress = self.egress(&slug, &said, all);
        self.bot_queues(&slug, &egress);
        self.work_bindings(c, all, outside);
        for (tap, key) in [(keys::HEALTH, "health"), (keys::LOGS, "log"), (keys::AUDIT, "audit")] {
            self.binding(&egress, tap, DestinationType::Exchange, &format!("{key}.{slug}.*"));
        }
        for dependency in &c.dependencies {
            let dependency = dependency.slug();
            if all.iter().any(|d| d.name.slug() == dependency) {
                let key = format!("health.{dependency}.#");
                self.bind(&keys::egress(&dependency), &keys::health_queue(&slug), &key);
            }
        }
        for tap in &c.observes {
            self.observe(&slug, *tap);
        }
        let mut granted: Vec<String> = said.iter().flat_map(|t| keys_of(t, all)).map(|k| escape(&k)).collect();
        granted.extend([
            format!(r"(health|log|audit)\.{slug}\.[^.]+"),
            format!(r"retry\.{slug}\.[^.]+"),
            format!(r"dead\.{slug}"),
        ]);
        self.users.push(User {
            name: slug.clone(),
            configure: "^$".into(),
            write: exactly(std::slice::from_ref(&egress)),
            read: format!(r"^{slug}\.(work|control|health|tap\.[a-z]+)$"),
            topic_permissions: vec![TopicPermission {
                exchange: egress,
                write: format!("^({})$", granted.join("|")),
                read: "^$".into(),
            }],
            tags: Vec::new(),
            max_connections: Some(32),
            max_channels: Some(256),
        });
    }

    fn bot_queues(&mut self, slug: &str, egress: &str) {
        let (work, dead, control) = (keys::work(slug), keys::dead_queue(slug), keys::control(slug));
        for queue in [&work, &dead, &control] {
            self.queue(queue, QueueType::Quorum);
        }
        self.queue(&keys::health_queue(slug), QueueType::Classic);
        self.bind(keys::REQUEUE, &work, &keys::requeue(slug));
        self.bind(egress, &dead, &keys::dead(slug));
        self.bind(keys::DEAD, &dead, &keys::dead(slug));
        self.policy(
            &format!("lota-work-{slug}"),
            &format!(r"^{slug}\.work$"),
            "queues",
            json!({
                "delivery-limit": WORK_DELIVERY_LIMIT,
                "dead-letter-exchange": keys::DEAD,
                "dead-letter-routing-key": keys::dead(slug),
                "dead-letter-strategy": "at-least-once",
                "overflow": "reject-publish",
            }),
        );
        for tier in Tier::ALL {
            let queue = keys::retry_queue(slug, tier);
            self.queue(&queue, QueueType::Quorum);
            self.bind(egress, &queue, &keys::retry(slug, tier));
            self.policy(
                &format!("lota-retry-{slug}-{}", tier.as_str()),
                &format!("^{}$", escape(&queue)),
                "queues",
                json!({
                    "message-ttl": tier.delay().as_millis() as u64,
                    "dead-letter-exchange": keys::REQUEUE,
                    "dead-letter-routing-key": keys::requeue(slug),
                    "dead-letter-strategy": "at-least-once",
                    "overflow": "reject-publish",
                    "delivery-limit": NO_DELIVERY_LIMIT,
                }),
            );
        }
    }

    /// One binding per key that one's contract says and the other's hears.
    fn work_bindings(&mut self, c: &Contract, all: &[Contract], outside: &[OutsidePublisher]) {
        let slug = c.name.slug();
        let work = keys::work(&slug);
        let bots =
            all.iter().map(|p| (p.name.slug(), p.all_says().iter().map(ToString::to_string).collect::<Vec<_>>()));
        let others = outside.iter().map(|p| (p.name.slug(), p.says.clone()));
        for (publisher, says) in bots.chain(others) {
            for heard in c.hears.iter().filter(|h| says.contains(h)) {
                let key = match catalogue::find(heard).map(|e| e.kind) {
                    Some(Kind::Command) => keys::command(&slug, heard),
                    _ => heard.clone(),
                };
                self.bind(&keys::egress(&publisher), &work, &key);
            }
        }
        for operator in outside.iter().filter(|o| o.operator) {
            let egress = keys::egress(&operator.name.slug());
            self.bind(&egress, &keys::control(&slug), &format!("to.{slug}.control.#"));
            self.bind(&egress, &work, &keys::requeue(&slug));
        }
    }

    fn observe(&mut self, slug: &str, tap: Tap) {
        let queue = keys::tap_queue(slug, tap.as_str());
        // Events may wait for an observer that is down; heartbeats and log lines are worth nothing later.
        let queue_type = if tap == Tap::Events { QueueType::Quorum } else { QueueType::Classic };
        self.queue(&queue, queue_type);
        let exchange = match tap {
            Tap::Events => keys::EVENTS,
            Tap::Health => keys::HEALTH,
            Tap::Logs => keys::LOGS,
            Tap::Audit => keys::AUDIT,
        };
        self.bind(exchange, &queue, "#");
    }

    fn outside(&mut self, o: &OutsidePublisher, contracts: &[Contract]) {
        let slug = o.name.slug();
        let egress = self.egress(&slug, &o.says, contracts);
        let mut granted: Vec<String> = o.says.iter().flat_map(|t| keys_of(t, contracts)).map(|k| escape(&k)).collect();
        if o.hears_all {
            let queue = keys::tap_queue(&slug, Tap::Events.as_str());
            self.queue(&queue, QueueType::Quorum);
            self.bind(keys::EVENTS, &queue, "#");
        }
        let (mut configure, mut write, mut read) =
            ("^$".to_owned(), exactly(std::slice::from_ref(&egress)), format!(r"^{slug}\.tap\.[a-z]+$"));
        if o.operator {
            self.binding(&egress, keys::EVENTS, DestinationType::Exchange, "to.*.control.*");
            granted.extend([r"to\.[^.]+\.control\.[^.]+".into(), r"requeue\.[^.]+".into()]);
            configure = format!(r"^tmp\.{slug}\..*$");
            write = format!(r"^({}|tmp\.{slug}\..*)$", escape(&egress));
            // By name: a pattern for all dead letters would fit the exchange `lota.dead` too.
            let dead = contracts.iter().map(|c| escape(&keys::dead_queue(&c.name.slug())));
            let names: Vec<String> = ["unrouted".to_owned()].into_iter().chain(dead).collect();
            read = format!(r"^(lota\.(events|health|logs|audit)|tmp\.{slug}\..*|{})$", names.join("|"));
        }
        let mut topic_permissions =
            vec![TopicPermission { exchange: egress, write: format!("^({})$", granted.join("|")), read: "^$".into() }];
        if o.operator {
            topic_permissions.extend(
                [keys::EVENTS, keys::HEALTH, keys::LOGS, keys::AUDIT].map(|tap| TopicPermission {
                    exchange: tap.to_owned(),
                    write: "^$".into(),
                    read: ".*".into(),
                }),
            );
        }
        self.users.push(User {
            name: slug,
            configure,
            write,
            read,
            topic_permissions,
            tags: Vec::new(),
            max_connections: Some(o.max_connections.unwrap_or(64)),
            max_channels: Some(o.max_channels.unwrap_or(256)),
        });
    }

    fn finish(self) -> Topology {
        Topology {
            vhost: keys::VHOST.to_owned(),
            exchanges: self.exchanges.into_iter().collect(),
            queues: self.queues.into_iter().collect(),
            bindings: self.bindings.into_iter().collect(),
            policies: self.policies.into_values().collect(),
            users: self.users,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Category;

    fn bot(name: &str, hears: &[&str], says: &[&str]) -> Contract {
        let own = |l: &[&str]| l.iter().map(ToString::to_string).collect();
        Contract { hears: own(hears), says: own(says), ..Contract::new(name.parse().unwrap(), Category::Development) }
    }

    fn work_keys(t: &Topology, source: &str, queue: &str) -> Vec<String> {
        let hits = t.bindings.iter().filter(|b| b.source == source && b.destination == queue);
        hits.map(|b| b.routing_key.clone()).collect()
    }

    #[test]
    fn a_work_queue_is_bound_only_to_what_one_says_and_the_other_hears() {
        let bots = [
            bot("BuildBot", &["repository.pushed"], &["build.completed"]),
            bot("LintBot", &["build.completed"], &["alert.triggered"]),
            bot("DeployBot", &["deploy.requested", "build.completed"], &["deploy.completed"]),
        ];
        let t = Topology::new(&bots, &[]).unwrap();
        assert_eq!(work_keys(&t, "lota.egress.build-bot", "deploy-bot.work"), ["build.completed"]);
        assert!(work_keys(&t, "lota.egress.lint-bot", "deploy-bot.work").is_empty());
        assert_eq!(
            work_keys(&t, "lota.egress.operator", "deploy-bot.work"),
            ["deploy.requested", "requeue.deploy-bot"]
        );
        assert_eq!(work_keys(&t, "lota.requeue", "build-bot.work"), ["requeue.build-bot"]);
    }

    #[test]
    fn no_shared_exchange_leads_to_a_work_queue_except_requeue() {
        let bots =
            [bot("BuildBot", &["repository.pushed"], &["build.completed"]), bot("TestBot", &["build.completed"], &[])];
        let t = Topology::new(&bots, &[]).unwrap();
        for b in t.bindings.iter().filter(|b| b.destination.ends_with(".work")) {
            assert!(b.source.starts_with("lota.egress.") || b.source == "lota.requeue", "{b:?}");
            assert!(!b.routing_key.contains(['#', '*']), "{b:?}");
        }
        // Nothing but taps and the dead-letter exchange is reached from an egress exchange.
        for b in t.bindings.iter().filter(|b| b.destination_type == DestinationType::Exchange) {
            assert!(
                ["lota.events", "lota.health", "lota.logs", "lota.audit"].contains(&b.destination.as_str()),
                "{b:?}"
            );
        }
    }

    #[test]
    fn a_bot_may_read_and_write_only_its_own() {
        let t = Topology::new(&[bot("LintBot", &["build.completed"], &["alert.triggered"])], &[]).unwrap();
        let user = t.users.iter().find(|u| u.name == "lint-bot").unwrap();
        assert_eq!((user.configure.as_str(), user.write.as_str()), ("^$", r"^(lota\.egress\.lint-bot)$"));
        assert!(!user.topic_permissions[0].write.contains("deploy"), "{user:?}");
    }

    #[test]
    fn a_grant_of_an_unknown_type_is_refused_with_the_nearest() {
        let outside = OutsidePublisher::new("ci".parse().unwrap(), &["deploy.request"]);
        let error = Topology::new(&[], &[outside]).unwrap_err().to_string();
        assert!(error.contains("did you mean `deploy.requested`"), "{error}");
    }
}
