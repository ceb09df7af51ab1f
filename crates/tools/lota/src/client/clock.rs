//! The wall clock of this tool: what a person says is said now.
#![allow(clippy::disallowed_methods, reason = "the clock's one home in this tool")]

use chrono::{DateTime, Utc};

pub(super) fn now() -> DateTime<Utc> {
    Utc::now()
}
