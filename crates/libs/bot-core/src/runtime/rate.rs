//! How many messages a minute are taken of one publisher, and of these about one entity. What is too much waits in the
//! retry queues for a minute with room, and is refused with a count where none comes soon: nothing vanishes. Retries,
//! replays and the operator are not counted.
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use bot_messages::{Code, Tier};
use bot_store::StoreError;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{inbox::Message, letters::Letter, shared::Shared};
use crate::{bus::Delivery, clock, config::Rate, contract::Bot};

/// The row of the store that a restart goes on from.
const ROW: &str = "rate.windows";
const WRITTEN_EVERY: Duration = Duration::from_secs(5);

/// The minutes that one publisher, or one entity of its, has filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Window {
    /// Since 1970: the first minute that may still have room.
    minute: i64,
    /// Messages that have a place in it and in those that follow.
    taken: u32,
    /// Refused since it was empty last.
    refused: u32,
}

impl Window {
    /// With what is over left behind.
    fn at(self, minute: i64, per_minute: u32) -> Self {
        // A clock that was set back does not make anything wait for the time in between.
        let over = u32::try_from(minute - self.minute).unwrap_or(0);
        let taken = self.taken.saturating_sub(over.saturating_mul(per_minute));
        Self { minute, taken, refused: if taken == 0 { 0 } else { self.refused } }
    }

    /// How many minutes ahead the next free place is.
    fn ahead(self, per_minute: u32) -> u32 {
        self.taken / per_minute
    }
}

/// A publisher, or a publisher and an entity.
type Who = (String, Option<String>);

/// What has a place, by publisher and entity; forgotten when its minutes are over.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    of: BTreeMap<Who, Window>,
    forgotten_at: i64,
    changed: bool,
}

/// When a message is handled.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Turn {
    Now,
    At(DateTime<Utc>),
    /// Which message it would have been, of whom, and how many are allowed.
    Never {
        nth: u64,
        of: String,
        per_minute: u32,
    },
}

impl Windows {
    /// Gives a message its place. One that is refused takes none.
    fn place(&mut self, publisher: &str, key: &str, rate: &Rate, now: DateTime<Utc>) -> Turn {
        let minute = now.timestamp().div_euclid(60);
        self.forget(minute, rate);
        self.changed = true;
        let limits = [
            ((publisher.to_owned(), None), rate.publisher_per_minute),
            ((publisher.to_owned(), Some(key.to_owned())), rate.key_per_minute),
        ];
        let mut ahead = 0;
        for (who, per_minute) in &limits {
            let window = self.of.entry(who.clone()).or_default();
            *window = window.at(minute, *per_minute);
            if window.ahead(*per_minute) > rate.waiting_minutes_max {
                window.refused = window.refused.saturating_add(1);
                let of = match key_of(who) {
                    Some(key) => format!("`{publisher}` about {key}"),
                    None => format!("`{publisher}`"),
                };
                let nth = u64::from(window.taken) + u64::from(window.refused);
                return Turn::Never { nth, of, per_minute: *per_minute };
            }
            ahead = ahead.max(window.ahead(*per_minute));
        }
        for (who, _) in &limits {
            if let Some(window) = self.of.get_mut(who) {
                window.taken += 1;
            }
        }
        match ahead {
            0 => Turn::Now,
            n => DateTime::from_timestamp((minute + i64::from(n)) * 60, 0).map_or(Turn::Now, Turn::At),
        }
    }

    /// Once a minute, so that what is kept is bounded by what comes in the minutes that count.
    fn forget(&mut self, minute: i64, rate: &Rate) {
        if self.forgotten_at == minute {
            return;
        }
        self.forgotten_at = minute;
        self.of.retain(|who, window| {
            let per_minute = if who.1.is_none() { rate.publisher_per_minute } else { rate.key_per_minute };
            window.at(minute, per_minute).taken > 0
        });
    }

    /// For the store, if it is another than last time.
    fn changes(&mut self) -> Option<String> {
        let rows: Vec<(&Who, &Window)> = self.of.iter().collect();
        std::mem::take(&mut self.changed).then(|| serde_json::to_string(&rows).unwrap_or_default())
    }

    fn from_written(text: &str) -> Self {
        let rows: Vec<(Who, Window)> = serde_json::from_str(text).unwrap_or_default();
        Self { of: rows.into_iter().collect(), ..Self::default() }
    }
}

fn key_of(who: &Who) -> Option<&str> {
    who.1.as_deref()
}

/// The retry queue for what waits so long: rather a shorter one twice than a minute too late.
pub(super) fn tier(wait: Duration) -> Tier {
    Tier::ALL.into_iter().rev().find(|t| t.delay() <= wait).unwrap_or(Tier::Sec5)
}

impl<B: Bot> Shared<B> {
    /// Counts what a publisher says; `Err` where it said too much.
    pub(crate) fn admit(&self, delivery: &Delivery, mut message: Message) -> Result<Message, Box<Letter>> {
        if message.origin.returned || message.origin.publisher == self.operator {
            return Ok(message);
        }
        let turn =
            self.windows(|w| w.place(&message.origin.publisher, &message.key, &self.constraints.rate, clock::now()));
        match turn {
            Turn::Now => Ok(message),
            Turn::At(time) => {
                self.figures.rate_deferred.fetch_add(1, Ordering::Relaxed);
                message.not_before = Some(time);
                Ok(message)
            }
            Turn::Never { nth, of, per_minute } => {
                self.figures.rate_refused.fetch_add(1, Ordering::Relaxed);
                let why = format!(
                    "it is message {nth} of {of} in a row: {per_minute} a minute are handled, and what fills {} minutes \
                     may wait; send fewer, or raise constraints.rate",
                    self.constraints.rate.waiting_minutes_max
                );
                Err(self.decoded_letter(delivery, &message.envelope, &message.cause, Code::RateLimited, why))
            }
        }
    }

    fn windows<T>(&self, f: impl FnOnce(&mut Windows) -> T) -> T {
        f(&mut self.rate.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes on from what was written down last.
    pub(crate) async fn recall_rate(&self) -> Result<(), StoreError> {
        if let Some(text) = self.store.meta(ROW).await? {
            self.windows(|w| *w = Windows::from_written(&text));
        }
        Ok(())
    }
}

/// Writes down what has a place, until cancelled: a process that ends does not begin with empty minutes.
pub(crate) async fn remember<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) {
    let mut tick = tokio::time::interval(WRITTEN_EVERY);
    loop {
        let last = tokio::select! {
            _ = tick.tick() => false,
            () = cancelled.cancelled() => true,
        };
        if let Some(text) = shared.windows(Windows::changes)
            && let Err(e) = shared.store.set_meta(ROW, &text).await
        {
            tracing::warn!("the rates cannot be written down: {e}");
        }
        if last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_793_534_400 + second, 0).unwrap()
    }

    fn rate(publisher_per_minute: u32, key_per_minute: u32, waiting_minutes_max: u32) -> Rate {
        Rate { publisher_per_minute, key_per_minute, waiting_minutes_max }
    }

    #[test]
    fn what_is_too_much_waits_for_its_minute_and_is_refused_where_none_comes() {
        let (mut w, rate) = (Windows::default(), rate(2, 2, 1));
        let turns: Vec<Turn> = (0..5).map(|_| w.place("ci", "a", &rate, at(7))).collect();
        assert_eq!(turns[..4], [Turn::Now, Turn::Now, Turn::At(at(60)), Turn::At(at(60))]);
        assert_eq!(turns[4], Turn::Never { nth: 5, of: "`ci`".into(), per_minute: 2 });
        assert!(matches!(w.place("ci", "a", &rate, at(8)), Turn::Never { nth: 6, .. }), "a count that grows");
        assert_eq!(w.place("another", "a", &rate, at(9)), Turn::Now, "another's places are its own");
        assert_eq!(w.place("ci", "a", &rate, at(61)), Turn::At(at(120)), "those that waited go first");
        assert_eq!(w.place("ci", "a", &rate, at(600)), Turn::Now);
    }

    #[test]
    fn one_entity_does_not_take_the_places_of_all() {
        let (mut w, rate) = (Windows::default(), rate(10, 1, 0));
        assert_eq!(w.place("ci", "a", &rate, at(0)), Turn::Now);
        let refused = Turn::Never { nth: 2, of: "`ci` about a".into(), per_minute: 1 };
        assert_eq!(w.place("ci", "a", &rate, at(1)), refused);
        for n in 0..9 {
            assert_eq!(w.place("ci", &format!("b{n}"), &rate, at(2)), Turn::Now, "refused ones took no place");
        }
        assert!(matches!(w.place("ci", "c", &rate, at(3)), Turn::Never { nth: 11, per_minute: 10, .. }));
    }

    #[test]
    fn a_restart_goes_on_from_what_was_written_and_old_minutes_are_forgotten() {
        let (mut w, rate) = (Windows::default(), rate(1, 1, 0));
        w.place("ci", "a", &rate, at(0));
        let mut again = Windows::from_written(&w.changes().unwrap());
        assert_eq!(w.changes(), None, "unchanged");
        assert!(matches!(again.place("ci", "a", &rate, at(1)), Turn::Never { .. }));
        again.place("other", "b", &rate, at(61));
        assert_eq!(again.of.len(), 2, "{again:?}");
        assert_eq!(Windows::from_written("not what was written").of.len(), 0);
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nobody_up() {
        let (mut w, rate) = (Windows::default(), rate(1, 1, 1));
        w.place("ci", "a", &rate, at(36_000));
        assert_eq!(w.place("ci", "a", &rate, at(0)), Turn::At(at(60)));
    }

    #[test]
    fn a_wait_is_made_of_queues_that_are_not_too_long() {
        let tiers = [1, 5, 29, 30, 119, 599, 600, 9999].map(|s| tier(Duration::from_secs(s)).as_str());
        assert_eq!(tiers, ["5s", "5s", "5s", "30s", "30s", "2m", "10m", "1h"]);
    }

    proptest! {
        #[test]
        fn no_stretch_of_minutes_has_more_than_its_messages(steps in prop::collection::vec((0..3_u8, 0..90_i64), 1..200)) {
            let (mut w, rate, mut second) = (Windows::default(), rate(5, 3, 2), 0);
            let mut handled_at: Vec<(i64, u8)> = Vec::new();
            let first = at(0).timestamp() / 60;
            for (key, wait) in steps {
                second += wait / 10;
                let turn = w.place("ci", &key.to_string(), &rate, at(second));
                let handled = match turn { Turn::Now => at(second), Turn::At(t) => t, Turn::Never { .. } => continue };
                prop_assert!(handled >= at(second) && handled <= at(second + 120));
                handled_at.push((handled.timestamp() / 60 - first, key));
            }
            for (until, _) in &handled_at {
                let minutes = usize::try_from(until + 1).unwrap();
                let count = |of: Option<u8>| {
                    handled_at.iter().filter(|(m, k)| m <= until && of.is_none_or(|of| of == *k)).count()
                };
                prop_assert!(count(None) <= 5 * minutes && (0..3).all(|k| count(Some(k)) <= 3 * minutes));
            }
        }
    }
}
