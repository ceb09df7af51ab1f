//! A bot's durable memory: inbox, outbox, jobs, timers, state and job steps, changed in one transaction.
//!
//! In `SQLite` one process holds it; in PostgreSQL all replicas of a bot share it. Commits that arrive together share one
//! transaction.
#![allow(clippy::doc_markdown, reason = "PostgreSQL is a name, not code")]

mod directory;
mod line;
mod model;
mod operation;
mod postgres;
mod signals;
mod sqlite;
mod store;
mod value;

pub use model::{
    Claimed, Commit, Committed, Counts, Guard, InboxEntry, InboxKey, InboxMark, JobEnd, JobOutcome, JobStatus, JobView,
    KnownJob, NewJob, NewTimer, Outgoing, Queued, Renewed, StateWrite, StoreError, Timer,
};
pub use postgres::{PostgresOptions, StoreLogin, apply_stores};
pub use store::{Store, StoreOptions};
