//! What a store promises, tried from outside. One binary, so that `SQLite` is linked once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop loudly")]
#![allow(clippy::duplicate_mod, reason = "the suite is compiled for each database")]
#![allow(clippy::doc_markdown, reason = "PostgreSQL is a name, not code")]

mod crash;
mod deliveries;
mod files;
mod fixture;
mod full;
mod leases;
mod on_postgres;
mod on_sqlite;
mod replicas;
