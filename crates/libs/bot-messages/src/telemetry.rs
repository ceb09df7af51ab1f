//! What bots tell of themselves outside the envelope: heartbeats on `lota.health`, records on `lota.logs`.
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a bot is doing. The table in `docs/MESSAGES.md` says what each means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BotState {
    /// Not yet connected, or not yet ready.
    #[default]
    Starting,
    /// Working.
    Running,
    /// Working with less than it should have; the reasons say what is missing.
    Degraded,
    /// Takes no work until told, or for a while.
    Paused,
    /// `enabled: false` in its configuration.
    Disabled,
    /// Going down in order.
    Stopping,
}

impl BotState {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Stopping => "stopping",
        }
    }
}

/// Sent every 5 s by every process of every bot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Heartbeat {
    /// The bot.
    pub bot: String,
    /// Which of its processes.
    pub instance: String,
    /// When it was sent.
    pub timestamp: DateTime<Utc>,
    /// What it is doing.
    pub state: BotState,
    /// Why it is degraded, paused or disabled.
    pub reasons: Vec<String>,
    /// Of its binary.
    pub version: String,
    /// Hash of its configuration, 16 hex digits.
    pub config_hash: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Deliveries settled since it started: handled, ignored or dead-lettered.
    pub processed: u64,
    /// Of these, how many failed (retried or dead-lettered).
    pub errors: u64,
    /// Deliveries settled per second over the last minute.
    pub rate_per_s: f64,
    /// Failures per delivery over the last minute, 0 to 1.
    pub error_rate: f64,
    /// Delivery to settled: median of the last minute, microseconds.
    pub response_p50_us: u64,
    /// 99th percentile of the last minute, microseconds.
    pub response_p99_us: u64,
    /// Deliveries in hand.
    pub in_flight: u64,
    /// Jobs that run.
    pub jobs_running: u64,
    /// Jobs that wait.
    pub jobs_waiting: u64,
    /// Outbox rows not yet confirmed by the broker.
    pub outbox_unsent: u64,
    /// Log and health records dropped since it started.
    pub records_dropped: u64,
    /// Acks of an ended session since it started.
    pub stale_acks: u64,
    /// Messages since it started that waited for a minute with room (`constraints.rate`).
    pub rate_deferred: u64,
    /// Messages since it started that were refused with RATE_LIMITED.
    pub rate_refused: u64,
    /// Times it connected to the broker.
    pub sessions: u64,
    /// Bots that its configuration names as outputs and that are not installed.
    pub outputs_missing: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Share of one core over the last interval, percent.
    pub cpu_percent: f64,
    /// Since its broker password was changed last, seconds; absent where that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_age_s: Option<u64>,
    /// What confines the commands it runs, for bots that run any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// The attacks that it does not hold, by their names in docs/SECURITY.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sandbox_weaknesses: Vec<String>,
    /// What bounds the number of processes of those commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes_bound: Option<String>,
    /// Optional features that are switched off for a while, by their names in its contract.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub off: Vec<String>,
    /// What it holds back by itself, since something outside fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Held>,
    /// Name and state (`closed`, `open`, `half_open`) of its circuit breakers.
    pub breakers: Vec<(String, String)>,
    /// Ended job of the latest execution: when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_execution: Option<DateTime<Utc>>,
}

/// What a bot holds back by itself, and why: it tries with one at a time until that works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Held {
    /// `messages`, or `job <kind>`.
    pub what: String,
    /// What it cannot do without.
    pub dependency: String,
    /// How that fails.
    pub code: crate::Code,
    /// The latest error, for people.
    pub error: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When it is tried next.
    pub probe_at: DateTime<Utc>,
}

/// What a log record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// A delivery was settled; `outcome` and `message` say how and why.
    Handled,
    /// A line of a job's output.
    Output,
    /// A job's progress.
    Progress,
    /// Anything else.
    Note,
}

/// How a delivery was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The handler did something.
    Acted,
    /// The handler, or a trigger, left it; the reason is in `message`.
    Ignored,
    /// It will be tried again.
    Retried,
    /// It is among the dead letters.
    DeadLettered,
    /// It had been handled before.
    Duplicate,
}

/// One record on the log stream. Best effort: a full buffer drops the oldest and counts them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogRecord {
    /// The bot.
    pub bot: String,
    /// Which of its processes.
    pub instance: String,
    /// When.
    pub timestamp: DateTime<Utc>,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// What it is about.
    pub kind: RecordKind,
    /// The text; for [`RecordKind::Output`] one line.
    pub message: String,
    /// The cause it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The message it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The job it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Place of the line in its job, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// How a delivery was settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Percent, for progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// How long it took, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
}
