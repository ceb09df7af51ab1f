//! Something outside is gone: what needs it is held back and burns no attempt, the rest goes on.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::stage::Stage;

const AUTO: &str = "LOTA_CONFIG__CONSTRAINTS__AUTO_PAUSE__LONGEST_WAIT_S";
const WAITING: &str = "LOTA_CONFIG__CONSTRAINTS__MAX_WAITING_JOBS";

fn data(messages: &[Value]) -> Vec<&Value> {
    messages.iter().map(|m| &m["payload"]["data"]).collect()
}

fn by_itself(stage: &Stage, event_type: &str) -> usize {
    stage.said_of(event_type).iter().filter(|m| m["payload"]["data"]["by"] == "ToyBot").count()
}

fn holds(stage: &Stage, what: &str, state: &str) -> bool {
    let beat = stage.heartbeat();
    beat["state"] == state && beat["held"].as_array().is_some_and(|held| held.iter().any(|h| h["what"] == what))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_need_what_is_gone_wait_and_others_go_on() {
    let mut stage = Stage::set_with(vec![(AUTO, "5".to_owned()), (WAITING, "100".to_owned())]).await;
    stage.until("the bot to be there", |s| !s.said_of("bot.started").is_empty()).await;
    stage.file_of_bot("outage", Some("source"));
    let names: Vec<String> = (0..12).map(|n| format!("fetch-{n}")).collect();
    for name in &names {
        stage.wish(name, name, "fetch").await;
    }
    stage.until("the pause", |s| by_itself(s, "bot.paused") == 1).await;
    let paused = stage.said_of("bot.paused");
    let paused = data(&paused)[0];
    assert_eq!((&paused["what"], &paused["dependency"]), (&json!("job fetch"), &json!("source")));
    assert_eq!(paused["error"]["code"], "CONNECTION_REFUSED");
    stage.wish("other", "other", "play:5").await;
    stage.until("a job of another kind", |s| !s.said("build.completed", "other").is_empty()).await;
    stage.until("a heartbeat that tells", |s| holds(s, "job fetch", "degraded")).await;

    // Over a restart as well, and beside a pause of the operator, which ends with the operator's word alone.
    stage.signal(nix::sys::signal::Signal::SIGKILL).await;
    stage.start();
    stage.until("another process that holds", |s| s.said_of("bot.started").len() == 2).await;
    stage.until("its heartbeat", |s| holds(s, "job fetch", "degraded")).await;
    stage.command("p", "control.pause", json!({"reason": "a test"})).await;
    stage.until("the operator's pause", |s| holds(s, "job fetch", "paused")).await;
    stage.file_of_bot("outage", None);
    let beats = stage.states().len();
    stage.until("two heartbeats more", |s| s.states().len() >= beats + 2).await;
    assert_eq!((by_itself(&stage, "bot.resumed"), stage.heartbeat()["state"].as_str()), (0, Some("paused")));
    stage.command("r", "control.resume", json!({})).await;

    stage.until("all of them", |s| names.iter().all(|n| !s.said("build.completed", n).is_empty())).await;
    stage.until("the end of the pause", |s| by_itself(s, "bot.resumed") == 1).await;
    assert_eq!(by_itself(&stage, "bot.paused"), 1, "told once");
    for name in &names {
        let ends = stage.said("build.completed", name);
        // A process that was killed is an attempt of what it ran.
        let attempt = ends[0]["payload"]["data"]["steps"][0]["name"].as_str().unwrap().to_owned();
        assert!(attempt == "attempt 1" || attempt == "attempt 2", "{name}: {attempt}");
    }
    assert_eq!(stage.said_of("build.failed").len(), 0);
    stage.until("a heartbeat that all is well", |s| s.heartbeat()["state"] == "running").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_fail_for_one_reason_outside_wait_in_their_queue() {
    let mut stage = Stage::set_with(vec![(AUTO, "5".to_owned())]).await;
    stage.until("the bot to be there", |s| !s.said_of("bot.started").is_empty()).await;
    stage.file_of_bot("outage", Some("far-away"));
    let names: Vec<String> = (0..30).map(|n| format!("reach-{n}")).collect();
    for name in &names[..5] {
        stage.wish(name, name, "reach").await;
    }
    stage.until("the pause", |s| by_itself(s, "bot.paused") == 1).await;
    for name in &names[5..] {
        stage.wish(name, name, "reach").await;
    }
    stage.until("a heartbeat that tells", |s| holds(s, "messages", "paused")).await;
    let calls = |s: &Stage| s.logged("asked reach-");
    let before = calls(&stage);
    stage.until("two probes", |s| calls(s) >= before + 2).await;
    stage.file_of_bot("outage", None);
    stage.until("all answers", |s| names.iter().all(|n| !s.said("build.started", n).is_empty())).await;
    stage.until("the end of the pause", |s| by_itself(s, "bot.resumed") == 1).await;
    assert_eq!(stage.said_of("message.dead_lettered").len(), 0, "an outage makes no dead letters");
    for name in &names[5..] {
        let said = stage.said("build.started", name)[0]["payload"]["data"]["job_id"].to_string();
        assert!(said.contains("attempt 1 "), "{name}: {said}");
    }
    assert_eq!(stage.starts(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_optional_feature_that_fails_is_switched_off_and_told() {
    let mut stage = Stage::set().await;
    stage.until("the bot to be there", |s| !s.said_of("bot.started").is_empty()).await;
    let word =
        |s: &Stage, of: &str| s.said("build.completed", of)[0]["payload"]["data"]["steps"][1]["name"].to_string();
    stage.wish("1", "with", "fetch").await;
    stage.until("the first", |s| !s.said("build.completed", "with").is_empty()).await;
    assert!(word(&stage, "with").contains("with extras"));
    stage.file_of_bot("no-extras", Some(""));
    stage.wish("2", "without", "fetch").await;
    stage.until("the second", |s| !s.said("build.completed", "without").is_empty()).await;
    assert!(word(&stage, "without").contains("goes on without extras: there are none"));
    let off = |s: &Stage| s.heartbeat()["off"] == json!(["extras"]) && s.heartbeat()["state"] == "degraded";
    stage.until("a heartbeat that tells", off).await;
    // It is not tried again at once, also where it would work.
    stage.file_of_bot("no-extras", None);
    stage.wish("3", "not-yet", "fetch").await;
    stage.until("the third", |s| !s.said("build.completed", "not-yet").is_empty()).await;
    assert!(word(&stage, "not-yet").contains("goes on without extras"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_wait_keep_further_messages_at_the_broker() {
    let one = |name| (name, "1".to_owned());
    let mut stage =
        Stage::set_with(vec![one("LOTA_CONFIG__CONSTRAINTS__MAX_CONCURRENT_JOBS"), (WAITING, "2".to_owned())]).await;
    stage.wish("first", "first", "play:3").await;
    stage.until("the one that runs", |s| !s.said("build.started", "first").is_empty()).await;
    let job = stage.said("build.started", "first")[0]["payload"]["data"]["job_id"].clone();
    for n in 0..2 {
        stage.wish(&format!("waits-{n}"), "waits", "play:5").await;
    }
    stage.until("a heartbeat that tells", |s| s.states().iter().any(|(_, why)| why.contains("2 jobs wait"))).await;
    stage.wish("kept", "kept", "play:5").await;
    let beats = stage.states().len();
    stage.until("a heartbeat more", |s| s.states().len() > beats).await;
    assert_eq!(stage.calls("kept"), 0, "it stays at the broker");
    stage.command("stop", "control.cancel", json!({"job_id": job, "reason": "a test"})).await;
    stage.until("it to be taken as well", |s| !s.said("build.completed", "kept").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_written_once_and_a_command_answered_once() {
    let crashes = tempfile::tempdir().unwrap();
    std::fs::write(crashes.path().join("at"), "letter: committed").unwrap();
    let folder = crashes.path().to_string_lossy().into_owned();
    let mut stage = Stage::set_with(vec![("LOTA_TEST_CRASHES", folder)]).await;
    stage.event("outside", "unread", "repository.pushed", json!({"repository": 7})).await;
    stage.until("the process to end over it", |s| s.starts() == 2).await;
    stage.until("it to be seen again", |s| s.logged("it is among the dead letters already") == 1).await;
    stage.until("the notice", |s| !s.said_of("message.dead_lettered").is_empty()).await;
    for _ in 0..2 {
        stage.command("same", "control.pause", json!({"reason": "a test"})).await;
    }
    stage.command("last", "control.resume", json!({})).await;
    stage.until("the last answer", |s| s.said_of("bot.resumed").len() == 1).await;
    stage.until("both answers", |s| s.said_of("control.replied").len() >= 2).await;
    assert_eq!(stage.said_of("control.replied").len(), 2);
    let letters = stage.said_of("message.dead_lettered");
    assert_eq!((letters.len(), data(&letters)[0]["message_id"].as_str()), (1, Some("unread")));
    // It may be sent twice, where the process ended before it was confirmed; the time of writing knows the copy.
    let letters = stage.management.peek("lota", "toy-bot.dead", 10).await.unwrap();
    let written = letters.iter().map(|l| l.properties["headers"]["x-lota-error-time"].as_str().unwrap().to_owned());
    let written: BTreeSet<String> = written.collect();
    assert_eq!(written.len(), 1, "{written:?}");
}
