//! Starting and stopping a fleet on this machine.

mod applications;
mod bots;
mod broker;
mod credentials;
mod defaults;
mod demo;
mod demo_app;
mod doctor;
mod down;
pub(crate) mod environment;
mod fleet;
mod lock;
mod logs;
mod own_broker;
mod provision;
mod ready;
mod say;
mod start;
mod stop;
mod stores;
mod supervise;
mod tls;
pub(crate) mod topology;

pub(crate) use bots::{Member, allowed, config, has_programs, members};
pub(crate) use credentials::{CredentialsArgs, credentials};
pub(crate) use demo::{DemoArgs, demo};
pub(crate) use doctor::{doctor, fetch};
pub(crate) use down::{DownArgs, down};
pub(crate) use fleet::bubblewrap;
pub(crate) use provision::{ProvisionArgs, provision};
pub(crate) use start::{BROKER_HELP, UpArgs, up};
pub(crate) use stop::Stop;
pub(crate) use stores::{StoresArgs, stores};
pub(crate) use tls::{CertsArgs, certs};
pub(crate) use topology::{TopologyArgs, topology};
