//! The object store on a real S3 server: the same promises as on a directory, and what only a server can get wrong.
#![allow(clippy::unwrap_used, reason = "tests: a broken assumption ends them")]
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
};

use bot_clients::{InUse, Kind, ObjectError, Objects, RetentionDays, Said, Tally};
use bot_messages::{Digest, ObjectRef};
use bot_test::S3Server;
use chrono::{DateTime, TimeDelta, Utc};

const MAX: u64 = 64 << 20;
/// Larger than what is sent in one piece.
const LARGE: usize = (16 << 20) + 5;

fn open(server: &S3Server) -> Objects {
    Objects::open(&server.place("fleet/one")).unwrap()
}

fn key(digest: &Digest) -> String {
    let (folder, name) = digest.hex().split_at(2);
    format!("fleet/one/objects/sha256/{folder}/{name}")
}

fn large(dir: &Path) -> std::path::PathBuf {
    let file = dir.join("large");
    fs::write(&file, (0..LARGE).map(|i| (i % 251) as u8).collect::<Vec<_>>()).unwrap();
    file
}

#[tokio::test]
async fn what_is_stored_comes_back_and_is_not_sent_twice() {
    let (server, dir) = (S3Server::start(), tempfile::tempdir().unwrap());
    let objects = open(&server);
    let (from, to) = (large(dir.path()), dir.path().join("back"));
    for _ in 0..2 {
        let stored = objects.put_file(&from, Kind::Artifact, "application/zstd").await.unwrap();
        assert_eq!(objects.get_file(&stored.digest, &to, MAX).await.unwrap(), LARGE as u64);
        assert!(fs::read(&to).unwrap() == fs::read(&from).unwrap());
    }
    let small = objects.put_bytes(b"hello".to_vec(), Kind::Log, "text/plain").await.unwrap();
    assert_eq!(objects.get_bytes(&small.digest, MAX).await.unwrap(), b"hello");
    let before = server.modified(&key(&small.digest));
    // The server tells seconds; only a clock that has moved on shows whether it was written again.
    while clock(&server) <= before {}
    assert_eq!(objects.put_bytes(b"hello".to_vec(), Kind::Log, "text/plain").await.unwrap(), small);
    assert_eq!(server.modified(&key(&small.digest)), before, "it was sent again");
    let keys = server.keys("");
    assert_eq!(keys.iter().filter(|key| key.starts_with("fleet/one/objects/sha256/")).count(), 2, "{keys:?}");
    assert_eq!(keys.iter().filter(|key| key.starts_with("fleet/one/kinds/sha256/")).count(), 2, "{keys:?}");
    assert_eq!(keys.len(), 5, "{keys:?}");
}

/// What the server would say of an object that is written now.
fn clock(server: &S3Server) -> String {
    server.put("clock", b"now");
    server.modified("clock")
}

#[tokio::test]
async fn missing_damaged_and_too_large_are_told_apart_and_leave_nothing() {
    let (server, dir) = (S3Server::start(), tempfile::tempdir().unwrap());
    let (objects, to) = (open(&server), dir.path().join("back"));
    let none = ObjectRef::example("text/plain").digest;
    assert!(!objects.exists(&none).await.unwrap());
    let missing = objects.get_file(&none, &to, MAX).await.unwrap_err();
    assert!(matches!(missing, ObjectError::NotFound { .. }) && !missing.may_pass(), "{missing}");

    let stored = objects.put_file(&large(dir.path()), Kind::Source, "x/y").await.unwrap();
    let bound = objects.get_file(&stored.digest, &to, 99).await.unwrap_err();
    assert!(matches!(bound, ObjectError::TooLarge { bytes_max: 99, .. }), "{bound}");

    let small = objects.put_bytes(b"right".to_vec(), Kind::Log, "x/y").await.unwrap();
    for (digest, lie) in [(&small.digest, "wrong"), (&stored.digest, "cut short")] {
        server.put(&key(digest), lie.as_bytes());
        let damaged = objects.get_file(digest, &to, MAX).await.unwrap_err();
        assert!(matches!(damaged, ObjectError::Damaged { .. }) && !damaged.may_pass(), "{damaged}");
        assert!(objects.get_bytes(digest, MAX).await.is_err());
    }
    assert!(!to.exists() && !dir.path().join("back.partial").exists());
    // One that was cut short is seen by its size, and heals.
    objects.put_file(&dir.path().join("large"), Kind::Source, "x/y").await.unwrap();
    assert_eq!(objects.get_file(&stored.digest, &to, MAX).await.unwrap(), LARGE as u64);
}

#[tokio::test]
async fn a_server_that_refuses_is_told_from_one_that_does_not_answer() {
    let (closed, none) = (S3Server::start_closed(), ObjectRef::example("text/plain").digest);
    let objects = open(&closed);
    let told = objects.get_bytes(&none, MAX).await.unwrap_err();
    assert!(matches!(told, ObjectError::Refused { .. }) && told.may_pass(), "{told}");
    let told = objects.put_bytes(b"x".to_vec(), Kind::Log, "x/y").await.unwrap_err();
    assert!(matches!(told, ObjectError::Refused { .. }), "{told}");

    // Credentials are read when they are used: a file that is gone is a refusal, one that is back is not.
    let server = S3Server::start();
    let objects = open(&server);
    let (file, aside) = (server.secret("key"), server.secret("aside"));
    fs::rename(&file, &aside).unwrap();
    let told = objects.exists(&none).await.unwrap_err();
    assert!(matches!(told, ObjectError::Refused { .. }) && told.to_string().contains("key"), "{told}");
    fs::rename(&aside, &file).unwrap();
    assert!(!objects.exists(&none).await.unwrap());

    let elsewhere = server.place("x").replace("s3://lota/", "s3://no-such-bucket/");
    let elsewhere = Objects::open(&elsewhere).unwrap();
    for told in [
        elsewhere.get_bytes(&none, MAX).await.unwrap_err(),
        elsewhere.put_bytes(b"x".to_vec(), Kind::Log, "x/y").await.unwrap_err(),
    ] {
        assert!(matches!(told, ObjectError::Refused { .. }), "{told}");
    }

    // One that is not there, and one that says to every try that it cannot now.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy_at = busy.local_addr().unwrap();
    std::thread::spawn(move || busy.incoming().flatten().for_each(unavailable));
    for address in [free, busy_at] {
        let (id, key) = (server.secret("id"), server.secret("key"));
        let files = format!("access_key_id_file={}&secret_access_key_file={}", id.display(), key.display());
        let away = Objects::open(&format!("s3://lota?endpoint=http://{address}&{files}")).unwrap();
        let told = away.get_bytes(&none, MAX).await.unwrap_err();
        assert!(matches!(told, ObjectError::Unreachable { .. }) && told.may_pass(), "{told}");
    }
}

fn unavailable(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write_all(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}

#[tokio::test]
async fn no_error_and_no_debug_output_shows_a_secret() {
    let closed = S3Server::start_closed();
    let objects = open(&closed);
    let error = objects.put_bytes(b"x".to_vec(), Kind::Log, "x/y").await.unwrap_err();
    for shown in [format!("{objects:?}"), error.to_string(), format!("{error:?}")] {
        assert!(!shown.contains(S3Server::canary()), "{shown}");
    }
}

#[tokio::test]
async fn retention_removes_what_is_old_and_not_needed() {
    let server = S3Server::start();
    let objects = open(&server);
    let mut stored = Vec::new();
    for (text, kind) in [("log", Kind::Log), ("live", Kind::Artifact), ("old", Kind::Artifact)] {
        stored.push(objects.put_bytes(text.as_bytes().to_vec(), kind, "x/y").await.unwrap().digest);
    }
    let live = ["live".to_owned()];
    let now: DateTime<Utc> = server.modified(&key(&stored[2])).parse().unwrap();
    let collect = async |days: i64, dry_run: bool| {
        objects.collect(&RetentionDays::default(), &live, now + TimeDelta::days(days), dry_run).await
    };
    let silent = collect(1000, false).await.unwrap_err();
    assert!(matches!(silent, ObjectError::InUse { .. }), "{silent}");
    let in_use = InUse { digests: [stored[1].clone()].into(), token: 1 };
    objects.write_in_use("live", &in_use, &Said::default()).await.unwrap();
    let month = collect(31, true).await.unwrap();
    assert_eq!(month.removed, [(Kind::Log, Tally { count: 1, bytes: 3 })].into());
    assert_eq!(server.keys("fleet/one/objects/").len(), 3);
    let quarter = collect(91, false).await.unwrap();
    assert_eq!(quarter.removed.values().map(|tally| tally.count).sum::<u64>(), 2);
    assert_eq!(server.keys("fleet/one/objects/"), [key(&stored[1])]);
    assert_eq!(server.keys("fleet/one/kinds/").len(), 1);
}

#[tokio::test]
async fn who_was_taken_over_cannot_say_what_is_in_use() {
    let server = S3Server::start();
    let objects = open(&server);
    let says = |token| InUse { digests: [ObjectRef::example("x/y").digest].into(), token };
    let (nothing, late) = (Said::default(), objects.said_in_use("live").await.unwrap());
    objects.write_in_use("live", &says(7), &nothing).await.unwrap();
    let first = objects.write_in_use("live", &says(9), &late).await.unwrap_err();
    assert!(matches!(first, ObjectError::Overtaken { .. }), "both would be the first: {first}");
    let seven = objects.said_in_use("live").await.unwrap();
    objects.write_in_use("live", &says(8), &seven).await.unwrap();
    let changed = objects.write_in_use("live", &says(9), &seven).await.unwrap_err();
    assert!(matches!(changed, ObjectError::Overtaken { .. }), "it looked before the other wrote: {changed}");
    let eight = objects.said_in_use("live").await.unwrap();
    let stale = objects.write_in_use("live", &says(7), &eight).await.unwrap_err();
    assert!(matches!(stale, ObjectError::Stale { token: 7, held: 8, .. }), "{stale}");
    assert_eq!(objects.in_use().await.unwrap()["live"], says(8));
}
