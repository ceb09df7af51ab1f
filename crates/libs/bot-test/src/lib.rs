//! What tests share: a job's context in memory, and bots in conversation without a broker. A dev-dependency only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::must_use_candidate,
    reason = "test support: a broken assumption ends the test"
)]

mod conversation;
mod job;
mod rehearsal;

pub use conversation::{Conversation, Line};
pub use job::JobRecord;
pub use rehearsal::{Acts, Rehearsal};
