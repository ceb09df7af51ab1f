//! What a fleet stands on: packages unpacked without root, RabbitMQ in private nodes or in a
//! container, and the topology applied
//! through the management API. Nothing here reads environment variables or prints: callers hand in paths and
//! a place for progress lines.

#![allow(clippy::doc_markdown, reason = "RabbitMQ and NAMES_IN_CAPITALS of its environment are names, not code")]

mod apply;
mod certs;
mod command;
mod container;
mod debs;
mod lock;
mod management;
mod management_types;
mod node;
mod password;
mod plan;
mod ports;
mod ready;
mod settings;
mod snapshot;

pub use apply::{ApplyError, ApplyOptions, apply, verify};
pub use bot_secrets::Secret;
pub use certs::{Authority, CertError, Identity, Purpose};
pub use container::{Container, ContainerError, ContainerOptions};
pub use debs::{Bundle, DebsError, PackageCache, library_path};
pub use management::{Management, ManagementError};
pub use management_types::{
    BindingInfo, ConnectionInfo, Destination, ExchangeInfo, MessageGot, Overview, Permission, PolicyInfo, QueueInfo,
    QueueMembers, TopicPermissionInfo, UserInfo, UserLimits,
};
pub use node::{Cluster, Installation, Node, NodeError, NodeOptions, NodePorts, NodeRecord, NodeTls, ProcessId};
pub use plan::{Action, Change, Drift, DriftKind};
pub use ports::{PortError, free_port, free_ports, is_free};

/// Where progress lines go: short, for people, at least one every few seconds while something runs.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// The password of a topology's user, by name.
pub type Passwords<'a> = &'a (dyn Fn(&str) -> Secret + Send + Sync);
