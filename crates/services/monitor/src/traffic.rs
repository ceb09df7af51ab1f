//! How much is said: messages seen, in all and per second.
use std::collections::VecDeque;

use chrono::{DateTime, Utc};

/// Throughput is told over so many seconds.
const THROUGHPUT_S: i64 = 60;

/// Messages per second, over the last minute.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    total: u64,
    /// Second and messages in it, oldest first.
    seconds: VecDeque<(i64, u64)>,
}

impl Traffic {
    /// A message was seen.
    pub(crate) fn count(&mut self, now: DateTime<Utc>) {
        self.total += 1;
        let second = now.timestamp();
        match self.seconds.back_mut() {
            Some((latest, count)) if *latest >= second => *count += 1,
            _ => self.seconds.push_back((second, 1)),
        }
        while self.seconds.front().is_some_and(|(s, _)| *s <= second - THROUGHPUT_S) {
            self.seconds.pop_front();
        }
    }

    /// Messages seen since the monitor started.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Messages per second over the last minute.
    pub(crate) fn per_second(&self, now: DateTime<Utc>) -> f64 {
        let from = now.timestamp() - THROUGHPUT_S;
        let recent: u64 = self.seconds.iter().filter(|(s, _)| *s > from).map(|(_, n)| n).sum();
        recent as f64 / THROUGHPUT_S as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::tests::at;

    #[test]
    fn throughput_is_of_the_last_minute() {
        let mut traffic = Traffic::default();
        for ms in [0, 10, 30_000, 29_000] {
            traffic.count(at(ms));
        }
        let last_minute = |traffic: &Traffic, ms| (traffic.per_second(at(ms)) * 60.0).round() as u64;
        assert_eq!((traffic.total(), last_minute(&traffic, 30_000)), (4, 4));
        assert_eq!(last_minute(&traffic, 65_000), 2, "a late one counts where the latest is");
        assert_eq!(last_minute(&traffic, 200_000), 0);
        traffic.count(at(200_000));
        assert_eq!(traffic.seconds.len(), 1);
    }
}
