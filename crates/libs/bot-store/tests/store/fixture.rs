//! Makers of the small things that the tests write, and nothing that decides.

use std::path::Path;
use std::time::Duration;

use bot_store::{
    Claimed, Commit, Guard, InboxKey, InboxMark, JobEnd, JobOutcome, JobStatus, NewJob, NewTimer, Outgoing, StateWrite,
    Store, StoreOptions,
};
use serde_json::{Value, json};

pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const HOUR: Duration = Duration::from_hours(1);

pub(crate) fn options(dir: &Path) -> StoreOptions {
    StoreOptions { dir: dir.to_owned(), max_page_count: None }
}

pub(crate) async fn open(dir: &Path) -> Store {
    Store::open(options(dir)).await.unwrap()
}

pub(crate) fn key(id: &str) -> InboxKey {
    InboxKey { publisher: "build-bot".to_owned(), id: id.to_owned(), replay: 0 }
}

/// A settled first attempt of a message, with the content "one".
pub(crate) fn settled(id: &str) -> InboxMark {
    InboxMark { key: key(id), content_hash: "one".to_owned(), attempt: 1, settled: true, counts: true }
}

pub(crate) fn write(key: &str, expected_version: u64, value: Value) -> StateWrite {
    StateWrite { key: key.to_owned(), expected_version, value }
}

pub(crate) fn message(body: &str) -> Outgoing {
    Outgoing {
        exchange: "lota.egress.test-bot".to_owned(),
        routing_key: "test.completed".to_owned(),
        body: body.as_bytes().to_vec(),
        properties: json!({ "message_id": body }),
        priority: 5,
    }
}

/// A commit that sends one message and nothing else: what must not be seen where a commit is refused.
pub(crate) fn sending(body: &str) -> Commit {
    Commit { outbox: vec![message(body)], ..Commit::default() }
}

pub(crate) fn job(id: &str, exclusive: Option<&str>) -> NewJob {
    NewJob {
        id: id.to_owned(),
        kind: "deploy".to_owned(),
        key: "shop".to_owned(),
        exclusive: exclusive.map(str::to_owned),
        weight: 1,
        payload: json!({ "of": id }),
        meta: json!({ "hop": 1 }),
    }
}

pub(crate) async fn add_jobs(store: &Store, jobs: Vec<NewJob>) {
    store.commit(Commit { jobs, ..Commit::default() }).await.unwrap();
}

pub(crate) fn held(job: &Claimed) -> Guard {
    Guard::Job { id: job.id.clone(), token: job.token }
}

pub(crate) fn ending(job: &Claimed, outcome: JobOutcome) -> Commit {
    Commit { guard: held(job), job_end: Some(JobEnd { outcome }), ..Commit::default() }
}

pub(crate) fn done(job: &Claimed) -> Commit {
    ending(job, JobOutcome::Ended(JobStatus::Done))
}

pub(crate) fn again(after: Duration, counts: bool) -> JobOutcome {
    JobOutcome::Again { after, error: "the host did not answer".to_owned(), counts }
}

pub(crate) async fn claim(store: &Store, limit: u32) -> Vec<Claimed> {
    store.claim("this bot", LEASE, limit, &[], &[]).await.unwrap()
}

pub(crate) fn ids(jobs: &[Claimed]) -> Vec<&str> {
    jobs.iter().map(|job| job.id.as_str()).collect()
}

pub(crate) fn timer(name: &str, after: Duration) -> NewTimer {
    NewTimer {
        name: name.to_owned(),
        key: "shop".to_owned(),
        after,
        data: json!({ "of": name }),
        meta: json!({ "hop": 1 }),
    }
}

pub(crate) fn setting(timers: Vec<NewTimer>) -> Commit {
    Commit { set_timers: timers, ..Commit::default() }
}

/// The bodies in the outbox, in their order.
pub(crate) async fn bodies(store: &Store) -> Vec<String> {
    let queued = store.unsent(0, u32::MAX).await.unwrap();
    queued.into_iter().map(|row| String::from_utf8(row.message.body).unwrap()).collect()
}

/// Lets the database's clock go on by at least a millisecond, which is as fine as it gets.
pub(crate) async fn next_millisecond() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}
