//! What tests share: a job's context in memory, bots in conversation without a broker, an S3
//! server, a PostgreSQL, a machine that lacks programs, corpora of inputs. A dev-dependency only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::must_use_candidate,
    reason = "test support: a broken assumption ends the test"
)]

mod conversation;
pub mod corpus;
mod job;
mod postgres;
mod programs;
mod rehearsal;
mod s3;

pub use bot_core::{InProcess, MemoryBroker, Stored};
pub use conversation::{Conversation, Line};
pub use job::JobRecord;
pub use postgres::{Postgres, postgresql_bin};
pub use programs::programs_without;
pub use rehearsal::{Acts, Rehearsal};
pub use s3::S3Server;
