//! Approvals: they name the exact digest, are used once, expire, and carry who gave them.
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Digest, Event, ObjectRef, Priority, Revision, failure::example_time};

const APPROVAL: &str = "production:7:3f8a3f8a3f8a";

/// Something waits for a person's yes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalRequested {
    /// Names this request; an answer repeats it.
    pub approval_id: String,
    /// What is asked for, such as `deploy`.
    pub action: String,
    /// Where.
    pub environment: String,
    /// Exactly what.
    pub digest: Digest,
    /// Where the artifact came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Who or what asks.
    pub requested_by: String,
    /// No answer after this counts.
    pub expires_at: DateTime<Utc>,
}
impl Event for ApprovalRequested {
    const TYPE: &'static str = "approval.requested";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "Something waits for a person's yes.";
    fn example() -> Self {
        Self {
            approval_id: APPROVAL.into(),
            action: "deploy".into(),
            environment: "production".into(),
            digest: ObjectRef::example("application/zstd").digest,
            revision: Some(Revision::example()),
            requested_by: "a push of refs/heads/main".into(),
            expires_at: example_time(),
        }
    }
}

/// A person said yes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalGranted {
    /// The request.
    pub approval_id: String,
    /// Where.
    pub environment: String,
    /// Exactly what.
    pub digest: Digest,
    /// Who.
    pub approver: String,
    /// Not to be used after this.
    pub expires_at: DateTime<Utc>,
    /// Ed25519 over the fields above, base64; absent where the fleet does not ask for signatures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}
impl Event for ApprovalGranted {
    const TYPE: &'static str = "approval.granted";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "A person said yes.";
    fn example() -> Self {
        Self {
            approval_id: APPROVAL.into(),
            environment: "production".into(),
            digest: ObjectRef::example("application/zstd").digest,
            approver: "ada".into(),
            expires_at: example_time(),
            signature: None,
        }
    }
}

/// A person said no.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalDenied {
    /// The request.
    pub approval_id: String,
    /// Where.
    pub environment: String,
    /// Exactly what.
    pub digest: Digest,
    /// Who.
    pub approver: String,
    /// Why.
    pub reason: String,
    /// When the request would have expired.
    pub expires_at: DateTime<Utc>,
    /// Ed25519 over the fields above, base64; absent where the fleet does not ask for signatures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}
impl Event for ApprovalDenied {
    const TYPE: &'static str = "approval.denied";
    const PRIORITY: Priority = Priority::High;
    const SUMMARY: &'static str = "A person said no.";
    fn example() -> Self {
        Self {
            approval_id: APPROVAL.into(),
            environment: "production".into(),
            digest: ObjectRef::example("application/zstd").digest,
            approver: "ada".into(),
            reason: "freeze until Monday".into(),
            expires_at: example_time(),
            signature: None,
        }
    }
}
