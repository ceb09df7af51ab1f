//! What needs a second process: being killed in the middle, and being kept out.
#![allow(clippy::disallowed_methods, reason = "the test binary starts itself as the process that is killed")]
#![allow(clippy::print_stdout, reason = "the parent reads what the child acknowledged")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bot_store::{Commit, Committed, Store, StoreError};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;
use tempfile::tempdir;

use crate::fixture::{bodies, key, open, options, sending, settled, write};

const ROLE: &str = "LOTA_STORE_TEST_ROLE";
const DIR: &str = "LOTA_STORE_TEST_DIR";

/// Starts this binary again with only the test [`child`], which plays `role`.
fn start(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::child", "--exact", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .env(DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "plays a part in the tests below, which start it"]
async fn child() {
    // For the limit on files: unblocked, the signal would end the process. The database's threads inherit it.
    SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else {
        return;
    };
    let dir = Path::new(&dir);
    match role.as_str() {
        "write" => write_until_killed(&open(dir).await).await,
        "hold" => {
            let _store = open(dir).await;
            println!("acked open");
            // Ends with the parent, which holds the other side.
            std::io::stdin().lines().for_each(drop);
        }
        "strict umask" => {
            nix::sys::stat::umask(nix::sys::stat::Mode::all());
            let store = open(dir).await;
            store.set_meta("a", "b").await.unwrap();
            println!("acked open");
            std::io::stdin().lines().for_each(drop);
        }
        "limited" => fail_to_commit(&open(dir).await).await,
        other => panic!("unknown role {other}"),
    }
}

async fn write_until_killed(store: &Store) {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            for number in 0_u64.. {
                let id = format!("{writer}-{number}");
                let state = Some(write(&format!("writer {writer}"), number, json!(number)));
                let commit = Commit { inbox: Some(settled(&id)), state, ..sending(&id) };
                assert_eq!(store.commit(commit).await.unwrap(), Committed::Done);
                println!("acked {id}");
            }
        });
    }
    writers.join_all().await;
}

/// A limit on the size of files makes the COMMIT itself fail, as a broken disk would.
async fn fail_to_commit(store: &Store) {
    let limit = |bytes| setrlimit(Resource::RLIMIT_FSIZE, bytes, RLIM_INFINITY).unwrap();
    store.set_meta("before", "it").await.unwrap();
    let before = store.commits_total();
    limit(0);
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..20 {
        let store = store.clone();
        let id = number.to_string();
        let commit = Commit { inbox: Some(settled(&id)), ..sending(&id) };
        writes.spawn(async move { store.commit(commit).await });
    }
    for answer in writes.join_all().await {
        let error = answer.unwrap_err();
        assert!(error.to_string().contains("disk I/O error"), "{error}");
    }
    assert_eq!(store.commits_total(), before);
    assert_eq!(bodies(store).await, [""; 0]);

    limit(RLIM_INFINITY);
    let commit = Commit { inbox: Some(settled("3")), ..sending("3") };
    assert_eq!(store.commit(commit).await.unwrap(), Committed::Done);
    assert_eq!(bodies(store).await, ["3"]);
    println!("acked all");
}

/// Reads what the child acknowledged, kills it after `count` of them, and reads what it still got out.
fn kill_after(mut child: Child, count: usize) -> BTreeSet<String> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut acked = BTreeSet::new();
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        // The last line may be cut.
        if let (Some((_, id)), true) = (line.trim_end().split_once("acked "), line.ends_with('\n')) {
            acked.insert(id.to_owned());
        }
        if acked.len() == count {
            child.kill().unwrap();
        }
        line.clear();
    }
    child.wait().unwrap();
    acked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_leaves_every_acknowledged_commit_and_no_half_one() {
    for count in [1, 40, 150] {
        let dir = tempdir().unwrap();
        let acked = kill_after(start("write", dir.path()), count);
        assert!(acked.len() >= count, "it wrote until it was killed");

        let store = open(dir.path()).await;
        let sent: BTreeSet<_> = bodies(&store).await.into_iter().collect();
        assert!(sent.is_superset(&acked), "lost: {:?}", acked.difference(&sent));
        let mut last = [None::<u64>; 8];
        for id in &sent {
            assert!(store.inbox(&key(id)).await.unwrap().unwrap().settled, "{id}");
            let (writer, number) = id.split_once('-').unwrap();
            let last = &mut last[writer.parse::<usize>().unwrap()];
            *last = (*last).max(Some(number.parse().unwrap()));
        }
        for (writer, last) in last.into_iter().enumerate() {
            let state = store.state(&format!("writer {writer}")).await.unwrap();
            assert_eq!(state, last.map(|number| (json!(number), number + 1)), "writer {writer}");
        }
        store.close().await;
    }
}

#[tokio::test]
async fn a_second_process_is_kept_out_until_the_first_is_gone() {
    let dir = tempdir().unwrap();
    let mut child = start("hold", dir.path());
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("acked open") {
        assert!(output.read_line(&mut line).unwrap() > 0, "{line}");
    }
    match Store::open(options(dir.path())).await {
        Err(StoreError::InUse { pid, .. }) => assert_eq!(pid, child.id().to_string()),
        other => panic!("expected InUse, found {other:?}"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    open(dir.path()).await.close().await;
}

#[tokio::test]
async fn the_umask_does_not_decide_who_may_look_into_a_store() {
    let dir = tempdir().unwrap();
    let place = dir.path().join("bot");
    let mut child = start("strict umask", &place);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("acked open") {
        assert!(output.read_line(&mut line).unwrap() > 0, "{line}");
    }
    for (path, mode) in [("", 0o700), ("store.lock", 0o600), ("store.db", 0o600), ("store.db-wal", 0o600)] {
        let found = std::fs::metadata(place.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}: {found:o}");
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn a_transaction_that_the_disk_refuses_is_told_to_all_of_it_and_is_forgotten() {
    let dir = tempdir().unwrap();
    let mut child = start("limited", dir.path());
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success() && output.contains("acked all"), "{output}");
    let store = open(dir.path()).await;
    assert_eq!(bodies(&store).await, ["3"]);
}
