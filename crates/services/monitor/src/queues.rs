//! Queue depths from `RabbitMQ`'s management API, with a user that may read and nothing else.
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bot_messages::{keys, topology::METRICS_USER};
use bot_secrets::{Secret, known};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A larger answer is refused; a fleet of hundreds of bots is far below it.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Where to ask and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Management {
    /// Such as `http://127.0.0.1:15672`.
    pub(crate) url: reqwest::Url,
    /// The user.
    pub(crate) user: String,
    /// Read each time, so that a new password needs no restart.
    pub(crate) password_file: PathBuf,
    /// The fleet's vhost.
    pub(crate) vhost: String,
    /// Whom to trust for `https`, besides the system's authorities (PEM).
    pub(crate) authority: Option<PathBuf>,
}

/// How many messages wait in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Depth {
    /// Ready and in hand.
    pub(crate) messages: u64,
    /// Ready.
    #[serde(rename(deserialize = "messages_ready"))]
    pub(crate) ready: u64,
    /// In hand.
    #[serde(rename(deserialize = "messages_unacknowledged"))]
    pub(crate) unacknowledged: u64,
    /// Who reads from it.
    pub(crate) consumers: u64,
}

/// What the broker said last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Snapshot {
    /// When.
    pub(crate) at: DateTime<Utc>,
    /// By queue.
    pub(crate) queues: BTreeMap<String, Depth>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    depth: Depth,
}

impl Management {
    /// From the runtime's settings for this bot; `None` where no URL is given. All mistakes are told at once.
    pub(crate) fn from_settings(settings: &BTreeMap<String, String>, wrong: &mut Vec<String>) -> Option<Self> {
        let url = settings.get("management_url")?;
        let parsed = reqwest::Url::parse(url).ok();
        let parsed = parsed.filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        if parsed.is_none() {
            wrong.push(format!("management_url is `{url}`: expected such as http://127.0.0.1:15672"));
        }
        let password_file = settings.get("management_password_file").map(PathBuf::from);
        if password_file.is_none() {
            let text = "management_url is set and management_password_file is not: name the file with the password";
            wrong.push(text.into());
        }
        Some(Self {
            url: parsed?,
            password_file: password_file?,
            user: settings.get("management_user").cloned().unwrap_or_else(|| METRICS_USER.to_owned()),
            authority: settings.get("management_ca_file").map(PathBuf::from),
            vhost: settings.get("management_vhost").cloned().unwrap_or_else(|| keys::VHOST.to_owned()),
        })
    }

    /// The queues of the vhost, by path segments: a vhost may be named `/`.
    fn address(&self) -> reqwest::Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "queues", &self.vhost]);
        }
        url.set_query(Some("columns=name,messages,messages_ready,messages_unacknowledged,consumers"));
        url
    }

    /// Asks. The error says what was expected, what came, what to do.
    pub(crate) async fn ask(&self, client: &reqwest::Client, now: DateTime<Utc>) -> Result<Snapshot, String> {
        let file = self.password_file.display();
        let password = tokio::fs::read_to_string(&self.password_file)
            .await
            .map_err(|e| format!("expected a password in {file}, got: {e}; correct management_password_file"))?;
        known().add(&Secret::new(password.trim_end()));
        let url = self.address();
        let request =
            client.get(url.clone()).basic_auth(&self.user, Some(password.trim_end())).timeout(Duration::from_secs(5));
        let mut answer = request
            .send()
            .await
            .map_err(|e| format!("expected an answer from {}, got: {}", self.url, e.without_url()))?;
        let status = answer.status();
        if !status.is_success() {
            let user = &self.user;
            return Err(format!(
                "expected 200 from {url}, got {status}; check user `{user}`, its password in {file} and the vhost"
            ));
        }
        let mut body = Vec::new();
        let broken = |e: reqwest::Error| format!("the answer of {} broke off: {}", self.url, e.without_url());
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(format!("expected at most {ANSWER_BYTES_MAX} bytes from {url}, got more"));
            }
        }
        let rows: Vec<Row> =
            serde_json::from_slice(&body).map_err(|e| format!("expected a list of queues from {url}, got: {e}"))?;
        Ok(Snapshot { at: now, queues: rows.into_iter().map(|r| (r.name, r.depth)).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn nothing_configured_is_no_mistake() {
        let mut wrong = Vec::new();
        assert_eq!(Management::from_settings(&settings(&[]), &mut wrong), None);
        assert!(wrong.is_empty());
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mut wrong = Vec::new();
        Management::from_settings(&settings(&[("management_url", "localhost:15672")]), &mut wrong);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }

    #[test]
    fn a_vhost_is_one_segment_of_the_address() {
        let given = settings(&[
            ("management_url", "http://127.0.0.1:15672/"),
            ("management_password_file", "/p"),
            ("management_vhost", "/"),
        ]);
        let management = Management::from_settings(&given, &mut Vec::new()).unwrap();
        assert_eq!(management.user, "lota-metrics");
        let address = management.address();
        assert!(address.as_str().starts_with("http://127.0.0.1:15672/api/queues/%2F?columns=name"), "{address}");
    }

    #[test]
    fn fields_that_are_not_known_yet_are_zero() {
        let row: Row = serde_json::from_str(r#"{"name":"build-bot.work","messages":3,"messages_ready":2}"#).unwrap();
        assert_eq!(row.depth, Depth { messages: 3, ready: 2, unacknowledged: 0, consumers: 0 });
    }
}
