//! The limits of a bot's jobs.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::retry::BackoffKind;

/// Limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Constraints {
    /// Jobs at a time, 1 to 64.
    #[schemars(range(min = 1, max = 64))]
    pub max_concurrent_jobs: usize,
    /// Jobs that may wait before no further messages are taken, 1 to 10 000; absent: twice `max_concurrent_jobs`.
    /// Entities take turns only among the jobs that wait here, not among messages that wait at the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_waiting_jobs: Option<usize>,
    /// Seconds a job may take, 1 to 604 800.
    #[schemars(range(min = 1, max = 604_800))]
    pub timeout: u64,
    /// Attempts.
    pub retry_policy: RetryPolicy,
    /// Messages a minute.
    pub rate: Rate,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            max_concurrent_jobs: 5,
            max_waiting_jobs: None,
            timeout: 3600,
            retry_policy: RetryPolicy::default(),
            rate: Rate::default(),
        }
    }
}

/// How many messages a minute are handled of one publisher. What is too much waits, and is refused where it would wait
/// longer than `waiting_minutes_max`. Retries, replays and what the operator says are not counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rate {
    /// Of one publisher, 1 to 1 000 000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub publisher_per_minute: u32,
    /// Of these, about one entity (a repository, an environment), 1 to 1 000 000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub key_per_minute: u32,
    /// Minutes that a message waits at most, 0 to 60.
    #[schemars(range(min = 0, max = 60))]
    pub waiting_minutes_max: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { publisher_per_minute: 3000, key_per_minute: 600, waiting_minutes_max: 10 }
    }
}

/// Attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// In all, 1 to 20.
    #[schemars(range(min = 1, max = 20))]
    pub max_attempts: u32,
    /// How delays grow.
    pub backoff: BackoffKind,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 3, backoff: BackoffKind::default() }
    }
}
