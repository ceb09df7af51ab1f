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
const SPREAD: f64 = 0.15;

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

/// The same for a job: a little less or more, so that a fleet does not act in step, and never above an hour.
pub(crate) fn spread_after(kind: BackoffKind, attempt: u32) -> Duration {
    spread(delay_after(kind, attempt), rand::rng().random())
}

/// As `place`, from 0 to below 1, says: from 15 % less than `delay` to 15 % more.
fn spread(delay: Duration, place: f64) -> Duration {
    delay.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * place).min(LONGEST)
}

/// Unlimited jittered delays for connecting: from about 100 ms to 5 s, so that a broker that is back is found at once.
pub(crate) struct Reconnect(ExponentialBackoff);

impl Reconnect {
    pub(crate) fn new() -> Self {
        let first = Duration::from_millis(100);
        Self(ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: 0.25,
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

#[cfg(test)]
mod tests {
    use bot_messages::Tier;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_grow_to_an_hour() {
        let seconds: Vec<u64> = (1..=7).map(|n| delay_after(BackoffKind::Exponential, n).as_secs()).collect();
        assert_eq!(seconds, [5, 20, 80, 320, 1280, 3600, 3600]);
        assert_eq!(delay_after(BackoffKind::Fixed, 9).as_secs(), 5);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_delay_grows_with_its_attempt_up_to_an_hour(attempt in 0..u32::MAX, fixed in any::<bool>()) {
            let kind = if fixed { BackoffKind::Fixed } else { BackoffKind::Exponential };
            let delay = delay_after(kind, attempt);
            prop_assert!((FIRST..=LONGEST).contains(&delay), "{:?}", delay);
            let next = delay_after(kind, attempt.saturating_add(1));
            prop_assert!(next == delay || !fixed && next > delay);
            let tier = Tier::at_least(delay).delay();
            prop_assert!(tier >= delay && tier <= LONGEST, "a message waits no shorter: {:?} for {:?}", tier, delay);
        }

        #[test]
        fn jitter_stays_within_its_bounds(attempt in 1..40_u32, place in 0.0..1.0_f64) {
            let delay = delay_after(BackoffKind::Exponential, attempt);
            let (least, most) = (delay.mul_f64(0.85), delay.mul_f64(1.15).min(LONGEST));
            for spread in [spread(delay, place), spread(delay, 0.0), spread_after(BackoffKind::Exponential, attempt)] {
                prop_assert!(spread >= least && spread <= most, "{:?} instead of {:?}", spread, delay);
            }
            prop_assert!(spread(delay, 0.1) < spread(delay, 0.4), "and it does spread");
        }

        #[test]
        fn reconnecting_never_gives_up_and_stays_quick(tries in 1..200_usize, again in 1..20_usize) {
            let mut r = Reconnect::new();
            for _ in 0..2 {
                let waits: Vec<Duration> = (0..tries.max(again)).map(|_| r.next()).collect();
                prop_assert!(waits[0] >= Duration::from_millis(75) && waits[0] <= Duration::from_millis(125));
                prop_assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(5)), "{:?}", waits);
                r.reset();
            }
        }
    }
}
