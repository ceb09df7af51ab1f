//! What an older release left behind, taken over by this one: its stores as a crash would leave them, its messages still in
//! the queues, its objects and configuration. And the other way round, while a fleet is replaced bot by bot: what this
//! release says is what the older one understands.
//!
//! Each folder beside this file is a release. `make upgrade-record` writes the one of the version in Cargo.toml.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests look at the machine from outside, and a broken assumption ends them"
)]

mod record;
mod release;
mod schemas;
mod takeover;
