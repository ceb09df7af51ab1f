//! Schedules of the configuration: durable, made up for once where their time passed, and of no further use when they
//! are gone from the file.
use std::time::Duration;

use bot_store::{Commit, NewTimer};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::stage::Stage;

/// What the store holds of schedules, as long as no bot holds it.
async fn planned(stage: &Stage) -> Vec<String> {
    let store = stage.store().await;
    let names = store.timer_names("lota.schedule:").await.unwrap();
    store.close().await;
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_that_passed_while_the_bot_was_away_is_made_up_for_once() {
    let mut stage = Stage::set().await;
    stage.wish("a", "a", "say").await;
    stage.until("the bot to be there", |s| s.said("build.started", "a").len() == 1).await;
    stage.signal(Signal::SIGKILL).await;
    let names = planned(&stage).await;
    assert!(names.len() == 1 && names[0].starts_with("lota.schedule:yearly:"), "{names:?}");

    let store = stage.store().await;
    let data = json!({"repository": "yearly", "url": "say", "ref": "refs/heads/main", "commit": "9".repeat(40)});
    let timer = |name: &str| NewTimer {
        name: name.to_owned(),
        key: "yearly".to_owned(),
        after: Duration::ZERO,
        data: data.clone(),
        meta: Value::Null,
    };
    let set_timers = vec![timer(&names[0]), timer("lota.schedule:gone:0123456789abcdef")];
    store.commit(Commit { set_timers, ..Commit::default() }).await.unwrap();
    store.close().await;

    stage.start();
    stage.until("what was missed", |s| s.said("build.started", "yearly").len() == 1).await;
    stage.wish("b", "b", "say").await;
    stage.until("more work", |s| s.said("build.started", "b").len() == 1).await;
    stage.signal(Signal::SIGTERM).await;
    assert_eq!(planned(&stage).await, names, "the next time is set, and what the file does not name is forgotten");
    let said = stage.said("build.started", "yearly");
    assert_eq!(said.len(), 1, "once, and not for the schedule that is gone");
    let correlation = said[0]["correlation_id"].as_str().unwrap();
    assert!(said[0].to_string().contains(&format!("schedule yearly in {correlation}")), "{said:?}");
}
