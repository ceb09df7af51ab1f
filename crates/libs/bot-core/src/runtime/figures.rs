//! What the runtime counts of itself, for heartbeats.
use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

const SLOT: Duration = Duration::from_secs(10);
const SLOTS: usize = 6;

#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) processed: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) jobs_running: AtomicU64,
    pub(crate) jobs_begun: AtomicU64,
    pub(crate) stale_acks: AtomicU64,
    pub(crate) rate_deferred: AtomicU64,
    pub(crate) rate_refused: AtomicU64,
    window: Mutex<VecDeque<Slot>>,
}

struct Slot {
    since: Instant,
    settled: u64,
    failed: u64,
    micros: Histogram<u64>,
}

/// The last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Minute {
    pub(crate) rate_per_s: f64,
    pub(crate) error_rate: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl Figures {
    pub(crate) fn settled(&self, took: Duration, failed: bool, now: Instant) {
        self.processed.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.back().is_none_or(|s| now.duration_since(s.since) >= SLOT) {
            // From 1 µs to an hour with two digits: a few kilobytes a slot.
            let Ok(micros) = Histogram::new_with_bounds(1, 3_600_000_000, 2) else {
                return;
            };
            window.push_back(Slot { since: now, settled: 0, failed: 0, micros });
            if window.len() > SLOTS {
                window.pop_front();
            }
        }
        if let Some(slot) = window.back_mut() {
            slot.settled += 1;
            slot.failed += u64::from(failed);
            slot.micros.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
        }
    }

    pub(crate) fn minute(&self, now: Instant) -> Minute {
        let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let recent: Vec<&Slot> = window.iter().filter(|s| now.duration_since(s.since) < SLOT * SLOTS as u32).collect();
        let settled: u64 = recent.iter().map(|s| s.settled).sum();
        let Some(first) = recent.first().filter(|_| settled > 0) else {
            return Minute::default();
        };
        let failed: u64 = recent.iter().map(|s| s.failed).sum();
        let mut all = first.micros.clone();
        for slot in &recent[1..] {
            let _ = all.add(&slot.micros);
        }
        Minute {
            rate_per_s: settled as f64 / now.duration_since(first.since).max(SLOT).as_secs_f64(),
            error_rate: failed as f64 / settled as f64,
            p50_us: all.value_at_quantile(0.5),
            p99_us: all.value_at_quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minute_is_counted_and_older_is_forgotten() {
        let (f, t) = (Figures::default(), Instant::now());
        for n in 0..100 {
            f.settled(Duration::from_micros(1000), n < 10, t);
        }
        let m = f.minute(t + Duration::from_secs(20));
        assert!((m.rate_per_s - 5.0).abs() < 0.01 && (m.error_rate - 0.1).abs() < 0.001, "{m:?}");
        assert!((990..=1010).contains(&m.p50_us), "{m:?}");
        assert_eq!(f.minute(t + Duration::from_secs(61)), Minute::default());
        assert_eq!(f.processed.load(Ordering::Relaxed), 100);
    }
}
