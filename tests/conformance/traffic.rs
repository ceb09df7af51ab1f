//! Many messages, while the process is killed and its connections are closed.
use nix::sys::signal::Signal;

use crate::stage::Stage;

const MESSAGES: usize = 1500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_has_one_effect_through_a_kill_and_closed_connections() {
    let mut stage = Stage::set().await;
    for n in 0..MESSAGES {
        let name = format!("message-{n}");
        stage.wish(&name, &name, "say").await;
        if n == MESSAGES / 3 {
            stage.signal(Signal::SIGKILL).await;
            stage.start();
        }
        if n == 2 * MESSAGES / 3 {
            stage.until("the bot to be back", |s| s.said_of("bot.started").len() == 2).await;
            let connections = stage.management.connections().await.unwrap();
            let own: Vec<_> = connections.iter().filter(|c| c.user.as_deref() == Some("toy-bot")).collect();
            assert!(!own.is_empty(), "the broker shows no connection of the bot: {connections:?}");
            for connection in own {
                stage.management.close_connection(&connection.name, "a test").await.unwrap();
            }
        }
    }
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
    assert_eq!(stage.starts(), 2, "closed connections do not end the process");
}
