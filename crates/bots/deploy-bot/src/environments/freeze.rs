//! Windows of time in which nothing goes to an environment: once, or every week.
use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc, Weekday};
use chrono_tz::Tz;
use serde::Deserialize;

/// Windows that follow one another are one; more of them than this are told in parts.
const JOINED_MAX: usize = 400;

/// One window.
#[derive(Debug, PartialEq)]
pub(crate) struct Window {
    when: When,
    reason: String,
}

#[derive(Debug, PartialEq)]
enum When {
    Once { from: DateTime<Utc>, until: DateTime<Utc> },
    Weekly { days: Vec<Weekday>, from: TimeDelta, to: TimeDelta, timezone: Tz },
}

/// A window as it is written: `{from, until, reason}` or `{days, from, to, timezone, reason}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    from: String,
    until: Option<String>,
    days: Option<Vec<String>>,
    to: Option<String>,
    timezone: Option<String>,
    reason: String,
}

/// Until when nothing may go there, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frozen {
    pub(crate) until: DateTime<Utc>,
    pub(crate) reason: String,
}

impl Window {
    /// What is wrong is told with the field it is in.
    pub(super) fn read(written: Written) -> Result<Self, (&'static str, String)> {
        let Written { from, until, days, to, timezone, reason } = written;
        if reason.trim().is_empty() {
            return Err(("reason", "is empty: say why, for everyone who waits".to_owned()));
        }
        let when = match (until, days, to) {
            (Some(until), None, None) if timezone.is_none() => once(&from, &until)?,
            (None, Some(days), Some(to)) => weekly(&days, &from, &to, timezone.as_deref().unwrap_or("UTC"))?,
            _ => {
                let expected =
                    "expected {from, until, reason} for once, or {days, from, to, timezone, reason} for every week";
                return Err(("", expected.to_owned()));
            }
        };
        Ok(Self { when, reason })
    }

    /// The end of the window that `now` is in.
    fn end(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.when {
            When::Once { from, until } => (*from <= now && now < *until).then_some(*until),
            When::Weekly { days, from, to, timezone } => {
                let today = now.with_timezone(timezone).date_naive();
                // One that began yesterday may reach into today.
                let dates = [today.checked_sub_days(Days::new(1)), Some(today)];
                dates.into_iter().flatten().filter(|date| days.contains(&weekday(*date))).find_map(|date| {
                    let at = |since_midnight: TimeDelta| date.and_time(NaiveTime::MIN) + since_midnight;
                    let (begin, end) = (instant(*timezone, at(*from)), instant(*timezone, at(*to)));
                    (begin <= now && now < end).then_some(end)
                })
            }
        }
    }
}

/// Whether one of the windows is open; windows that follow one another are one.
pub(crate) fn frozen(windows: &[Window], now: DateTime<Utc>) -> Option<Frozen> {
    let open = |at| windows.iter().find_map(|window| Some((window.end(at)?, &window.reason)));
    let (mut until, reason) = open(now)?;
    for _ in 0..JOINED_MAX {
        match open(until) {
            Some((later, _)) => until = later,
            None => break,
        }
    }
    Some(Frozen { until, reason: reason.clone() })
}

fn weekday(date: NaiveDate) -> Weekday {
    chrono::Datelike::weekday(&date)
}

/// A wall clock time that a clock change leaves out is the first one after it; one that comes twice is its first.
fn instant(timezone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    let found = (0..=4)
        .find_map(|quarters| timezone.from_local_datetime(&(local + TimeDelta::minutes(30 * quarters))).earliest());
    found.map_or_else(|| local.and_utc(), |at| at.with_timezone(&Utc))
}

fn once(from: &str, until: &str) -> Result<When, (&'static str, String)> {
    let time = |field, text: &str| {
        let read = DateTime::parse_from_rfc3339(text).map(|at| at.with_timezone(&Utc));
        read.map_err(|_| (field, format!("`{text}` is no time: expected such as 2026-12-20T00:00:00Z")))
    };
    let (from, until) = (time("from", from)?, time("until", until)?);
    if until <= from {
        return Err(("until", "is not after `from`, so the window is never open".to_owned()));
    }
    Ok(When::Once { from, until })
}

fn weekly(days: &[String], from: &str, to: &str, timezone: &str) -> Result<When, (&'static str, String)> {
    let days = days.iter().map(|day| {
        day.parse::<Weekday>().map_err(|_| ("days", format!("`{day}` is no day: expected such as mon or friday")))
    });
    let days: Vec<Weekday> = days.collect::<Result<_, _>>()?;
    if days.is_empty() {
        return Err(("days", "is empty: expected such as [fri, sat]".to_owned()));
    }
    let timezone = timezone.parse::<Tz>().map_err(|_| {
        (
            "timezone",
            format!("`{timezone}` is no time zone: expected a name of the IANA database such as Europe/Berlin"),
        )
    })?;
    let (from, to) = (clock("from", from)?, clock("to", to)?);
    // Not after its beginning: it ends on the next day.
    let to = if to <= from { to + TimeDelta::days(1) } else { to };
    Ok(When::Weekly { days, from, to, timezone })
}

/// `00:00` to `24:00`, since midnight.
fn clock(field: &'static str, text: &str) -> Result<TimeDelta, (&'static str, String)> {
    let parts = text.split_once(':').and_then(|(hours, minutes)| {
        let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
        let fits = (0..24).contains(&hours) && (0..60).contains(&minutes) || (hours, minutes) == (24, 0);
        fits.then(|| TimeDelta::minutes(hours * 60 + minutes))
    });
    parts.ok_or_else(|| (field, format!("`{text}` is no time of day: expected \"00:00\" to \"24:00\", in quotes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
    }

    fn window(yaml: &str) -> Result<Window, (&'static str, String)> {
        Window::read(serde_saphyr::from_str(yaml).unwrap())
    }

    fn until(windows: &[Window], now: &str) -> Option<DateTime<Utc>> {
        frozen(windows, at(now)).map(|frozen| frozen.until)
    }

    #[test]
    fn a_window_holds_from_its_beginning_and_not_at_its_end() {
        let holidays =
            [window("{from: 2026-12-20T00:00:00Z, until: \"2027-01-04T08:00:00+01:00\", reason: holidays}").unwrap()];
        for (now, end) in [
            ("2026-12-19T23:59:59Z", None),
            ("2026-12-20T00:00:00Z", Some(at("2027-01-04T07:00:00Z"))),
            ("2027-01-04T06:59:59Z", Some(at("2027-01-04T07:00:00Z"))),
            ("2027-01-04T07:00:00Z", None),
        ] {
            assert_eq!(until(&holidays, now), end, "{now}");
        }
        assert_eq!(frozen(&holidays, at("2026-12-24T00:00:00Z")).unwrap().reason, "holidays");
    }

    #[test]
    fn a_week_has_its_own_clock() {
        let nights =
            [window("{days: [mon, Friday], from: '22:00', to: '06:00', timezone: Europe/Berlin, reason: nights}")
                .unwrap()];
        for (now, end) in [
            // In winter Berlin is an hour ahead, in summer two: 20 November and 17 July 2026 are Fridays.
            ("2026-11-20T20:59:00Z", None),
            ("2026-11-20T21:00:00Z", Some(at("2026-11-21T05:00:00Z"))),
            ("2026-11-21T04:59:00Z", Some(at("2026-11-21T05:00:00Z"))),
            ("2026-11-21T05:00:00Z", None),
            ("2026-11-21T21:30:00Z", None),
            ("2026-07-17T20:00:00Z", Some(at("2026-07-18T04:00:00Z"))),
        ] {
            assert_eq!(until(&nights, now), end, "{now}");
        }
    }

    #[test]
    fn a_clock_change_opens_and_ends_windows_all_the_same() {
        // On 29 March 2026 the hour from 2 to 3 is left out in Berlin; on 25 October it comes twice.
        let early = [window("{days: [sun], from: '02:30', to: '04:00', timezone: Europe/Berlin, reason: x}").unwrap()];
        assert_eq!(until(&early, "2026-03-29T01:00:00Z"), Some(at("2026-03-29T02:00:00Z")));
        assert_eq!(until(&early, "2026-03-29T00:59:00Z"), None);
        assert_eq!(until(&early, "2026-10-25T00:30:00Z"), Some(at("2026-10-25T03:00:00Z")));
    }

    #[test]
    fn windows_that_follow_one_another_are_one() {
        let weekend = [
            window("{days: [fri], from: '16:00', to: '24:00', reason: weekend}").unwrap(),
            window("{days: [sat, sun], from: '00:00', to: '24:00', reason: weekend}").unwrap(),
        ];
        assert_eq!(until(&weekend, "2026-11-20T17:00:00Z"), Some(at("2026-11-23T00:00:00Z")));
        let always =
            [window("{days: [mon, tue, wed, thu, fri, sat, sun], from: '00:00', to: '24:00', reason: x}").unwrap()];
        assert!(until(&always, "2026-11-20T17:00:00Z").is_some(), "it ends to look");
    }

    #[test]
    fn a_window_that_cannot_be_is_told_with_its_field() {
        for (yaml, field, part) in [
            ("{from: 2026-12-20, until: 2027-01-04T08:00:00Z, reason: x}", "from", "2026-12-20T00:00:00Z"),
            ("{from: 2026-12-20T00:00:00Z, until: 2026-12-20T00:00:00Z, reason: x}", "until", "never open"),
            ("{from: 2026-12-20T00:00:00Z, reason: x}", "", "expected {from, until, reason}"),
            ("{days: [], from: '1:00', to: '2:00', reason: x}", "days", "is empty"),
            ("{days: [someday], from: '1:00', to: '2:00', reason: x}", "days", "no day"),
            ("{days: [mon], from: '25:00', to: '2:00', reason: x}", "from", "24:00"),
            ("{days: [mon], from: '1:00', to: '2:00', timezone: Berlin, reason: x}", "timezone", "Europe/Berlin"),
            ("{days: [mon], from: '1:00', to: '2:00', reason: ' '}", "reason", "say why"),
        ] {
            let (told_field, told) = window(yaml).unwrap_err();
            assert_eq!(told_field, field, "{yaml}");
            assert!(told.contains(part), "{told}");
        }
    }
}
