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
    probing: bool,
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
    settled: bool,
}

impl Breaker {
    /// A closed one.
    pub fn new(name: &str, options: BreakerOptions) -> Self {
        let inner = Inner { failures: 0, opened_at: None, probing: false };
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
            Some(_) if inner.probing => BreakerState::HalfOpen,
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
        if let Some(at) = inner.opened_at {
            let waited = now.duration_since(at);
            if inner.probing || waited < self.options.timeout {
                return Err(Disabled {
                    name: self.name.to_string(),
                    failures: inner.failures,
                    retry_in: self.options.timeout.saturating_sub(waited),
                });
            }
            inner.probing = true;
        }
        drop(inner);
        Ok(Permit { breaker: self, settled: false })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The call worked: closed, the count begins anew.
    pub fn succeeded(mut self) {
        self.settled = true;
        *self.breaker.lock() = Inner { failures: 0, opened_at: None, probing: false };
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
        if inner.probing || inner.failures >= self.breaker.options.threshold {
            inner.opened_at = Some(now);
            inner.probing = false;
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.breaker.lock().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
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
}
