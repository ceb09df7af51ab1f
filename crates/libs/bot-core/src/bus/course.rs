//! Which session comes next, and what the broker's answers say of the one that is. Pure: what happened, and when, is given.
use std::time::{Duration, Instant};

use crate::retry::Reconnect;

/// A session that lasted so long is followed by the next without a longer wait.
const SETTLED: Duration = Duration::from_secs(5);
/// After so many publishes in a row that were not taken, a probe shows whether the session takes any.
const NOT_TAKEN_MAX: u32 = 3;

/// A session to be begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Try {
    pub(super) address: String,
    /// Higher than that of each session before.
    pub(super) epoch: u64,
}

/// The course of the sessions of one bus: their addresses, their epochs and the waits between them.
pub(super) struct Course {
    addresses: Vec<String>,
    tried: usize,
    sessions: u64,
    begun: Option<Instant>,
    delay: Reconnect,
}

impl Course {
    pub(super) fn new(addresses: Vec<String>) -> Self {
        Self { addresses, tried: 0, sessions: 0, begun: None, delay: Reconnect::new() }
    }

    /// What to try now: after each address the next, after the last the first again. `None`: there is no address.
    pub(super) fn next(&mut self) -> Option<Try> {
        let index = self.tried.checked_rem(self.addresses.len())?;
        self.tried = self.tried.wrapping_add(1);
        let address = self.addresses.get(index)?.clone();
        Some(Try { address, epoch: self.sessions + 1 })
    }

    /// The try led to a session.
    pub(super) fn begun(&mut self, now: Instant) {
        self.begun = Some(now);
        self.sessions += 1;
    }

    /// A try failed, or the session is over: how long to wait. A session that ends at once is no better than none.
    pub(super) fn over(&mut self, now: Instant) -> Duration {
        if self.begun.take().is_some_and(|begun| now.duration_since(begun) > SETTLED) {
            self.delay.reset();
        }
        self.delay.next()
    }
}

/// What the broker answered to one publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// It has it, or returned it: it takes messages.
    Taken,
    /// It said no.
    Refused,
    /// It said nothing in time.
    Late,
    /// The channel or its connection is gone.
    Broken,
}

/// What follows for the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    GoOn,
    /// A confirm that comes late could carry off the return of another message, so its channel is given up.
    FreshChannel,
    /// The same, and the fresh channel has to take a probe: after a cluster node's death every channel of a connection may
    /// refuse for ever, while a queue that refuses is no reason to begin anew.
    Probe,
    Over,
}

/// How far the broker's side of a session can be trusted to take messages.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Publishes in a row that were not taken.
    not_taken: u32,
}

impl Trust {
    /// What the answers to a batch say, in the order of its messages.
    pub(super) fn judge(&mut self, answers: impl IntoIterator<Item = Answered>) -> Step {
        let mut late = false;
        for answer in answers {
            match answer {
                Answered::Taken => self.not_taken = 0,
                Answered::Refused => self.not_taken = self.not_taken.saturating_add(1),
                Answered::Late => {
                    late = true;
                    self.not_taken = self.not_taken.saturating_add(1);
                }
                Answered::Broken => return Step::Over,
            }
        }
        if self.not_taken >= NOT_TAKEN_MAX {
            Step::Probe
        } else if late {
            Step::FreshChannel
        } else {
            Step::GoOn
        }
    }

    /// What the answer to the probe says.
    pub(super) fn probed(&mut self, answer: Answered) -> Step {
        if answer == Answered::Taken {
            self.not_taken = 0;
            return Step::GoOn;
        }
        Step::Over
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// The longest wait between two tries, jitter included.
    const WAIT_MAX: Duration = Duration::from_secs(5);
    const FIRST_WAIT_MAX: Duration = Duration::from_millis(150);

    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// The address does not answer.
        Unreachable,
        /// A session, and how long it lasts.
        Session(Duration),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => Just(Event::Unreachable),
            2 => (0..12_000_u64).prop_map(|ms| Event::Session(Duration::from_millis(ms))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_node_is_tried_in_turn_and_epochs_rise(nodes in 1..5_usize, events in vec(event(), 1..60)) {
            let addresses: Vec<String> = (0..nodes).map(|n| format!("amqp://node-{n}/lota")).collect();
            let mut course = Course::new(addresses.clone());
            let mut now = Instant::now();
            let (mut last_epoch, mut unsettled) = (0, 0_u32);
            for (number, event) in events.into_iter().enumerate() {
                let tried = course.next().unwrap();
                prop_assert_eq!(&tried.address, &addresses[number % nodes], "no node is left out, none is tried twice");
                prop_assert_eq!(tried.epoch, last_epoch + 1);
                unsettled += 1;
                if let Event::Session(length) = event {
                    course.begun(now);
                    last_epoch = tried.epoch;
                    now += length;
                    if length > SETTLED {
                        unsettled = 1;
                    }
                }
                let wait = course.over(now);
                prop_assert!(wait <= WAIT_MAX, "{:?}", wait);
                prop_assert!(wait >= Duration::from_millis(50), "without a breath: {:?}", wait);
                if unsettled == 1 {
                    prop_assert!(wait <= FIRST_WAIT_MAX, "after a session that lasted: {:?}", wait);
                }
                if unsettled > 10 {
                    prop_assert!(wait >= Duration::from_secs(2), "try {} in vain, and only {:?}", unsettled, wait);
                }
                now += wait;
            }
        }

        #[test]
        fn a_session_ends_when_and_only_when_it_takes_nothing(
            batches in vec((vec(select(&[Answered::Taken, Answered::Refused, Answered::Late, Answered::Broken][..]), 1..5),
                select(&[Answered::Taken, Answered::Refused, Answered::Late, Answered::Broken][..])), 1..40),
        ) {
            let mut trust = Trust::default();
            // All answers since the last that was taken, the probe's too.
            let mut since_taken: Vec<Answered> = Vec::new();
            for (batch, probe) in batches {
                let step = trust.judge(batch.iter().copied());
                if batch.contains(&Answered::Broken) {
                    prop_assert_eq!(step, Step::Over);
                    return Ok(());
                }
                for answer in &batch {
                    if *answer == Answered::Taken { since_taken.clear() } else { since_taken.push(*answer) }
                }
                let expected = match (since_taken.len(), batch.contains(&Answered::Late)) {
                    (3.., _) => Step::Probe,
                    (_, true) => Step::FreshChannel,
                    (_, false) => Step::GoOn,
                };
                prop_assert_eq!(step, expected, "{:?} after {:?}", batch, since_taken);
                if step == Step::Probe {
                    let told = trust.probed(probe);
                    prop_assert_eq!(told == Step::GoOn, probe == Answered::Taken);
                    if told == Step::Over {
                        return Ok(());
                    }
                    since_taken.clear();
                }
            }
        }
    }

    #[test]
    fn without_an_address_nothing_is_tried() {
        assert_eq!(Course::new(Vec::new()).next(), None);
    }
}
