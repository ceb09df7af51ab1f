//! A bot's durable memory: inbox, outbox, jobs, timers, state and job steps, changed in one transaction.
//!
//! `SQLite` in a directory of the bot's own (0700, files 0600), WAL, `synchronous=FULL`; commits that arrive together
//! share one fsync. One process holds a store: a second one is refused.

mod model;
mod sqlite;

pub use model::{
    Claimed, Commit, Committed, Guard, InboxEntry, InboxKey, InboxMark, JobEnd, JobOutcome, JobStatus, JobView,
    KnownJob, NewJob, NewTimer, Outgoing, Queued, Renewed, StateWrite, StoreError, Timer,
};
pub use sqlite::{Counts, Store, StoreOptions};
