//! Plans worked out from data alone; with a broker, see `tests/node.rs`.

use crate::password::rabbit_hash;
use bot_messages::topology::{TopicPermission, User};
use serde_json::{Map, json};

use super::*;
use crate::Secret;
use crate::management_types::UserInfo;

fn topology() -> Topology {
    Topology {
        vhost: "lota".into(),
        exchanges: vec![Exchange { name: "lota.egress.a".into(), internal: false }],
        queues: vec![Queue { name: "b.work".into(), queue_type: QueueType::Quorum }],
        bindings: vec![Binding {
            source: "lota.egress.a".into(),
            destination: "b.work".into(),
            destination_type: DestinationType::Queue,
            routing_key: "build.completed".into(),
        }],
        policies: vec![Policy {
            name: "work".into(),
            pattern: "work$".into(),
            apply_to: "queues".into(),
            priority: 1,
            definition: Map::from_iter([("delivery-limit".to_owned(), json!(1000))]),
        }],
        users: vec![User {
            name: "a".into(),
            configure: "^$".into(),
            write: "^lota\\.egress\\.a$".into(),
            read: "^$".into(),
            topic_permissions: vec![TopicPermission {
                exchange: "lota.egress.a".into(),
                write: "^build\\.".into(),
                read: "^$".into(),
            }],
            tags: vec![],
            max_connections: Some(4),
            max_channels: None,
        }],
    }
}

/// A broker that holds exactly [`topology`].
fn as_wanted() -> Snapshot {
    let topology = topology();
    Snapshot {
        vhost_exists: true,
        exchanges: vec![
            ExchangeInfo { name: "lota.egress.a".into(), kind: "topic".into(), durable: true, ..Default::default() },
            ExchangeInfo { name: "amq.topic".into(), kind: "topic".into(), durable: true, ..Default::default() },
        ],
        queues: vec![queue("b.work", "quorum"), queue("tmp.operator.1", "classic")],
        bindings: vec![
            binding("", "b.work", "b.work"),
            binding("lota.egress.a", "b.work", "build.completed"),
            binding("lota.events", "tmp.operator.1", "#"),
        ],
        policies: vec![PolicyInfo {
            name: "work".into(),
            pattern: "work$".into(),
            apply_to: "queues".into(),
            priority: 1,
            definition: topology.policies[0].definition.clone(),
        }],
        ..users_as_wanted(&topology.users[0])
    }
}

fn users_as_wanted(user: &User) -> Snapshot {
    Snapshot {
        users: vec![
            UserInfo { name: "a".into(), password_hash: Some(rabbit_hash(&Secret::new("pw"))), ..Default::default() },
            UserInfo { name: "root".into(), tags: vec!["administrator".into()], ..Default::default() },
        ],
        permissions: vec![
            Permission {
                user: "a".into(),
                vhost: "lota".into(),
                configure: user.configure.clone(),
                write: user.write.clone(),
                read: user.read.clone(),
            },
            Permission { user: "root".into(), vhost: "lota".into(), ..Default::default() },
        ],
        topic_permissions: vec![TopicPermissionInfo {
            user: "a".into(),
            vhost: "lota".into(),
            exchange: "lota.egress.a".into(),
            write: "^build\\.".into(),
            read: "^$".into(),
        }],
        limits: vec![("a".into(), UserLimits { max_connections: Some(4), max_channels: None })],
        own_user: "root".into(),
        ..Default::default()
    }
}

fn queue(name: &str, kind: &str) -> QueueInfo {
    QueueInfo {
        name: name.into(),
        kind: Some(kind.into()),
        durable: true,
        arguments: Map::from_iter([("x-queue-type".to_owned(), json!(kind))]),
        ..Default::default()
    }
}

fn binding(source: &str, queue: &str, key: &str) -> BindingInfo {
    BindingInfo {
        source: source.into(),
        destination: queue.into(),
        routing_key: key.into(),
        properties_key: key.into(),
        ..Default::default()
    }
}

fn drift(found: &Snapshot) -> Vec<String> {
    plan(&topology(), found, Some(&|_| Secret::new("pw"))).iter().map(|step| step.drift.to_string()).collect()
}

#[test]
fn what_is_as_wanted_gives_no_step() {
    assert_eq!(drift(&as_wanted()), [""; 0]);
}

#[test]
fn an_empty_broker_gets_everything_in_order() {
    let found = Snapshot { own_user: "root".into(), ..Default::default() };
    assert_eq!(
        drift(&found),
        [
            "missing: vhost lota",
            "missing: exchange lota.egress.a",
            "missing: queue b.work",
            "missing: policy work",
            "missing: binding lota.egress.a -[build.completed]-> queue b.work",
            "missing: user a",
            "missing: topic permission of a on lota.egress.a",
            "missing: permission of a",
            "missing: limits of a",
        ]
    );
}

#[test]
fn what_is_not_wanted_goes_bindings_first() {
    let mut found = as_wanted();
    found.queues.push(queue("old.work", "quorum"));
    found.queues.push(QueueInfo { exclusive: true, ..queue("mine", "classic") });
    found.bindings.push(binding("lota.egress.a", "old.work", "build.#"));
    found.exchanges.push(ExchangeInfo { name: "lota.egress.old".into(), ..Default::default() });
    found.permissions.push(Permission { user: "old".into(), vhost: "lota".into(), ..Default::default() });
    for vhost in ["lota", "other"] {
        found.permissions.push(Permission { user: "shared".into(), vhost: vhost.into(), ..Default::default() });
    }
    assert_eq!(
        drift(&found),
        [
            "unexpected: binding lota.egress.a -[build.#]-> queue old.work",
            "unexpected: queue old.work",
            "unexpected: queue mine",
            "unexpected: exchange lota.egress.old",
            "unexpected: user old",
            "unexpected: permission of shared",
        ]
    );
}

#[test]
fn what_differs_is_told_with_both_sides() {
    let mut found = as_wanted();
    found.queues[0] = queue("b.work", "classic");
    found.policies[0].priority = 7;
    found.permissions[0].write = ".*".into();
    found.users[0].password_hash = Some(rabbit_hash(&Secret::new("old")));
    assert_eq!(
        drift(&found),
        [
            "different: queue b.work (durable classic with arguments []; should be durable quorum without)",
            "different: policy work (queues work$ priority 7 {\"delivery-limit\":1000}; should be queues work$ priority \
             1 {\"delivery-limit\":1000})",
            "different: user a (another password)",
            "different: permission of a (configure ^$, write .*, read ^$; should be configure ^$, write \
             ^lota\\.egress\\.a$, read ^$)",
        ]
    );
}

#[test]
fn a_binding_with_arguments_is_another_binding() {
    let mut found = as_wanted();
    found.bindings[1].arguments.insert("x".into(), json!(1));
    assert_eq!(
        drift(&found),
        [
            "missing: binding lota.egress.a -[build.completed]-> queue b.work",
            "unexpected: binding lota.egress.a -[build.completed]-> queue b.work",
        ]
    );
}

#[test]
fn a_topic_permission_too_many_resets_the_users() {
    let mut found = as_wanted();
    let other = TopicPermissionInfo { exchange: "amq.topic".into(), ..found.topic_permissions[0].clone() };
    found.topic_permissions.push(other);
    let steps = plan(&topology(), &found, None);
    assert_eq!(steps.len(), 1);
    assert!(matches!(&steps[0].work, Work::ResetTopicPermissions { wanted, .. } if wanted.len() == 1));
}

#[test]
fn what_belongs_to_a_connection_is_left_with_its_bindings() {
    let mut found = as_wanted();
    found.queues.push(QueueInfo { exclusive: true, ..queue("mine", "classic") });
    found.bindings.push(binding("lota.egress.a", "mine", "build.#"));
    let steps = plan(&topology(), &found, Some(&|_| Secret::new("pw")));
    let work: Vec<Work> = steps.into_iter().map(|step| step.work).collect();
    assert_eq!(work, [Work::Leave(OF_A_CONNECTION), Work::Leave(OF_A_CONNECTION)]);
}
