//! A bot that does nothing while messages wait, and nobody told it why.
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_the_broker_silently_dropped_is_found() {
    let mut stage = Stage::set_with(vec![("LOTA_CONFIG__CONSTRAINTS__STALLED_AFTER_S", "5".to_owned())]).await;
    stage.wish("1", "before", "say").await;
    stage.until("an answer", |s| !s.said("build.started", "before").is_empty()).await;
    stage.drop_consumer("toy-bot.work").await;
    stage.wish("2", "after", "say").await;
    stage.until("the answer to what waited", |s| !s.said("build.started", "after").is_empty()).await;
    assert_eq!(
        stage.logged("messages wait in toy-bot.work, and none is handled"),
        2,
        "found, and the session ended for it"
    );
    assert_eq!((stage.sessions(), stage.starts()), (2, 1), "a new session was enough");
    stage.until("a heartbeat that all is well", |s| s.heartbeat()["state"] == "running").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_that_no_new_session_helps_ends_so_that_it_is_started_again() {
    let mut stage = Stage::set_with(vec![("LOTA_CONFIG__CONSTRAINTS__STALLED_AFTER_S", "5".to_owned())]).await;
    stage.wish("1", "stuck", "hang").await;
    stage.until("the handler to hang", |s| s.calls("1") == 1).await;
    for n in 0..100 {
        stage.wish(&format!("waits-{n}"), "stuck", "say").await;
    }
    stage.until("it to be seen", |s| s.states().iter().any(|(_, why)| why.contains("and none is handled"))).await;
    stage.until("it to say that it cannot go on", |s| !s.said_of("bot.failed").is_empty()).await;
    stage.until("another process", |s| s.starts() >= 2).await;
    assert!(stage.sessions() >= 3, "the session was renewed before: {}", stage.sessions());
}
