//! The circuit breaker around something outside: closed, open after failures in a row, half-open for one probe.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// When it opens and for how long.
#[derive(Clone, Copy, Debug)]
pub struct BreakerOptions {
    /// Failures in a row that open it.
    pub threshold: u32,
    /// How long it stays open before one probe is let through.
    pub timeout: Duration,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self { threshold: 5, timeout: Duration::from_secs(60) }
    }
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// Calls are refused.
    Open,
    /// One call is on its way to find out.
    HalfOpen,
}

impl BreakerState {
    /// As in heartbeats and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A call was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is temporarily disabled after {failures} failures in a row; tried again in {} s", .retry_in.as_secs())]
pub struct Disabled {
    /// What is outside.
    pub name: String,
    /// In a row.
    pub failures: u32,
    /// Until the next probe.
    pub retry_in: Duration,
}

#[derive(Debug)]
struct Inner {
    failures: u32,
    opened_at: Option<Instant>,
    /// The number of the probe that is on its way.
    probing: Option<u64>,
    probes: u64,
}

/// A circuit breaker; clones share their state.
#[derive(Clone, Debug)]
pub struct Breaker {
    name: Arc<str>,
    options: BreakerOptions,
    inner: Arc<Mutex<Inner>>,
}

/// Leave for one call. Dropped without a verdict (a cancelled call) it says nothing about the outside.
#[derive(Debug)]
#[must_use = "say `succeeded` or `failed`"]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    /// Its number, where it is a probe. A call that was let through before the breaker opened may end at any time: it is
    /// not for that one to say how the probe ended.
    probe: Option<u64>,
    settled: bool,
}

impl Breaker {
    /// A closed one.
    pub fn new(name: &str, options: BreakerOptions) -> Self {
        let inner = Inner { failures: 0, opened_at: None, probing: None, probes: 0 };
        Self { name: name.into(), options, inner: Arc::new(Mutex::new(inner)) }
    }

    /// What is outside.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is at `now`.
    pub fn state_at(&self, now: Instant) -> BreakerState {
        let inner = self.lock();
        match inner.opened_at {
            None => BreakerState::Closed,
            Some(_) if inner.probing.is_some() => BreakerState::HalfOpen,
            Some(at) if now.duration_since(at) >= self.options.timeout => BreakerState::HalfOpen,
            Some(_) => BreakerState::Open,
        }
    }

    /// Where it is now.
    pub fn state(&self) -> BreakerState {
        self.state_at(Instant::now())
    }

    /// Asks leave for a call.
    pub fn permit(&self) -> Result<Permit<'_>, Disabled> {
        self.permit_at(Instant::now())
    }

    /// Asks leave for a call at `now`.
    pub fn permit_at(&self, now: Instant) -> Result<Permit<'_>, Disabled> {
        let mut inner = self.lock();
        let mut probe = None;
        if let Some(at) = inner.opened_at {
            let waited = now.duration_since(at);
            if inner.probing.is_some() || waited < self.options.timeout {
                return Err(Disabled {
                    name: self.name.to_string(),
                    failures: inner.failures,
                    retry_in: self.options.timeout.saturating_sub(waited),
                });
            }
            inner.probes += 1;
            probe = Some(inner.probes);
            inner.probing = probe;
        }
        drop(inner);
        Ok(Permit { breaker: self, probe, settled: false })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The call worked: closed, the count begins anew.
    pub fn succeeded(mut self) {
        self.settled = true;
        let mut inner = self.breaker.lock();
        *inner = Inner { failures: 0, opened_at: None, probing: None, probes: inner.probes };
    }

    /// The call failed: counted; a failed probe opens it again.
    pub fn failed(self) {
        self.failed_at(Instant::now());
    }

    /// The call failed at `now`.
    pub fn failed_at(mut self, now: Instant) {
        self.settled = true;
        let mut inner = self.breaker.lock();
        inner.failures = inner.failures.saturating_add(1);
        let awaited = inner.probing.is_some() && inner.probing == self.probe;
        if awaited || (inner.probing.is_none() && inner.failures >= self.breaker.options.threshold) {
            inner.opened_at = Some(now);
            inner.probing = None;
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.settled || self.probe.is_none() {
            return;
        }
        let mut inner = self.breaker.lock();
        if inner.probing == self.probe {
            inner.probing = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    fn breaker() -> (Breaker, Instant) {
        (Breaker::new("forge", BreakerOptions::default()), Instant::now())
    }

    fn fail(b: &Breaker, times: u32, at: Instant) {
        for _ in 0..times {
            b.permit_at(at).unwrap().failed_at(at);
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it() {
        let (b, t) = breaker();
        fail(&b, 4, t);
        assert_eq!(b.state_at(t), BreakerState::Closed);
        fail(&b, 1, t);
        assert_eq!(b.state_at(t), BreakerState::Open);
        let refused = b.permit_at(t + Duration::from_secs(20)).unwrap_err();
        assert_eq!(refused.to_string(), "forge is temporarily disabled after 5 failures in a row; tried again in 40 s");
    }

    #[test]
    fn a_success_begins_the_count_anew() {
        let (b, t) = breaker();
        fail(&b, 4, t);
        b.permit_at(t).unwrap().succeeded();
        fail(&b, 4, t);
        assert_eq!(b.state_at(t), BreakerState::Closed);
    }

    #[test]
    fn half_open_lets_one_probe_through_and_a_failed_one_opens_again() {
        let (b, t) = breaker();
        fail(&b, 5, t);
        let later = t + Duration::from_secs(60);
        let probe = b.permit_at(later).unwrap();
        assert!(b.permit_at(later).is_err(), "only one probe");
        probe.failed_at(later);
        assert_eq!(b.state_at(later), BreakerState::Open);
        b.permit_at(later + Duration::from_secs(60)).unwrap().succeeded();
        assert_eq!(b.state_at(later + Duration::from_secs(60)), BreakerState::Closed);
    }

    #[test]
    fn a_cancelled_probe_leaves_room_for_another() {
        let (b, t) = breaker();
        fail(&b, 5, t);
        let later = t + Duration::from_secs(61);
        drop(b.permit_at(later).unwrap());
        assert!(b.permit_at(later).is_ok());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask,
        /// What becomes of one of the calls that are on their way.
        Succeed(Index),
        Fail(Index),
        Cancel(Index),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Ask),
            1 => any::<Index>().prop_map(Step::Succeed),
            4 => any::<Index>().prop_map(Step::Fail),
            1 => any::<Index>().prop_map(Step::Cancel),
            2 => (1..80_u64).prop_map(Step::Wait),
        ]
    }

    /// What is seen from outside: failures since the last success, since when it is closed to calls, and the probe.
    #[derive(Default)]
    struct Seen {
        failures: u32,
        opened: Option<Instant>,
        probe: Option<usize>,
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn calls_go_through_as_a_few_words_say_whatever_overlaps(steps in vec(step(), 1..80)) {
            let (b, mut now) = breaker();
            let mut seen = Seen::default();
            let mut calls: Vec<(usize, Permit<'_>)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                    Step::Ask => {
                        let over = seen.opened.is_some_and(|at| now >= at + Duration::from_secs(60));
                        let may = seen.opened.is_none() || (over && seen.probe.is_none());
                        let permit = b.permit_at(now);
                        prop_assert_eq!(permit.is_ok(), may, "step {}", number);
                        if let Ok(permit) = permit {
                            seen.probe = seen.opened.map(|_| number);
                            calls.push((number, permit));
                        }
                    }
                    Step::Succeed(index) | Step::Fail(index) | Step::Cancel(index) if !calls.is_empty() => {
                        let (call, permit) = calls.remove(index.index(calls.len()));
                        let is_probe = seen.probe == Some(call);
                        match step {
                            Step::Succeed(_) => {
                                permit.succeeded();
                                seen = Seen::default();
                            }
                            Step::Fail(_) => {
                                permit.failed_at(now);
                                seen.failures += 1;
                                if is_probe || (seen.probe.is_none() && seen.failures >= 5) {
                                    seen.opened = Some(now);
                                }
                            }
                            _ => drop(permit),
                        }
                        if is_probe {
                            seen.probe = None;
                        }
                    }
                    _ => {}
                }
                let expected = match seen.opened {
                    None => BreakerState::Closed,
                    Some(at) if seen.probe.is_none() && now < at + Duration::from_secs(60) => BreakerState::Open,
                    Some(_) => BreakerState::HalfOpen,
                };
                prop_assert_eq!(b.state_at(now), expected, "step {}", number);
            }
        }
    }
}
