//! When the broker or the store takes nothing: nothing hangs, nothing is lost, nothing is done twice.
use std::time::Duration;

use lapin::BasicProperties;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::stage::{Stage, wished};

/// Longer than a confirm may take, and than three heartbeats.
const HELD: Duration = Duration::from_secs(25);

fn degraded(stage: &Stage, why: &str) -> bool {
    stage.states().iter().any(|(state, reasons)| state == "degraded" && reasons.contains(why))
}

fn well_again(stage: &Stage) -> bool {
    stage.states().last().is_some_and(|(state, _)| state == "running")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_holds_back_publishers_is_waited_for() {
    let mut stage = Stage::set().await;
    stage.signal(Signal::SIGKILL).await;
    let names: Vec<String> = (0..20).map(|n| format!("held-{n}")).collect();
    for name in &names {
        stage.wish(name, name, "say").await;
    }
    stage.hold_back_publishers(true).await;
    let sessions = stage.sessions();
    stage.start();
    stage.until("the bot to see it", |s| s.logged("the broker holds back publishers") > 0).await;
    stage.until("everything to be handled", |s| names.iter().all(|n| s.calls(n) == 1)).await;
    tokio::time::sleep(HELD).await;
    assert_eq!(stage.said_of("build.started").len(), 0, "the broker took something");
    stage.hold_back_publishers(false).await;
    stage.until("the answers", |s| s.said_of("build.started").len() == names.len()).await;
    stage.until("a heartbeat of the time that tells of it", |s| degraded(s, "holds back publishers")).await;
    stage.until("a heartbeat that all is well", well_again).await;
    assert_eq!(stage.copies("build.started"), names.len(), "what waited went out beside its repetition");
    assert_eq!(stage.sessions(), sessions + 1, "no reason to begin anew");
    assert_eq!((stage.starts(), stage.said_of("message.dead_lettered").len()), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_closes_the_intake_until_there_is_room() {
    // 2 MiB, of which each message in the outbox takes 100 KB.
    let mut stage = Stage::set_with(vec![("LOTA_STORE_PAGES_MAX", "512".to_owned())]).await;
    stage.signal(Signal::SIGKILL).await;
    let names: Vec<String> = (0..40).map(|n| format!("bulk-{n}")).collect();
    for name in &names {
        stage.wish(name, name, "bulk:100000").await;
    }
    stage.hold_back_publishers(true).await;
    stage.start();
    stage.until("the store to be full", |s| s.logged("no work is taken, since the store") == 1).await;
    tokio::time::sleep(HELD).await;
    let waiting = stage.management.peek("lota", "toy-bot.work", 40).await.unwrap();
    assert!(!waiting.is_empty(), "all of it fitted");
    for message in &waiting {
        let deliveries = message.properties["headers"]["x-delivery-count"].as_u64().unwrap_or(0);
        assert!(deliveries <= 3, "delivered {deliveries} times while the store was full");
    }
    assert_eq!(stage.logged("the store can be written again"), 0);
    stage.hold_back_publishers(false).await;
    stage.until("everything to be said", |s| s.said_of("build.completed").len() == names.len()).await;
    stage.until("a heartbeat of the time that tells of it", |s| degraded(s, "is full")).await;
    stage.until("a heartbeat that all is well", well_again).await;
    assert_eq!((stage.starts(), stage.said_of("message.dead_lettered").len()), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_that_is_not_emptied_closes_the_intake_until_it_is() {
    const MESSAGES: usize = 3000;
    let mut stage = Stage::set().await;
    stage.signal(Signal::SIGKILL).await;
    let wish = |n: usize| {
        let properties = BasicProperties::default().with_message_id(format!("many-{n}").into());
        (properties, wished(&format!("many-{n}"), &format!("many-{n}"), "say").to_string().into_bytes())
    };
    assert!(stage.publish_all((0..MESSAGES).map(wish).collect()).await.iter().all(|taken| *taken));
    stage.hold_back_publishers(true).await;
    stage.start();
    let closed = |s: &Stage| s.logged("messages wait for the broker (at most 1000)");
    stage.until("the intake to be closed", |s| closed(s) > 0).await;
    // What was on its way then is handled, and nothing after it.
    tokio::time::sleep(HELD).await;
    let handled = stage.logged("asked many-");
    assert!((1000..MESSAGES).contains(&handled), "{handled} were handled");
    let waiting = stage.management.peek("lota", "toy-bot.work", 1).await.unwrap();
    assert_eq!(waiting.len(), 1, "the broker keeps the others");
    assert_eq!(stage.said_of("build.started").len(), 0, "the broker took something");
    stage.hold_back_publishers(false).await;
    stage.until("everything to be said", |s| s.said_of("build.started").len() == MESSAGES).await;
    assert!(stage.logged("messages are taken again") > 0);
    stage.until("a heartbeat that all is well", well_again).await;
    assert_eq!((stage.starts(), stage.said_of("message.dead_lettered").len()), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_queue_takes_becomes_a_dead_letter() {
    let mut stage = Stage::set_with(vec![("LOTA_CONFIG__CONSTRAINTS__UNDELIVERABLE_AFTER_S", "6".to_owned())]).await;
    stage.until("the bot to be there", |s| !s.said_of("bot.started").is_empty()).await;
    stage.cut_taps(true).await;
    stage.wish("1", "nowhere", "say").await;
    stage.until("it to be given up", |s| s.logged("given up as undeliverable") > 0).await;
    stage.cut_taps(false).await;
    stage.until("the word of it", |s| !s.said_of("message.dead_lettered").is_empty()).await;
    let letter = stage.letter("nowhere").await;
    assert_eq!(
        (&letter["x-lota-error-code"], &letter["x-lota-publisher"]),
        (&json!("UNDELIVERABLE"), &json!("toy-bot"))
    );
    let said = stage.said_of("message.dead_lettered");
    let told = &said[0]["payload"]["data"];
    assert_eq!((&told["code"], &told["message_type"]), (&json!("UNDELIVERABLE"), &json!("build.started")));
    stage.wish("2", "after", "say").await;
    stage.until("an answer after it", |s| !s.said("build.started", "after").is_empty()).await;
    assert!(stage.said("build.started", "nowhere").is_empty(), "it is not said any more");
    assert_eq!((stage.sessions(), stage.starts(), said.len()), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_refuses_ends_no_session() {
    let mut stage = Stage::set().await;
    stage.until("the bot to be there", |s| !s.said_of("bot.started").is_empty()).await;
    let narrow = stage.narrow_queue("narrow").await;
    for n in 0..8 {
        stage.wish(&format!("refused-{n}"), &format!("refused-{n}"), "say").await;
    }
    stage.until("several refusals in a row", |s| s.logged("not taken: the broker refused") > 7).await;
    narrow.close(200, "done".into()).await.unwrap();
    stage.until("the answers to those that were refused", |s| s.said_of("build.started").len() == 8).await;
    assert_eq!((stage.sessions(), stage.starts()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_confirm_costs_its_channel_and_no_session() {
    let mut stage = Stage::set().await;
    stage.wish("1", "late", "timer:4").await;
    stage.until("the timer to be set", |s| !s.said("build.started", "late").is_empty()).await;
    stage.freeze_broker(true);
    stage.until("a publish without a confirm", |s| s.logged("a publish was not confirmed") == 1).await;
    stage.freeze_broker(false);
    stage.until("another channel", |s| s.logged("publishing goes on, on another channel") == 1).await;
    stage.until("what the timer said", |s| s.said("build.started", "late").len() == 2).await;
    stage.wish("2", "after", "say").await;
    stage.until("an answer after it", |s| !s.said("build.started", "after").is_empty()).await;
    assert_eq!((stage.sessions(), stage.starts()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_gets_no_answer_ends_its_session() {
    let mut stage = Stage::set().await;
    stage.wish("1", "before", "say").await;
    stage.until("an answer", |s| !s.said("build.started", "before").is_empty()).await;
    stage.freeze_consumer("toy-bot.work", true).await;
    // So that the bot has something to ask on that channel.
    stage.command("pause", "control.pause", json!({"reason": "a test"})).await;
    let why = "session over: consuming toy-bot.work ended: the broker did not answer basic.cancel within 30 s";
    stage.until("the session to end for it", |s| s.logged(why) == 1).await;
    stage.freeze_consumer("toy-bot.work", false).await;
    stage.until("another session", |s| s.sessions() == 2).await;
    stage.command("resume", "control.resume", json!({})).await;
    stage.wish("2", "after", "say").await;
    stage.until("an answer after it", |s| !s.said("build.started", "after").is_empty()).await;
    assert_eq!((stage.sessions(), stage.starts()), (2, 1));
}
