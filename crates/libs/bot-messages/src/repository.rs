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

/// The name of a repository that was given none: the last two parts of its URL's path, or the name of the folder. Empty
/// where the URL has no path.
pub fn name_of_url(url: &str) -> String {
    let (path, parts) = match url.split_once("://") {
        Some(("file", path)) => (path, 1),
        Some((_, rest)) => (rest.split_once('/').map_or("", |(_, path)| path), 2),
        None if url.starts_with('/') => (url, 1),
        None => (url.split_once(':').map_or("", |(_, path)| path), 2),
    };
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
    let all: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    all[all.len().saturating_sub(parts)..].join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_named_after_its_place() {
        for (url, name) in [
            ("/srv/git/shop", "shop"),
            ("/srv/git/shop.git", "shop"),
            ("https://git.example.org/group/shop/api.git", "shop/api"),
            ("https://git.example.org/api/", "api"),
            ("git@git.example.org:shop/api.git", "shop/api"),
            ("ssh://git@git.example.org:22/shop/api", "shop/api"),
            ("file:///srv/shop.git/", "shop"),
            ("shop", ""),
        ] {
            assert_eq!(name_of_url(url), name, "{url}");
        }
    }
}
