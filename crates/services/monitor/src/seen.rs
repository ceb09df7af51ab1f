//! A message as it was seen on the events tap: the few fields that are watched, read leniently, and one line for people.
use bot_core::Observed;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

/// The longest summary, in characters.
const SUMMARY_CHARS_MAX: usize = 200;
/// An id or a name that is longer is cut; the envelope allows 128 bytes.
const NAME_CHARS_MAX: usize = 128;

/// A message, without what nobody looks at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    /// Its id.
    pub(crate) id: String,
    /// Its type.
    pub(crate) event_type: String,
    /// Who said it, as the body claims.
    pub(crate) source: String,
    /// Common to all that follows from one cause; the own id where the body has none.
    pub(crate) correlation_id: String,
    /// The message that led to it.
    pub(crate) parent: Option<String>,
    /// When it was said.
    pub(crate) at: DateTime<Utc>,
    /// `payload.data`.
    pub(crate) data: Value,
}

impl Seen {
    /// Reads what a tap brought. The error says what is missing; the message is then counted and left.
    pub(crate) fn read(observed: &Observed) -> Result<Self, String> {
        let mut body: Value = serde_json::from_slice(&observed.body)
            .map_err(|e| format!("expected a JSON object on {}, got: {e}", observed.routing_key))?;
        let text = |name: &str| body.get(name).and_then(Value::as_str).filter(|s| !s.is_empty());
        let missing = |name: &str| format!("expected `{name}` in a body on {}, it is missing", observed.routing_key);
        let id = cut(text("id").ok_or_else(|| missing("id"))?, NAME_CHARS_MAX);
        let event_type = cut(text("type").ok_or_else(|| missing("type"))?, NAME_CHARS_MAX);
        let at = text("timestamp").and_then(|t| DateTime::parse_from_rfc3339(t).ok());
        Ok(Self {
            source: cut(text("source").unwrap_or("unknown"), NAME_CHARS_MAX),
            correlation_id: cut(text("correlation_id").unwrap_or(&id), NAME_CHARS_MAX),
            parent: observed.causation_id.as_deref().map(|p| cut(p, NAME_CHARS_MAX)),
            at: said_at(at.map(|t| t.with_timezone(&Utc)), observed.at),
            data: body.pointer_mut("/payload/data").map(Value::take).unwrap_or_default(),
            id,
            event_type,
        })
    }

    /// A text of the payload: at its top, or in the revision it speaks about.
    fn text(&self, name: &str) -> Option<&str> {
        self.data.get(name).or_else(|| self.data.get("revision")?.get(name)).and_then(Value::as_str)
    }

    /// The repository it is about.
    pub(crate) fn repository(&self) -> Option<String> {
        self.text("repository").map(|s| cut(s, SUMMARY_CHARS_MAX))
    }
    /// The commit it is about, all digits.
    pub(crate) fn commit(&self) -> Option<String> {
        self.text("commit").map(|s| cut(s, NAME_CHARS_MAX))
    }
    /// The environment it is about.
    pub(crate) fn environment(&self) -> Option<String> {
        self.text("environment").map(|s| cut(s, NAME_CHARS_MAX))
    }
    /// The job it is about.
    pub(crate) fn job_id(&self) -> Option<String> {
        self.text("job_id").map(|s| cut(s, NAME_CHARS_MAX))
    }
    /// The bot it is about, and which of its processes.
    pub(crate) fn bot(&self) -> Option<(&str, &str)> {
        Some((self.text("bot")?, self.text("instance")?))
    }
    /// What went wrong, in words.
    pub(crate) fn error(&self) -> Option<&str> {
        match self.data.get("error")? {
            Value::String(s) => Some(s),
            error => error.get("message")?.as_str(),
        }
    }

    /// One line for people: what it is about, and what it says of it.
    pub(crate) fn summary(&self) -> String {
        let commit = self.text("commit").map(|c| c.chars().take(8).collect::<String>());
        let revision = self.text("repository").map(|r| match commit {
            Some(c) => format!("{r}@{c}"),
            None => r.to_owned(),
        });
        let about = [self.text("environment").map(str::to_owned), revision, self.text("bot").map(str::to_owned)];
        let about: Vec<String> = about.into_iter().flatten().collect();
        let said = self.error().or_else(|| self.text("summary")).or_else(|| self.text("title"));
        // The answer to a command may say what was done.
        let said = said.or_else(|| self.data.pointer("/reply/data/summary").and_then(Value::as_str));
        let said = said.or_else(|| self.text("reason")).map(str::to_owned).or_else(|| self.tests());
        let line = match (about.is_empty(), said) {
            (true, None) => self.job_id().map(|id| format!("job {id}")).unwrap_or_default(),
            (true, Some(said)) => said,
            (false, None) => about.join(" "),
            (false, Some(said)) => format!("{}: {said}", about.join(" ")),
        };
        cut(&line, SUMMARY_CHARS_MAX)
    }

    /// `12 passed, 1 failed` over all suites.
    fn tests(&self) -> Option<String> {
        let suites = self.data.get("suites")?.as_array()?;
        let sum = |name: &str| suites.iter().filter_map(|s| s.get(name)?.as_u64()).fold(0, u64::saturating_add);
        let counts = ["passed", "failed", "skipped"].map(|name| (sum(name), name));
        let words: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, w)| format!("{n} {w}")).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// Who writes whole seconds (a shell script's `date`) would seem to have been up to a second faster than it was: the
/// time of arrival is nearer to the truth then, unless the message waited.
fn said_at(claimed: Option<DateTime<Utc>>, arrived: DateTime<Utc>) -> DateTime<Utc> {
    match claimed {
        Some(at) if at.timestamp_subsec_nanos() == 0 && (arrived - at).abs() < TimeDelta::seconds(2) => arrived,
        Some(at) => at,
        None => arrived,
    }
}

/// At most so many characters, and none that could steer a terminal.
pub(crate) fn cut(text: &str, chars_max: usize) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut cut: String = text.chars().take(chars_max).map(plain).collect();
    if cut.len() < text.len() {
        cut.pop();
        cut.push('…');
    }
    // A hundred thousand of these are kept.
    cut.shrink_to_fit();
    cut
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bot_messages::{
        Event, build::BuildFailed, message::MessageDeadLettered, repository::RepositoryPushed, test::TestCompleted,
    };
    use serde_json::json;

    pub(crate) fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_793_534_400_000 + ms).unwrap()
    }

    /// What a tap brings for a message of `E`.
    pub(crate) fn observed(id: &str, event_type: &str, parent: Option<&str>, ms: i64, data: &Value) -> Observed {
        let body = json!({
            "id": id, "timestamp": at(ms).to_rfc3339(), "source": "BuildBot", "destination": "*", "type": event_type,
            "payload": {"data": data}, "priority": "medium", "correlation_id": "correlation-1",
        });
        Observed {
            body: serde_json::to_vec(&body).unwrap(),
            routing_key: event_type.into(),
            publisher: Some("build-bot".into()),
            causation_id: parent.map(str::to_owned),
            at: at(ms + 1),
        }
    }

    fn summary<E: Event>() -> String {
        let data = serde_json::to_value(E::example()).unwrap();
        Seen::read(&observed("m1", E::TYPE, None, 5, &data)).unwrap().summary()
    }

    #[test]
    fn a_summary_says_what_it_is_about_in_one_line() {
        assert_eq!(summary::<RepositoryPushed>(), "shop/api@4f2d9c1e: Answer with the version");
        assert_eq!(summary::<TestCompleted>(), "shop/api@4f2d9c1e: 12 passed, 1 skipped");
        assert!(summary::<BuildFailed>().starts_with("shop/api@4f2d9c1e: step `compile` ended"));
        assert!(summary::<MessageDeadLettered>().starts_with("BuildBot: `payload.data.commit` is missing"));
    }

    #[test]
    fn what_is_missing_is_named_and_what_may_miss_is_replaced() {
        let tap = |body: &str| Observed {
            body: body.into(),
            routing_key: "a.b".into(),
            publisher: None,
            causation_id: None,
            at: at(7),
        };
        assert!(Seen::read(&tap("{")).unwrap_err().starts_with("expected a JSON object on a.b"));
        assert_eq!(Seen::read(&tap(r#"{"id":"1"}"#)).unwrap_err(), "expected `type` in a body on a.b, it is missing");
        let seen = Seen::read(&tap(r#"{"id":"1","type":"a.b"}"#)).unwrap();
        assert_eq!((seen.correlation_id.as_str(), seen.at, seen.data), ("1", at(7), Value::Null));
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_shown() {
        assert_eq!(cut("a\u{1b}[31mb\nc", 80), "a [31mb c");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
    }

    #[test]
    fn whole_seconds_give_way_to_the_time_of_arrival() {
        assert_eq!(said_at(Some(at(0)), at(700)), at(700));
        assert_eq!(said_at(Some(at(0)), at(5_000)), at(0), "it waited");
        assert_eq!(said_at(Some(at(1)), at(700)), at(1));
    }
}
