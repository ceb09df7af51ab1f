//! Starting and stopping a fleet on this machine.

mod broker;
mod defaults;
mod demo;
mod demo_app;
mod doctor;
mod down;
mod environment;
mod start;
mod supervise;
mod topology;

pub(crate) use demo::{DemoArgs, demo};
pub(crate) use doctor::{doctor, fetch};
pub(crate) use down::{DownArgs, down};
pub(crate) use start::{UpArgs, up};
pub(crate) use topology::{TopologyArgs, topology};

/// The programs of a fleet, by slug: what `lota up` starts beside the broker.
pub(crate) const BOTS: [(&str, &str); 4] =
    [("build-bot", "build-bot"), ("test-bot", "test-bot"), ("deploy-bot", "deploy-bot"), ("monitor-bot", "monitor")];
