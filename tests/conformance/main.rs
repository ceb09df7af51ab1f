//! What the core promises to every bot, shown with a toy bot as a process of its own on a real RabbitMQ; and what DeployBot
//! makes of it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a broken assumption ends the test"
)]

mod broker;
mod crashes;
mod dead_letters;
mod deployments;
mod ears;
mod fencing;
mod forgeries;
mod jobs;
mod limits;
mod outages;
mod outcomes;
mod places;
mod promises;
mod rates;
mod replicas;
mod schedules;
mod stage;
mod suite;
mod traces;
mod traffic;
mod watchdog;
