//! When a schedule of the configuration comes next. Pure: the time of day is given.
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds},
};
use serde_json::{Value, json};

use crate::{config::Trigger, hash};

/// Names of timers that are schedules begin so; no handler's timer does.
pub(crate) const TIMER_PREFIX: &str = "lota.schedule:";
const NAME_CHARS_MAX: usize = 100;

/// A schedule that can be followed.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) name: String,
    pub(crate) data: Value,
    /// Of the durable timer; another where anything about the schedule is.
    pub(crate) timer: String,
    cron: Cron,
    zone: Tz,
}

impl Schedule {
    /// `Err`: the field that is wrong, and why.
    pub(crate) fn new(name: &str, cron: &str, timezone: &str, data: &Value) -> Result<Self, (&'static str, String)> {
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
            return Err(("name", format!("expected 1 to {NAME_CHARS_MAX} characters, such as `nightly`")));
        }
        let zone: Tz = timezone.parse().map_err(|_| {
            ("timezone", format!("`{timezone}` is no name of the time zone database, such as Europe/Zurich"))
        })?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        let parsed = parser.parse(cron).map_err(|e| {
            ("cron", format!("`{cron}`: {e}; expected minute, hour, day of month, month, day of week: `0 3 * * 1-5`"))
        })?;
        let spec = hash::short(&[json!([cron, timezone, data]).to_string().as_bytes()]);
        let timer = format!("{TIMER_PREFIX}{name}:{spec}");
        let own = Self { name: name.to_owned(), data: data.clone(), timer, cron: parsed, zone };
        match own.next(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(own),
            None => Err(("cron", format!("`{cron}` never comes: no month has such a day"))),
        }
    }

    /// All of a configuration that was checked.
    pub(crate) fn all(triggers: &[Trigger]) -> Vec<Self> {
        let schedule = |trigger: &Trigger| match trigger {
            Trigger::Schedule { name, cron, timezone, data } => Self::new(name, cron, timezone, data).ok(),
            Trigger::Event { .. } => None,
        };
        triggers.iter().filter_map(schedule).collect()
    }

    /// The first time after `now`.
    pub(crate) fn next(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.cron.find_next_occurrence(&now.with_timezone(&self.zone), false);
        next.ok().map(|time| time.with_timezone(&Utc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, zone: &str, now: &str) -> String {
        let schedule = Schedule::new("a", cron, zone, &Value::Null).unwrap();
        schedule.next(now.parse().unwrap()).unwrap().to_rfc3339()
    }

    #[test]
    fn the_next_time_follows_the_clock_on_the_wall() {
        assert_eq!(next("0 3 * * *", "UTC", "2026-11-21T03:00:00Z"), "2026-11-22T03:00:00+00:00", "after, not at");
        assert_eq!(next("0 3 * * *", "Europe/Zurich", "2026-11-21T12:00:00Z"), "2026-11-22T02:00:00+00:00");
        assert_eq!(next("0 3 * * *", "Europe/Zurich", "2026-07-01T12:00:00Z"), "2026-07-02T01:00:00+00:00");
        // 02:30 is skipped on that day; the clocks go from 02:00 to 03:00.
        let skipped = next("30 2 * * *", "Europe/Zurich", "2027-03-28T00:00:00Z");
        assert!(skipped.starts_with("2027-03-28T01:") || skipped.starts_with("2027-03-29T00:30"), "{skipped}");
    }

    #[test]
    fn a_schedule_that_says_something_else_is_another_timer() {
        let timer = |cron: &str, data: Value| Schedule::new("a", cron, "UTC", &data).unwrap().timer;
        assert_eq!(timer("0 3 * * *", Value::Null), timer("0 3 * * *", Value::Null));
        assert_ne!(timer("0 3 * * *", Value::Null), timer("0 4 * * *", Value::Null));
        assert_ne!(timer("0 3 * * *", Value::Null), timer("0 3 * * *", json!({"ref": "x"})));
    }
}
