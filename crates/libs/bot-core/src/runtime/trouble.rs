//! A store that cannot be written: since when, how, and when it is tried again. Pure: the time is given.
use std::time::{Duration, Instant};

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Trouble that comes back sooner is the same trouble, and is waited for longer.
const OVER_AFTER: Duration = Duration::from_secs(60);

/// How the store is. Each return to work after trouble costs every delivery in hand one of the deliveries that the broker
/// allows it, so a store that fails again is left alone for longer each time.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreTrouble {
    why: Option<String>,
    wait: Duration,
    again_at: Option<Instant>,
    over_at: Option<Instant>,
}

impl StoreTrouble {
    /// How it failed, while it does.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// A write or a read failed.
    pub(crate) fn failed(&mut self, why: String, now: Instant) {
        if self.why.is_none() {
            let back = self.over_at.is_some_and(|over| now.duration_since(over) < OVER_AFTER);
            self.wait = if back { self.longer() } else { FIRST_WAIT };
            self.again_at = Some(now + self.wait);
        }
        self.why = Some(why);
    }

    /// Whether it is time to see whether it works again.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.why.is_some() && self.again_at.is_none_or(|at| at <= now)
    }

    /// It was tried, and failed again.
    pub(crate) fn still_failed(&mut self, why: String, now: Instant) {
        self.wait = self.longer();
        self.again_at = Some(now + self.wait);
        self.why = Some(why);
    }

    /// It was tried, and works.
    pub(crate) fn over(&mut self, now: Instant) {
        self.why = None;
        self.over_at = Some(now);
    }

    fn longer(&self) -> Duration {
        (self.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> String {
        "full".to_owned()
    }

    #[test]
    fn a_store_that_stays_full_is_tried_less_and_less_often() {
        let (mut trouble, mut now) = (StoreTrouble::default(), Instant::now());
        assert!(!trouble.is_due(now));
        trouble.failed(full(), now);
        trouble.failed("full as well".to_owned(), now + Duration::from_millis(900));
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = (0..100).find(|s| trouble.is_due(now + Duration::from_secs(*s))).unwrap();
            waits.push(wait);
            now += Duration::from_secs(wait);
            trouble.still_failed(full(), now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        trouble.over(now);
        assert_eq!((trouble.why(), trouble.is_due(now)), (None, false));
    }

    #[test]
    fn trouble_that_comes_back_at_once_is_waited_for_longer() {
        let (mut trouble, now) = (StoreTrouble::default(), Instant::now());
        trouble.failed(full(), now);
        trouble.over(now);
        let soon = now + Duration::from_secs(5);
        trouble.failed(full(), soon);
        assert!(!trouble.is_due(soon + Duration::from_secs(1)) && trouble.is_due(soon + Duration::from_secs(2)));
        trouble.over(soon);
        let later = soon + OVER_AFTER;
        trouble.failed(full(), later);
        assert!(trouble.is_due(later + FIRST_WAIT));
    }
}
