//! The wall clock. Nobody else reads it: handlers get the time with the delivery, jobs from their context.
#![allow(clippy::disallowed_methods, reason = "the clock's one home")]

use chrono::{DateTime, Utc};

pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}
