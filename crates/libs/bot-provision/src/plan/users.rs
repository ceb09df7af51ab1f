//! The users' part of a plan: who exists, with which rights, keys and limits.

use std::collections::{BTreeMap, BTreeSet};

use bot_messages::topology::{Topology, User};

use super::{Step, Work, different, missing, unexpected};
use crate::Passwords;
use crate::management_types::{Permission, TopicPermissionInfo, UserInfo, UserLimits};
use crate::password::{HASHING, matches_rabbit_hash};
use crate::snapshot::Snapshot;

pub(super) fn change(wanted: &Topology, found: &Snapshot, passwords: Option<Passwords<'_>>, steps: &mut Vec<Step>) {
    for user in &wanted.users {
        if user.name == found.own_user {
            continue;
        }
        account(user, found, passwords, steps);
        // Before the permission: a new user must not write with any key for a moment.
        topics(&wanted.vhost, user, found, steps);
        permission(&wanted.vhost, user, found, steps);
        limits(user, found, steps);
    }
    revoke_others(wanted, found, steps);
}

fn account(user: &User, found: &Snapshot, passwords: Option<Passwords<'_>>, steps: &mut Vec<Step>) {
    let what = format!("user {}", user.name);
    let work = Work::PutUser { name: user.name.clone(), tags: user.tags.clone() };
    let Some(there) = found.users.iter().find(|there| there.name == user.name) else {
        steps.push(missing(what, work));
        return;
    };
    let tags = |tags: &[String]| tags.iter().cloned().collect::<BTreeSet<String>>();
    if tags(&there.tags) != tags(&user.tags) {
        let detail = format!("tags {:?}; should be {:?}", there.tags, user.tags);
        steps.push(different(what, detail, work));
    } else if passwords.is_some_and(|passwords| !has_password(there, passwords)) {
        steps.push(different(what, "another password".to_owned(), work));
    }
}

fn has_password(there: &UserInfo, passwords: Passwords<'_>) -> bool {
    let ours = there.hashing_algorithm.as_deref().is_none_or(|algorithm| algorithm == HASHING);
    let hash = there.password_hash.as_deref().unwrap_or_default();
    ours && matches_rabbit_hash(&passwords(&there.name), hash)
}

fn topics(vhost: &str, user: &User, found: &Snapshot, steps: &mut Vec<Step>) {
    let of_user = |there: &&TopicPermissionInfo| there.user == user.name && there.vhost == vhost;
    let there: BTreeMap<&str, &TopicPermissionInfo> =
        found.topic_permissions.iter().filter(of_user).map(|there| (there.exchange.as_str(), there)).collect();
    let wanted: Vec<TopicPermissionInfo> = user
        .topic_permissions
        .iter()
        .map(|topic| TopicPermissionInfo {
            user: user.name.clone(),
            vhost: vhost.to_owned(),
            exchange: topic.exchange.clone(),
            write: topic.write.clone(),
            read: topic.read.clone(),
        })
        .collect();
    let words = |exchange: &str| format!("topic permission of {} on {exchange}", user.name);
    for exchange in there.keys().filter(|&&name| !wanted.iter().any(|topic| topic.exchange == name)) {
        let work = Work::ResetTopicPermissions { user: user.name.clone(), wanted: wanted.clone() };
        steps.push(unexpected(words(exchange), work));
    }
    for topic in wanted {
        let what = words(&topic.exchange);
        match there.get(topic.exchange.as_str()) {
            None => steps.push(missing(what, Work::PutTopicPermission(topic))),
            Some(&other) if *other != topic => {
                let (write, read) = (&other.write, &other.read);
                let detail =
                    format!("write {write}, read {read}; should be write {}, read {}", topic.write, topic.read);
                steps.push(different(what, detail, Work::PutTopicPermission(topic)));
            }
            Some(_) => {}
        }
    }
}

fn permission(vhost: &str, user: &User, found: &Snapshot, steps: &mut Vec<Step>) {
    let what = format!("permission of {}", user.name);
    let wanted = Permission {
        user: user.name.clone(),
        vhost: vhost.to_owned(),
        configure: user.configure.clone(),
        write: user.write.clone(),
        read: user.read.clone(),
    };
    let there = found.permissions.iter().find(|there| there.user == user.name && there.vhost == vhost);
    let words = |permission: &Permission| {
        format!("configure {}, write {}, read {}", permission.configure, permission.write, permission.read)
    };
    match there {
        None => steps.push(missing(what, Work::PutPermission(wanted))),
        Some(there) if *there != wanted => {
            let detail = format!("{}; should be {}", words(there), words(&wanted));
            steps.push(different(what, detail, Work::PutPermission(wanted)));
        }
        Some(_) => {}
    }
}

fn limits(user: &User, found: &Snapshot, steps: &mut Vec<Step>) {
    let wanted = UserLimits { max_connections: user.max_connections, max_channels: user.max_channels };
    let there = found.limits_of(&user.name);
    if there == wanted {
        return;
    }
    let what = format!("limits of {}", user.name);
    let words = |limits: UserLimits| {
        let number = |limit: Option<u32>| limit.map_or("any number of".to_owned(), |limit| limit.to_string());
        format!("{} connections, {} channels", number(limits.max_connections), number(limits.max_channels))
    };
    let work = Work::PutLimits { user: user.name.clone(), limits: wanted };
    if there == UserLimits::default() {
        steps.push(missing(what, work));
    } else {
        steps.push(different(what, format!("{}; should be {}", words(there), words(wanted)), work));
    }
}

/// Whoever else may do something in the vhost. Administrators are people's or the node's own, and stay.
fn revoke_others(wanted: &Topology, found: &Snapshot, steps: &mut Vec<Step>) {
    for permission in found.permissions.iter().filter(|permission| permission.vhost == wanted.vhost) {
        let name = &permission.user;
        let is_wanted = wanted.users.iter().any(|user| user.name == *name);
        let tags = found.users.iter().find(|user| user.name == *name).map(|user| user.tags.as_slice());
        let is_admin = tags.unwrap_or_default().iter().any(|tag| tag == "administrator");
        if is_wanted || is_admin || *name == found.own_user {
            continue;
        }
        let elsewhere = found.permissions.iter().any(|other| other.user == *name && other.vhost != wanted.vhost);
        let step = if elsewhere {
            unexpected(format!("permission of {name}"), Work::DeletePermission(name.clone()))
        } else {
            unexpected(format!("user {name}"), Work::DeleteUser(name.clone()))
        };
        steps.push(step);
    }
}
