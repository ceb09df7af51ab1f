//! How long to wait before the next attempt. The only user of `backoff`.
use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff as _};
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How delays grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackoffKind {
    /// 5 s, then four times as long each time, up to an hour.
    #[default]
    Exponential,
    /// Always 5 s.
    Fixed,
}

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);

/// The delay after the given attempt (1: the first) failed. Without jitter: it is rounded up to a retry queue.
pub(crate) fn delay_after(kind: BackoffKind, attempt: u32) -> Duration {
    if kind == BackoffKind::Fixed {
        return FIRST;
    }
    let mut policy = ExponentialBackoff {
        current_interval: FIRST,
        initial_interval: FIRST,
        randomization_factor: 0.0,
        multiplier: 4.0,
        max_interval: LONGEST,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    let steps = attempt.clamp(1, 16);
    (0..steps).filter_map(|_| policy.next_backoff()).last().unwrap_or(LONGEST)
}

/// Unlimited jittered delays for connecting: from 100 ms to 5 s, so that a broker that is back is found at once.
pub(crate) struct Reconnect(ExponentialBackoff);

impl Reconnect {
    pub(crate) fn new() -> Self {
        let first = Duration::from_millis(100);
        Self(ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: 0.3,
            multiplier: 1.7,
            max_interval: Duration::from_secs(4),
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }
    pub(crate) fn next(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(Duration::from_secs(4))
    }
    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }
}

/// A little less or more than `d`, so that a fleet does not act in step.
pub(crate) fn jitter(d: Duration) -> Duration {
    d.mul_f64(rand::rng().random_range(0.85..1.15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_an_hour() {
        let seconds: Vec<u64> = (1..=7).map(|n| delay_after(BackoffKind::Exponential, n).as_secs()).collect();
        assert_eq!(seconds, [5, 20, 80, 320, 1280, 3600, 3600]);
        assert_eq!(delay_after(BackoffKind::Fixed, 9).as_secs(), 5);
    }

    #[test]
    fn reconnecting_never_gives_up_and_stays_quick() {
        let mut r = Reconnect::new();
        for _ in 0..1000 {
            assert!(r.next() < Duration::from_secs(6));
        }
    }
}
