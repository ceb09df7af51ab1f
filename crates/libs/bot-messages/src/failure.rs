//! How failures are told: reasons, codes, severities, the safe error, and the reply to a command.
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a job ended without its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// What was asked for ran and its answer is no: a compiler error, a failing test.
    Failed,
    /// It could not be run: a fetch failed, a file is broken, a tool is missing.
    Error,
    /// Someone stopped it.
    Cancelled,
    /// It did not end within its limit.
    TimedOut,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Standard,
    /// Needs a look soon.
    Warning,
    /// Someone is called at once.
    Critical,
}

/// Every code that a dead letter or a failure can carry. `docs/MESSAGES.md` explains each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The body is not JSON.
    InvalidJson,
    /// A required field is not there.
    MissingField,
    /// A field is there and is not what it has to be.
    InvalidField,
    /// Body or headers exceed their limit.
    MessageTooLarge,
    /// The bot does not hear this type.
    UnknownType,
    /// The payload's schema version is newer than what the bot reads.
    UnsupportedSchema,
    /// The sender may not say this, or is not who it says it is.
    PermissionDenied,
    /// The id was used before for other content.
    DuplicateId,
    /// The message is older than the inbox remembers.
    Expired,
    /// The message ended the bot several times.
    CrashLoop,
    /// More hops than the loop guard allows.
    HopLimit,
    /// Its publisher says more than is handled in the minutes to come.
    RateLimited,
    /// The handler refused the message for good.
    Rejected,
    /// Every attempt failed.
    AttemptsExhausted,
    /// The broker kept refusing what the bot had to say.
    Undeliverable,
    /// A command of the pipeline ended with an error.
    CommandFailed,
    /// A test failed.
    TestsFailed,
    /// A suite ran no test.
    NoTests,
    /// The pipeline file is wrong.
    InvalidPipeline,
    /// The source, or an image that a step names, could not be fetched.
    FetchFailed,
    /// A limit of time, memory, processes, output or disk was reached.
    LimitExceeded,
    /// The application did not become healthy in time.
    HealthCheckFailed,
    /// Someone cancelled it.
    Cancelled,
    /// It took longer than allowed.
    TimedOut,
    /// Something outside did not answer in time, or its circuit breaker is open.
    Unavailable,
    /// Something outside refused the connection.
    ConnectionRefused,
    /// The name of something outside leads nowhere.
    HostNotFound,
    /// There is no memory left, or no room on a disk.
    OutOfMemory,
    /// What was to be written breaks a rule of where it is kept.
    ConstraintViolated,
    /// What was asked for is not there.
    NotFound,
    /// Anything else.
    UnknownError,
}

impl Code {
    /// As written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "INVALID_JSON",
            Self::MissingField => "MISSING_FIELD",
            Self::InvalidField => "INVALID_FIELD",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::UnknownType => "UNKNOWN_TYPE",
            Self::UnsupportedSchema => "UNSUPPORTED_SCHEMA",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::DuplicateId => "DUPLICATE_ID",
            Self::Expired => "EXPIRED",
            Self::CrashLoop => "CRASH_LOOP",
            Self::HopLimit => "HOP_LIMIT",
            Self::RateLimited => "RATE_LIMITED",
            Self::Rejected => "REJECTED",
            Self::AttemptsExhausted => "ATTEMPTS_EXHAUSTED",
            Self::Undeliverable => "UNDELIVERABLE",
            Self::CommandFailed => "COMMAND_FAILED",
            Self::TestsFailed => "TESTS_FAILED",
            Self::NoTests => "NO_TESTS",
            Self::InvalidPipeline => "INVALID_PIPELINE",
            Self::FetchFailed => "FETCH_FAILED",
            Self::LimitExceeded => "LIMIT_EXCEEDED",
            Self::HealthCheckFailed => "HEALTH_CHECK_FAILED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
            Self::Unavailable => "UNAVAILABLE",
            Self::ConnectionRefused => "CONNECTION_REFUSED",
            Self::HostNotFound => "HOST_NOT_FOUND",
            Self::OutOfMemory => "OUT_OF_MEMORY",
            Self::ConstraintViolated => "CONSTRAINT_VIOLATED",
            Self::NotFound => "NOT_FOUND",
            Self::UnknownError => "UNKNOWN_ERROR",
        }
    }

    /// How bad it is where it happens: the one place that says so. A job that takes longer than it may is about that job
    /// ([`Code::TimedOut`]); what is outside and does not answer is about everything that needs it.
    pub fn severity(self) -> Severity {
        match self {
            Self::Unavailable | Self::ConnectionRefused | Self::HostNotFound | Self::OutOfMemory => Severity::Critical,
            // The last four are about the fleet itself: a bug, a loop, a forgery, a broker that takes nothing.
            Self::ConstraintViolated
            | Self::NotFound
            | Self::CrashLoop
            | Self::HopLimit
            | Self::PermissionDenied
            | Self::Undeliverable => Severity::Warning,
            _ => Severity::Standard,
        }
    }
}

/// An error that is safe to show: no stack, no secret, at most 4 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SafeError {
    /// What was expected, what came, what to do.
    pub message: String,
    /// For programs.
    pub code: Code,
    /// When.
    pub timestamp: DateTime<Utc>,
}

impl SafeError {
    /// Messages longer than this are cut.
    pub const MESSAGE_BYTES_MAX: usize = 4096;

    /// Cuts the message to its limit at a character boundary.
    pub fn new(code: Code, message: impl Into<String>, timestamp: DateTime<Utc>) -> Self {
        let mut message = message.into();
        if message.len() > Self::MESSAGE_BYTES_MAX {
            let cut = (0..=Self::MESSAGE_BYTES_MAX).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
            message.truncate(cut);
        }
        Self { message, code, timestamp }
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reply {
    /// Whether it was done.
    pub success: bool,
    /// The message id of the command.
    pub execution_id: String,
    /// What the command found, where it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    /// What went wrong, where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<SafeError>,
    /// Milliseconds.
    pub duration_ms: u64,
}

/// 1 November 2026, noon: the time of every example.
pub(crate) fn example_time() -> DateTime<Utc> {
    DateTime::from_timestamp(1_793_534_400, 0).unwrap_or_default()
}

/// The error of the examples.
pub(crate) fn example_error(code: Code, message: &str) -> SafeError {
    SafeError::new(code, message, example_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_serde_writes_them() {
        for code in [
            Code::InvalidJson,
            Code::PermissionDenied,
            Code::UnknownError,
            Code::CrashLoop,
            Code::NoTests,
            Code::HostNotFound,
        ] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn what_is_outside_and_gone_is_critical_and_a_job_that_takes_too_long_is_not() {
        for code in [Code::ConnectionRefused, Code::HostNotFound, Code::OutOfMemory, Code::Unavailable] {
            assert_eq!(code.severity(), Severity::Critical, "{code:?}");
        }
        for code in [Code::ConstraintViolated, Code::NotFound] {
            assert_eq!(code.severity(), Severity::Warning, "{code:?}");
        }
        assert_eq!(Code::TimedOut.severity(), Severity::Standard);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let e = SafeError::new(Code::UnknownError, "ä".repeat(5000), example_time());
        assert!(e.message.len() <= SafeError::MESSAGE_BYTES_MAX && e.message.len() > 4000);
    }
}
