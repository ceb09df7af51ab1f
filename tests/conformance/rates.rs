//! How many messages a minute are taken: a publisher that says more waits, then is refused with a count; another does not.
use std::collections::BTreeSet;

use crate::stage::Stage;

/// Of a minute, and of the one that may wait.
const A_MINUTE: usize = 20;
const FLOOD: usize = 70;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_publisher_waits_and_is_refused_and_another_passes() {
    let mut stage = Stage::set_with(vec![
        ("LOTA_CONFIG__CONSTRAINTS__RATE__PUBLISHER_PER_MINUTE", A_MINUTE.to_string()),
        ("LOTA_CONFIG__CONSTRAINTS__RATE__WAITING_MINUTES_MAX", "1".to_owned()),
    ])
    .await;
    let names: Vec<String> = (0..FLOOD).map(|n| format!("flood-{n}")).collect();
    for name in &names {
        stage.wish(name, "one-repository", "say").await;
    }
    stage.wish_of_another("another", "one-repository", "say").await;
    stage.until("another's message", |s| s.calls("another") == 1).await;
    // The flood may have met the end of a minute, and then fills three.
    let handled = names.iter().filter(|n| stage.calls(n) > 0).count();
    assert!((A_MINUTE..=2 * A_MINUTE).contains(&handled), "{handled} handled before another's");
    stage.until("all to be handled or refused", |s| names.iter().all(|n| s.calls(n) == 1 || s.dead(n).is_some())).await;
    let refused: BTreeSet<&String> = names.iter().filter(|n| stage.dead(n).is_some()).collect();
    assert!((FLOOD - 3 * A_MINUTE..=FLOOD - 2 * A_MINUTE).contains(&refused.len()), "{} refused", refused.len());
    for name in &names {
        let expected = usize::from(!refused.contains(name));
        assert_eq!(stage.calls(name), expected, "{name}: handled once or refused");
    }
    let (code, attempts) = stage.dead(names.last().unwrap()).unwrap();
    assert_eq!((code.as_str(), attempts), ("RATE_LIMITED", 1));
    let letter = stage.letter(names.last().unwrap()).await;
    let why = letter["x-lota-error-message"].as_str().unwrap().to_owned();
    assert!(why.starts_with("it is message ") && why.contains(" of `outside` in a row: 20 a minute"), "{why}");
    let waited = FLOOD - refused.len() - handled;
    stage
        .until("a heartbeat that counts them", |s| {
            let (deferred, counted) = s.limited();
            deferred >= waited && counted == refused.len()
        })
        .await;
    // The operator's commands, retries and another's further messages are none of the flood.
    stage.wish_of_another("more", "one-repository", "retry:1").await;
    stage.until("another's retry", |s| s.calls("more") == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_that_ended_goes_on_counting() {
    let mut stage = Stage::set_with(vec![
        ("LOTA_CONFIG__CONSTRAINTS__RATE__KEY_PER_MINUTE", "1".to_owned()),
        ("LOTA_CONFIG__CONSTRAINTS__RATE__WAITING_MINUTES_MAX", "60".to_owned()),
    ])
    .await;
    for n in 0..4 {
        stage.wish(&format!("before-{n}"), "one-repository", "say").await;
    }
    stage.until("what is too much to wait", |s| s.logged("not before") >= 2).await;
    stage.ask_to_stop();
    stage.ended().await;
    stage.start();
    stage.wish("after", "one-repository", "say").await;
    stage.wish("elsewhere", "another-repository", "say").await;
    stage.until("one about something else", |s| s.calls("elsewhere") == 1).await;
    assert_eq!(stage.calls("after"), 0, "the minute began anew with the process");
}
