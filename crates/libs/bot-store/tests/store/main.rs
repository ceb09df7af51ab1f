//! What a store promises, tried from outside. One binary, so that `SQLite` is linked once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop loudly")]

mod answers;
mod crash;
mod deliveries;
mod files;
mod fixture;
mod full;
mod group;
mod jobs;
mod leases;
mod model;
mod outbox;
mod timers;
mod turns;
mod upkeep;
