//! The difference between a topology and what a vhost holds, as steps in the order they must be taken. Pure: reading
//! is in `snapshot.rs`, doing in `apply.rs`.

mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bot_messages::topology::{Binding, DestinationType, Exchange, Policy, Queue, QueueType, Topology};
use serde::Serialize;

use crate::Passwords;
use crate::management_types::{
    BindingInfo, Destination, ExchangeInfo, Permission, PolicyInfo, QueueInfo, TopicPermissionInfo, UserLimits,
};
use crate::snapshot::Snapshot;

/// What was done about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action", content = "why")]
pub enum Action {
    Created,
    Updated,
    Removed,
    /// So many messages were taken out of it, to the queue `unrouted`.
    Moved(u64),
    /// So many messages were thrown away: heartbeats, log lines, what observers had not taken.
    Dropped(u64),
    /// It should have gone or changed, and was left for this reason.
    Kept(String),
}

/// One thing that was changed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    #[serde(flatten)]
    pub action: Action,
    /// Such as `queue build-bot.work`.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Created => write!(f, "created {}", self.what),
            Action::Updated => write!(f, "updated {}", self.what),
            Action::Removed => write!(f, "removed {}", self.what),
            Action::Moved(count) => write!(f, "moved {count} messages of {} to the queue unrouted", self.what),
            Action::Dropped(count) => {
                write!(f, "dropped {count} messages of {}, which is for what may be lost", self.what)
            }
            Action::Kept(why) => write!(f, "kept {}: {why}", self.what),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    Missing,
    Different,
    Unexpected,
}

/// One thing in which the broker is not what the topology says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    pub kind: DriftKind,
    /// Such as `binding lota.egress.build-bot -[build.completed]-> queue test-bot.work`.
    pub what: String,
    /// For different ones, what is there and what should be; else empty.
    pub detail: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DriftKind::Missing => write!(f, "missing: {}", self.what),
            DriftKind::Different => write!(f, "different: {} ({})", self.what, self.detail),
            DriftKind::Unexpected => write!(f, "unexpected: {}", self.what),
        }
    }
}

/// A difference and what ends it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) drift: Drift,
    pub(crate) work: Work,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    CreateVhost,
    PutExchange {
        name: String,
        internal: bool,
    },
    RecreateExchange {
        name: String,
        internal: bool,
    },
    PutQueue {
        name: String,
        kind: &'static str,
    },
    /// Only if it is empty.
    RecreateQueue {
        name: String,
        kind: &'static str,
    },
    PutPolicy(PolicyInfo),
    PutBinding(Binding),
    DeleteBinding(BindingInfo),
    /// Only if it is empty.
    RemoveQueue(String),
    DeleteExchange(String),
    DeletePolicy(String),
    PutUser {
        name: String,
        tags: Vec<String>,
    },
    /// Clears all topic permissions of the user and sets these again.
    ResetTopicPermissions {
        user: String,
        wanted: Vec<TopicPermissionInfo>,
    },
    PutTopicPermission(TopicPermissionInfo),
    PutPermission(Permission),
    PutLimits {
        user: String,
        limits: UserLimits,
    },
    DeleteUser(String),
    DeletePermission(String),
    Leave(&'static str),
}

/// Empty: the broker holds what it should. Passwords are compared where `passwords` is given.
pub(crate) fn plan(wanted: &Topology, found: &Snapshot, passwords: Option<Passwords<'_>>) -> Vec<Step> {
    let mut steps = Vec::new();
    if !found.vhost_exists {
        steps.push(missing(format!("vhost {}", wanted.vhost), Work::CreateVhost));
    }
    put_exchanges(wanted, found, &mut steps);
    put_queues(wanted, found, &mut steps);
    put_policies(wanted, found, &mut steps);
    change_bindings(wanted, found, &mut steps);
    remove_the_rest(wanted, found, &mut steps);
    users::change(wanted, found, passwords, &mut steps);
    steps
}

fn put_exchanges(wanted: &Topology, found: &Snapshot, steps: &mut Vec<Step>) {
    let there = by_name(&found.exchanges, |exchange| &exchange.name);
    for Exchange { name, internal } in &wanted.exchanges {
        let what = format!("exchange {name}");
        let (name, internal) = (name.clone(), *internal);
        match there.get(name.as_str()) {
            None => steps.push(missing(what, Work::PutExchange { name, internal })),
            Some(exchange) => {
                if let Some(detail) = exchange_differs(exchange, internal) {
                    steps.push(different(what, detail, Work::RecreateExchange { name, internal }));
                }
            }
        }
    }
}

fn exchange_differs(there: &ExchangeInfo, internal: bool) -> Option<String> {
    let as_wanted = there.kind == "topic"
        && there.durable
        && !there.auto_delete
        && there.internal == internal
        && there.arguments.is_empty();
    let wanted = if internal { "internal, " } else { "" };
    (!as_wanted).then(|| {
        format!(
            "type {}, durable {}, auto_delete {}, internal {}, {} arguments; should be {wanted}durable topic without \
             arguments",
            there.kind,
            there.durable,
            there.auto_delete,
            there.internal,
            there.arguments.len()
        )
    })
}

fn put_queues(wanted: &Topology, found: &Snapshot, steps: &mut Vec<Step>) {
    let there = by_name(&found.queues, |queue| &queue.name);
    for Queue { name, queue_type } in &wanted.queues {
        let what = format!("queue {name}");
        let name = name.clone();
        let kind = match queue_type {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        };
        match there.get(name.as_str()) {
            None => steps.push(missing(what, Work::PutQueue { name, kind })),
            Some(queue) => {
                if let Some(detail) = queue_differs(queue, kind) {
                    steps.push(different(what, detail, Work::RecreateQueue { name, kind }));
                }
            }
        }
    }
}

fn queue_differs(there: &QueueInfo, kind: &str) -> Option<String> {
    let argument = there.arguments.get("x-queue-type").and_then(|value| value.as_str());
    // A queue whose node is down has no `type`; its argument says what it is.
    let there_kind = there.kind.as_deref().or(argument).unwrap_or("classic");
    let others: Vec<&str> = there.arguments.keys().map(String::as_str).filter(|&key| key != "x-queue-type").collect();
    let as_wanted = there_kind == kind && there.durable && !there.auto_delete && !there.exclusive && others.is_empty();
    (!as_wanted).then(|| {
        let lasting = if there.durable && !there.auto_delete && !there.exclusive { "durable" } else { "not lasting" };
        format!("{lasting} {there_kind} with arguments [{}]; should be durable {kind} without", others.join(", "))
    })
}

fn put_policies(wanted: &Topology, found: &Snapshot, steps: &mut Vec<Step>) {
    let there = by_name(&found.policies, |policy| &policy.name);
    for policy in &wanted.policies {
        let Policy { name, pattern, apply_to, priority, definition } = policy.clone();
        let what = format!("policy {name}");
        let policy = PolicyInfo { name, pattern, apply_to, priority, definition };
        match there.get(policy.name.as_str()) {
            None => steps.push(missing(what, Work::PutPolicy(policy))),
            Some(&other) if *other != policy => {
                let detail = format!("{}; should be {}", policy_words(other), policy_words(&policy));
                steps.push(different(what, detail, Work::PutPolicy(policy)));
            }
            Some(_) => {}
        }
    }
}

fn policy_words(policy: &PolicyInfo) -> String {
    let definition = serde_json::Value::Object(policy.definition.clone());
    format!("{} {} priority {} {definition}", policy.apply_to, policy.pattern, policy.priority)
}

/// The broker lets nobody else touch an exclusive queue, nor what is bound to it.
const OF_A_CONNECTION: &str = "it belongs to one connection and ends with it";

type BindingKey<'a> = (&'a str, Destination, &'a str, &'a str);

fn change_bindings(wanted: &Topology, found: &Snapshot, steps: &mut Vec<Step>) {
    let plain = |binding: &&BindingInfo| binding.arguments.is_empty();
    let there: BTreeSet<BindingKey<'_>> = found.bindings.iter().filter(plain).map(key_found).collect();
    for binding in &wanted.bindings {
        if !there.contains(&key_wanted(binding)) {
            steps.push(missing(words(key_wanted(binding)), Work::PutBinding(binding.clone())));
        }
    }
    let keys: BTreeSet<BindingKey<'_>> = wanted.bindings.iter().map(key_wanted).collect();
    let of_connections: BTreeSet<&str> =
        found.queues.iter().filter(|queue| queue.exclusive).map(|queue| queue.name.as_str()).collect();
    for binding in &found.bindings {
        // Every queue is bound to the exchange without a name; that one belongs to the broker.
        let of_the_broker = binding.source.is_empty();
        let passing = binding.destination_type == Destination::Queue && is_passing_name(&binding.destination);
        if of_the_broker || passing || (plain(&binding) && keys.contains(&key_found(binding))) {
            continue;
        }
        let to_queue = binding.destination_type == Destination::Queue;
        let work = if to_queue && of_connections.contains(binding.destination.as_str()) {
            Work::Leave(OF_A_CONNECTION)
        } else {
            Work::DeleteBinding(binding.clone())
        };
        steps.push(unexpected(words(key_found(binding)), work));
    }
}

fn remove_the_rest(wanted: &Topology, found: &Snapshot, steps: &mut Vec<Step>) {
    let queues: BTreeSet<&str> = wanted.queues.iter().map(|queue| queue.name.as_str()).collect();
    for queue in &found.queues {
        let name = queue.name.as_str();
        if queues.contains(name) || is_passing_name(name) {
            continue;
        }
        let work = if queue.exclusive { Work::Leave(OF_A_CONNECTION) } else { Work::RemoveQueue(name.to_owned()) };
        steps.push(unexpected(format!("queue {name}"), work));
    }
    let exchanges: BTreeSet<&str> = wanted.exchanges.iter().map(|exchange| exchange.name.as_str()).collect();
    for ExchangeInfo { name, .. } in &found.exchanges {
        if !(name.is_empty() || name.starts_with("amq.") || exchanges.contains(name.as_str())) {
            steps.push(unexpected(format!("exchange {name}"), Work::DeleteExchange(name.clone())));
        }
    }
    let policies: BTreeSet<&str> = wanted.policies.iter().map(|policy| policy.name.as_str()).collect();
    for PolicyInfo { name, .. } in &found.policies {
        if !policies.contains(name.as_str()) {
            steps.push(unexpected(format!("policy {name}"), Work::DeletePolicy(name.clone())));
        }
    }
}

/// Queues that operators declare for a moment, to watch.
fn is_passing_name(queue: &str) -> bool {
    queue.starts_with("tmp.")
}

fn by_name<T>(items: &[T], name: impl Fn(&T) -> &String) -> BTreeMap<&str, &T> {
    items.iter().map(|item| (name(item).as_str(), item)).collect()
}

pub(crate) fn destination_of(binding: &Binding) -> Destination {
    match binding.destination_type {
        DestinationType::Queue => Destination::Queue,
        DestinationType::Exchange => Destination::Exchange,
    }
}

fn key_wanted(binding: &Binding) -> BindingKey<'_> {
    (&binding.source, destination_of(binding), &binding.destination, &binding.routing_key)
}

fn key_found(binding: &BindingInfo) -> BindingKey<'_> {
    (&binding.source, binding.destination_type, &binding.destination, &binding.routing_key)
}

fn words((source, destination_type, destination, key): BindingKey<'_>) -> String {
    let kind = match destination_type {
        Destination::Queue => "queue",
        Destination::Exchange => "exchange",
    };
    format!("binding {source} -[{key}]-> {kind} {destination}")
}

fn step(kind: DriftKind, what: String, detail: String, work: Work) -> Step {
    Step { drift: Drift { kind, what, detail }, work }
}

fn missing(what: String, work: Work) -> Step {
    step(DriftKind::Missing, what, String::new(), work)
}

fn different(what: String, detail: String, work: Work) -> Step {
    step(DriftKind::Different, what, detail, work)
}

fn unexpected(what: String, work: Work) -> Step {
    step(DriftKind::Unexpected, what, String::new(), work)
}

#[cfg(test)]
mod tests;
