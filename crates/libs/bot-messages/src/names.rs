//! Names on the wire: bots, routing keys, exchanges, queues, retry tiers. Every one of them is made here.
use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{got}` is not usable: expected {expected}")]
pub struct InvalidName {
    /// What was being named.
    pub what: &'static str,
    /// The rule that was broken.
    pub expected: &'static str,
    /// What came, cut to 80 characters.
    pub got: String,
}

/// The name of a bot or of an outside publisher, as it stands in `source` and `destination`:
/// 1 to 64 ASCII letters, digits, `-` or `_`, beginning with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct BotName(String);

impl BotName {
    /// The name as it is written in messages (`BuildBot`).
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as it is written in queue, exchange and user names (`build-bot`).
    pub fn slug(&self) -> String {
        slug(&self.0)
    }
}

/// `BuildBot` → `build-bot`; what is already lower case stays as it is.
fn slug(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let mut previous_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            if previous_lower {
                out.push('-');
            }
            out.push(c.to_ascii_lowercase());
        } else {
            out.push(if c == '_' { '-' } else { c });
        }
        previous_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
    }
    out
}

impl FromStr for BotName {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let fits = (1..=64).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if fits {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidName {
                what: "name",
                expected: "1 to 64 letters, digits, `-` or `_`, beginning with a letter",
                got: s.chars().take(80).collect(),
            })
        }
    }
}
impl TryFrom<String> for BotName {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}
impl From<BotName> for String {
    fn from(n: BotName) -> Self {
        n.0
    }
}
impl fmt::Display for BotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `s` can be a message type: two or more lower-case words joined by dots, at most 100 bytes.
pub fn is_event_type(s: &str) -> bool {
    let word = |w: &str| {
        !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
    };
    s.len() <= 100 && s.contains('.') && s.split('.').all(word)
}

/// The delays a retry can be rounded up to: each is a queue whose TTL is the delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// 5 seconds.
    Sec5,
    /// 30 seconds.
    Sec30,
    /// 2 minutes.
    Min2,
    /// 10 minutes.
    Min10,
    /// 1 hour.
    Hour1,
}

impl Tier {
    /// Shortest first.
    pub const ALL: [Self; 5] = [Self::Sec5, Self::Sec30, Self::Min2, Self::Min10, Self::Hour1];

    /// As written in queue names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sec5 => "5s",
            Self::Sec30 => "30s",
            Self::Min2 => "2m",
            Self::Min10 => "10m",
            Self::Hour1 => "1h",
        }
    }

    /// How long a message waits.
    pub fn delay(self) -> Duration {
        Duration::from_secs(match self {
            Self::Sec5 => 5,
            Self::Sec30 => 30,
            Self::Min2 => 120,
            Self::Min10 => 600,
            Self::Hour1 => 3600,
        })
    }

    /// The shortest tier that waits at least `delay`; the longest for anything above it.
    pub fn at_least(delay: Duration) -> Self {
        Self::ALL.into_iter().find(|t| t.delay() >= delay).unwrap_or(Self::Hour1)
    }
}

/// Exchange, queue and routing-key names. `bot` is always a slug (`build-bot`).
pub mod keys {
    use super::Tier;

    /// The vhost of a fleet unless configured otherwise.
    pub const VHOST: &str = "lota";
    /// Tap of everything said.
    pub const EVENTS: &str = "lota.events";
    /// Tap of heartbeats.
    pub const HEALTH: &str = "lota.health";
    /// Tap of audit records.
    pub const AUDIT: &str = "lota.audit";
    /// Tap of log records.
    pub const LOGS: &str = "lota.logs";
    /// Where retry tiers dead-letter to.
    pub const REQUEUE: &str = "lota.requeue";
    /// Where work queues dead-letter to.
    pub const DEAD: &str = "lota.dead";
    /// Alternate exchange, and its queue.
    pub const UNROUTED: &str = "lota.unrouted";
    /// The queue behind [`UNROUTED`].
    pub const UNROUTED_QUEUE: &str = "unrouted";
    /// Common beginning of every publisher's own exchange.
    pub const EGRESS_PREFIX: &str = "lota.egress.";

    /// A publisher's own exchange, the only one it may write to.
    pub fn egress(publisher: &str) -> String {
        format!("{EGRESS_PREFIX}{publisher}")
    }
    /// A bot's login and its schema, where its store is in PostgreSQL (`build_bot`).
    pub fn store(bot: &str) -> String {
        bot.replace('-', "_")
    }
    /// The queue a bot works from.
    pub fn work(bot: &str) -> String {
        format!("{bot}.work")
    }
    /// The queue a bot is steered by.
    pub fn control(bot: &str) -> String {
        format!("{bot}.control")
    }
    /// Heartbeats of a bot's dependencies.
    pub fn health_queue(bot: &str) -> String {
        format!("{bot}.health")
    }
    /// A bot's dead letters; also their routing key after `dead.`.
    pub fn dead_queue(bot: &str) -> String {
        format!("{bot}.dead")
    }
    /// Routing key of a bot's dead letters.
    pub fn dead(bot: &str) -> String {
        format!("dead.{bot}")
    }
    /// A retry queue.
    pub fn retry_queue(bot: &str, tier: Tier) -> String {
        format!("{bot}.retry.{}", tier.as_str())
    }
    /// Routing key into a retry queue.
    pub fn retry(bot: &str, tier: Tier) -> String {
        format!("retry.{bot}.{}", tier.as_str())
    }
    /// Routing key by which a retried or replayed message comes back.
    pub fn requeue(bot: &str) -> String {
        format!("requeue.{bot}")
    }
    /// Routing key of a command.
    pub fn command(bot: &str, event_type: &str) -> String {
        format!("to.{bot}.{event_type}")
    }
    /// Routing key of a heartbeat.
    pub fn health(bot: &str, instance: &str) -> String {
        format!("health.{bot}.{instance}")
    }
    /// Routing key of a log record.
    pub fn log(bot: &str, level: &str) -> String {
        format!("log.{bot}.{level}")
    }
    /// Routing key of an audit record.
    pub fn audit(bot: &str, action: &str) -> String {
        format!("audit.{bot}.{action}")
    }
    /// An observer's own queue on a tap (`events`, `health`, `logs`, `audit`).
    pub fn tap_queue(observer: &str, tap: &str) -> String {
        format!("{observer}.tap.{tap}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_kebab_case() {
        for (name, want) in
            [("BuildBot", "build-bot"), ("ci_main", "ci-main"), ("MonitorBot", "monitor-bot"), ("x9Y", "x9-y")]
        {
            assert_eq!(name.parse::<BotName>().unwrap().slug(), want);
        }
    }

    #[test]
    fn names_that_could_escape_a_routing_key_are_refused() {
        for bad in ["", "a.b", "#", "*", "-a", "9a", "a b", &"a".repeat(65), "ü"] {
            assert!(bad.parse::<BotName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_delay_is_rounded_up_to_a_tier() {
        for (secs, tier) in
            [(0, Tier::Sec5), (5, Tier::Sec5), (6, Tier::Sec30), (121, Tier::Min10), (99_999, Tier::Hour1)]
        {
            assert_eq!(Tier::at_least(Duration::from_secs(secs)), tier);
        }
    }

    #[test]
    fn types_have_at_least_two_words() {
        assert!(is_event_type("build.completed") && is_event_type("deploy.rolled_back"));
        for bad in ["build", "Build.done", "a..b", ".a", "a.*", "a.#", ""] {
            assert!(!is_event_type(bad), "{bad}");
        }
    }
}
