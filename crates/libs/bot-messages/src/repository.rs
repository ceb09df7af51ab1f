//! What happens in repositories.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CommitId, Event, ObjectRef, Priority, Revision, pipeline::Trigger};

/// A commit arrived in a repository. Whatever the fleet does for it follows from this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryPushed {
    /// The repository, the ref and the commit.
    #[serde(flatten)]
    pub revision: Revision,
    /// What the ref pointed to before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<CommitId>,
    /// Who pushed, as the forge names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pusher: Option<String>,
    /// First line of the commit message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What led to it; absent: a push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Trigger>,
    /// A git bundle that holds the commit, for repositories the fleet cannot reach by `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<ObjectRef>,
}

impl Event for RepositoryPushed {
    const TYPE: &'static str = "repository.pushed";
    const PRIORITY: Priority = Priority::Medium;
    const SUMMARY: &'static str = "A commit arrived in a repository.";
    fn example() -> Self {
        Self {
            revision: Revision::example(),
            before: None,
            pusher: Some("ada".into()),
            title: Some("Answer with the version".into()),
            event: None,
            bundle: None,
        }
    }
}
