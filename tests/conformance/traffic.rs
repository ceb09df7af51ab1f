//! Many messages, while the process is killed and its connections are closed.
use nix::sys::signal::Signal;

use crate::stage::Stage;

const MESSAGES: usize = 1500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_has_one_effect_through_a_kill_and_closed_connections() {
    let mut stage = Stage::set().await;
    // All of it waits for the bot, so that it is killed, and cut off, with work in hand.
    stage.signal(Signal::SIGKILL).await;
    for n in 0..MESSAGES {
        let name = format!("message-{n}");
        stage.wish(&name, &name, "say").await;
    }
    stage.start();
    stage.until("some answers", |s| s.said_of("build.started").len() > MESSAGES / 10).await;
    stage.signal(Signal::SIGKILL).await;
    assert!(stage.said_of("build.started").len() < MESSAGES, "killed too late to show anything");
    let sessions = stage.sessions();
    stage.start();
    stage.until("the bot to be back", |s| s.sessions() > sessions).await;
    stage.cut_off().await;
    stage.until("an answer to each", |s| s.said_of("build.started").len() >= MESSAGES).await;
    let mut answered: Vec<String> = stage
        .said_of("build.started")
        .iter()
        .map(|m| m["payload"]["data"]["revision"]["repository"].as_str().unwrap().to_owned())
        .collect();
    answered.sort();
    let count = answered.len();
    answered.dedup();
    assert_eq!((count, answered.len()), (MESSAGES, MESSAGES), "one effect each");
    assert_eq!(stage.said_of("message.dead_lettered").len(), 0);
    assert!(stage.sessions() > sessions + 1, "no session ended");
    assert_eq!(stage.starts(), 3, "closed connections do not end the process");
}
