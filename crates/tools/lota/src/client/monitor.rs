//! Asking the monitor: its read-only HTTP API, and its errors in its own words.
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use reqwest::{StatusCode, Url};
use serde_json::Value;

use crate::home::Home;

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// Larger answers are not read: the monitor's lists are bounded.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The monitor of a fleet.
#[derive(Clone, Debug)]
pub(super) struct Monitor {
    base: Url,
    http: reqwest::Client,
}

/// What the monitor answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Monitor {
    pub(super) fn of(home: &Home) -> anyhow::Result<Self> {
        home.fleet()?;
        let base = home.monitor_url()?;
        let base = Url::parse(&base).with_context(|| format!("`{base}` is no address: restart the monitor"))?;
        let http = home.http()?.connect_timeout(CONNECT_LIMIT).timeout(CALL_LIMIT).build()?;
        Ok(Self { base, http })
    }

    /// `GET /api/v1/<path…>?<query>`, or the monitor's own words why not.
    pub(super) async fn get(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Value> {
        let answer = self.ask(path, query).await?;
        if answer.status.is_success() { Ok(answer.body) } else { Err(refusal(&answer)) }
    }

    /// The same, whatever the status is: an unhealthy fleet answers 503 with all its figures.
    pub(super) async fn ask(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Answer> {
        let url = address(&self.base, path)?;
        let unreachable = || {
            format!(
                "the monitor does not answer at {}: is the fleet up? `lota up` starts it, its log is logs/monitor-bot.log",
                self.base
            )
        };
        let mut response = self
            .http
            .get(url)
            .query(query)
            .send()
            .await
            .map_err(reqwest::Error::without_url)
            .with_context(unreachable)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url).with_context(unreachable)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                bail!("the monitor's answer has more than {ANSWER_BYTES_MAX} bytes: ask for less with --limit");
            }
        }
        let body = serde_json::from_slice(&bytes).with_context(|| {
            format!("expected JSON from the monitor at {}, got {status} with something else", self.base)
        })?;
        Ok(Answer { status, body })
    }
}

/// Each part is percent-encoded, so an id cannot lead anywhere else.
fn address(base: &Url, path: &[&str]) -> anyhow::Result<Url> {
    let mut url = base.clone();
    url.path_segments_mut()
        .map_err(|()| anyhow!("{base} is no address of a monitor"))?
        .pop_if_empty()
        .extend(["api", "v1"])
        .extend(path);
    Ok(url)
}

fn refusal(answer: &Answer) -> anyhow::Error {
    let text = |name: &str| answer.body.pointer(name).and_then(Value::as_str);
    match (text("/error/message"), text("/error/code")) {
        (Some(message), Some(code)) => anyhow!("{message} ({code})"),
        (Some(message), None) => anyhow!("{message}"),
        _ => anyhow!("the monitor answered {} without saying why", answer.status),
    }
}

/// A member as text; empty where it is missing.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A member as a count; 0 where it is missing.
pub(super) fn count(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(|v| v.as_u64().or_else(|| v.as_f64().map(|f| f.max(0.0) as u64))).unwrap_or(0)
}

/// A member that is a list; empty where it is missing.
pub(super) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_id_stays_one_part_of_the_path() {
        let base = Url::parse("http://127.0.0.1:8610").unwrap();
        let url = address(&base, &["jobs", "../x?y#z/%", "log"]).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:8610/api/v1/jobs/..%2Fx%3Fy%23z%2F%25/log");
    }

    #[test]
    fn the_monitor_says_itself_what_is_wrong() {
        let body = json!({"success": false, "error": {"message": "no job `x` is known", "code": "NOT_FOUND"}});
        let answer = Answer { status: StatusCode::NOT_FOUND, body };
        assert_eq!(refusal(&answer).to_string(), "no job `x` is known (NOT_FOUND)");
        let answer = Answer { status: StatusCode::BAD_GATEWAY, body: Value::Null };
        assert!(refusal(&answer).to_string().contains("502"));
    }

    #[test]
    fn what_is_missing_reads_as_nothing() {
        let v = json!({"a": "x", "n": 2.9, "l": [1]});
        assert_eq!(
            (text(&v, "a"), text(&v, "b"), count(&v, "n"), count(&v, "a"), list(&v, "l").len(), list(&v, "a").len()),
            ("x", "", 2, 0, 1, 0)
        );
    }
}
