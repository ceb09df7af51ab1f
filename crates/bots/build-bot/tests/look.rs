//! Looks of a schedule at real git repositories.
#![allow(clippy::unwrap_used, reason = "a broken assumption ends the test")]

mod fixture;

use bot_core::{Fail, Outcome};
use bot_messages::{Code, pipeline::Trigger, repository::RepositoryPushed};
use build_bot::{BuildBot, Config};
use fixture::{Fleet, Repository, event_of};
use serde_json::{Value, json};

fn nightly(repository: &Repository, git_ref: &str) -> Value {
    json!({"url": repository.path().display().to_string(), "ref": git_ref})
}

fn poll(repository: &Repository) -> Value {
    let mut data = nightly(repository, "refs/heads/main");
    data["only"] = "changed".into();
    data
}

fn pushed(outcome: &Outcome<BuildBot>) -> RepositoryPushed {
    event_of(outcome.as_ref().unwrap())
}

#[tokio::test]
async fn a_poll_says_a_commit_that_is_new_and_no_other() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    let first = repository.commit();
    let found = pushed(&fleet.look(&poll(&repository), None).await);
    assert_eq!((found.revision.commit.as_str(), found.revision.repository.as_str()), (first.as_str(), "api"));
    assert_eq!((found.event, found.before), (Some(Trigger::Push), None));
    let same = fleet.look(&poll(&repository), Some(&first)).await.unwrap();
    assert!(same.list.is_empty() && same.note.as_ref().unwrap().contains("still at"), "{same:?}");
    let second = repository.commit();
    let found = pushed(&fleet.look(&poll(&repository), Some(&first)).await);
    assert_eq!(found.revision.commit.as_str(), second);
    assert_eq!(found.before.unwrap().as_str(), first);
    assert!(fleet.work_is_empty());
}

#[tokio::test]
async fn a_nightly_build_says_the_commit_whatever_is_known() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    let commit = repository.commit();
    // Refs that end alike, and one that a pattern would find.
    repository.commit();
    repository.git(&["update-ref", "refs/heads/x/refs/heads/night", "HEAD"]);
    repository.git(&["branch", "night", &commit]);
    let found = pushed(&fleet.look(&nightly(&repository, "refs/heads/night"), Some(&commit)).await);
    assert_eq!((found.revision.commit.as_str(), found.event), (commit.as_str(), Some(Trigger::Schedule)));
    assert_eq!(found.before, None, "it is what it was");
}

#[tokio::test]
async fn a_tag_is_the_commit_that_it_names() {
    let (fleet, repository) = (Fleet::new(), Repository::with_format("sha256"));
    let commit = repository.commit();
    repository.git(&["tag", "--annotate", "--message=one", "v1"]);
    let found = pushed(&fleet.look(&nightly(&repository, "refs/tags/v1"), None).await);
    assert_eq!(found.revision.commit.as_str(), commit);
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let (fleet, repository) = (Fleet::new(), Repository::new());
    repository.commit();
    let gone = json!({"url": "/nowhere/api", "ref": "refs/heads/main"});
    for (data, want) in
        [(nightly(&repository, "refs/heads/none"), "has no refs/heads/none"), (gone, "is not a folder on this machine")]
    {
        let fail = fleet.look(&data, None).await.unwrap_err();
        assert!(
            matches!(fail, Fail::Reject { code: Code::FetchFailed, .. }) && fail.message().contains(want),
            "{fail:?}"
        );
    }
    assert!(fleet.work_is_empty());
}

#[tokio::test]
async fn a_server_that_is_away_is_tried_again_and_then_left_alone() {
    // Nothing listens on this port, which only root could use.
    let data = json!({"url": "http://127.0.0.1:1/shop/api.git", "ref": "refs/heads/main", "only": "changed"});
    let fleet = Fleet::with(Config { allow_unencrypted: true, ..Config::default() });
    let mut told = Vec::new();
    for _ in 0..6 {
        let fail = fleet.look(&data, None).await.unwrap_err();
        assert!(matches!(fail, Fail::Retry(_)), "{fail:?}");
        told.push(fail.message());
    }
    assert!(told[0].contains("cannot be fetched"), "{told:?}");
    assert!(told[5].contains("temporarily disabled"), "no server is asked for ever: {told:?}");
}
