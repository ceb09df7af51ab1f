//! How fast it is; run by hand: `cargo nextest run -p bot-store --release --run-ignored only -E 'test(measure)' --no-capture`.

use std::time::Instant;

use bot_store::{Commit, Committed};
use serde_json::json;
use tempfile::tempdir;
use tokio::task::JoinSet;

use crate::fixture::{open, sending, settled, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn commits_per_second() {
    for callers in [1, 8, 64, 200] {
        let dir = tempdir().unwrap();
        let store = open(dir.path()).await;
        let each = 4_000 / (callers + 10);
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let store = store.clone();
            tasks.spawn(async move {
                for number in 0..each {
                    let id = format!("{caller}-{number}");
                    let state = Some(write(&caller.to_string(), number, json!({ "count": number })));
                    let commit = Commit {
                        inbox: Some(settled(&id)),
                        state,
                        ..sending(&id)
                    };
                    assert_eq!(store.commit(commit).await.unwrap(), Committed::Done);
                }
            });
        }
        tasks.join_all().await;
        let seconds = started.elapsed().as_secs_f64();
        let total = callers * each;
        let transactions = store.commits_total();
        println!(
            "{callers} callers: {total} commits in {seconds:.2} s = {:.0}/s, {transactions} transactions = {:.0}/s",
            total as f64 / seconds,
            transactions as f64 / seconds
        );
    }
}
