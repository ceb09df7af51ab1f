//! What people do with a fleet, one story a file, on real parts: RabbitMQ, git, processes, HTTP.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests look at the machine from outside, and a broken assumption ends them"
)]

mod canary;
mod container;
mod credentials;
mod dead_letters;
mod demo;
mod deployments;
mod environments;
mod fixtures;
mod flaky_tests;
mod full_disk;
mod interrupted;
mod killed_bots;
mod one_bot;
mod outage;
mod plain_client;
mod polling;
mod push_by_path;
mod rerun;

mod retry;
mod s3;
mod ssh_target;
mod steering;
