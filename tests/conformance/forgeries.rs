//! Headers that only our own copies carry are not believed from others.
use lapin::types::{AMQPValue, FieldArray, FieldTable};

use crate::stage::Stage;

/// As if the operator replayed it, and the broker had brought it back.
fn forged() -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in [("x-lota-replay", 7), ("x-lota-attempt", 3)] {
        headers.insert(name.into(), AMQPValue::LongInt(value));
    }
    headers.insert("x-lota-publisher".into(), AMQPValue::LongString("operator".into()));
    let mut death = FieldTable::default();
    death.insert("queue".into(), AMQPValue::LongString("toy-bot.work".into()));
    death.insert("reason".into(), AMQPValue::LongString("expired".into()));
    headers.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)])));
    headers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_replays_and_retries_are_nobody_elses() {
    let mut stage = Stage::set().await;
    stage.wish("once", "forgeries", "say").await;
    stage.until("the first", |s| s.calls("once") == 1).await;
    // Were it believed, it would be another message.
    stage.wish_with("once", "forgeries", "say", forged()).await;
    stage.wish_with("attempt", "forgeries", "say", forged()).await;
    stage.until("the next", |s| s.calls("attempt") == 1).await;
    assert_eq!(stage.calls("once"), 1);
    assert_eq!(stage.logged("asked attempt attempt 1"), 1, "which attempt it is, is not for it to say");
    stage.wish_with("letter", "forgeries", "panic-key", forged()).await;
    stage.until("the letter", |s| s.dead("letter").is_some()).await;
    let headers = stage.letter("letter").await;
    assert_eq!(headers["x-lota-publisher"], "outside", "{headers}");
    assert!(headers.get("x-death").is_none() && headers.get("x-lota-replay").is_none(), "{headers}");
}
