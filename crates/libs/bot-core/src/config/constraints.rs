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
    /// What is done while something outside fails.
    pub auto_pause: AutoPause,
    /// Seconds for which work may wait although nothing holds it back, before the session with the broker is renewed, 5 to
    /// 3600. After as long again a second time, and then the process ends, so that its supervisor starts it again.
    #[schemars(range(min = 5, max = 3600))]
    pub stalled_after_s: u64,
    /// Seconds for which the broker refuses a message of this bot without a break, or no queue takes it, before it becomes a
    /// dead letter, 5 to 86 400.
    #[schemars(range(min = 5, max = 86_400))]
    pub undeliverable_after_s: u64,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            max_concurrent_jobs: 5,
            max_waiting_jobs: None,
            timeout: 3600,
            retry_policy: RetryPolicy::default(),
            rate: Rate::default(),
            auto_pause: AutoPause::default(),
            stalled_after_s: 60,
            undeliverable_after_s: 300,
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

/// When messages, or jobs of a kind, are held back since something outside fails; they are tried one at a time, first after
/// 5 s, then after twice as long each time. What the bot cannot work without holds them back at its first critical failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AutoPause {
    /// `false`: each failure is an attempt, whatever fails.
    pub enabled: bool,
    /// Failures for the same reason, among the latest 20 outcomes of 5 minutes and more than half of them, 2 to 20.
    #[schemars(range(min = 2, max = 20))]
    pub failures: u32,
    /// Seconds between two tries at most, 5 to 3600.
    #[schemars(range(min = 5, max = 3600))]
    pub longest_wait_s: u32,
}

impl Default for AutoPause {
    fn default() -> Self {
        Self { enabled: true, failures: 5, longest_wait_s: 300 }
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
