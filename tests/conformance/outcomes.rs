//! How a handler can end, and what becomes of its message.
use crate::stage::Stage;

fn answer(stage: &Stage, repository: &str) -> Vec<String> {
    let said = stage.said("build.started", repository);
    said.iter().map(|m| m["payload"]["data"]["job_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_outcome_of_a_handler_is_kept() {
    let mut stage = Stage::set().await;
    let now: u64 = tests::succeeds(std::process::Command::new("date").arg("+%s")).trim().parse().unwrap();
    stage.wish("retry-1", "comes-back", "retry:2").await;
    stage.wish("retry-2", "never", "retry:99").await;
    stage.wish("later-1", "not-now", &format!("later:{}", now + 7)).await;
    stage.wish("same-1", "twice", "say").await;
    stage.wish("same-1", "twice", "say").await;

    let all = ["comes-back", "not-now", "twice"];
    stage.until("every answer", |s| all.iter().all(|r| !answer(s, r).is_empty())).await;
    stage.wish("same-1", "another", "say").await;
    stage.wish_of_another("same-1", "of-another", "say").await;
    stage.until("the letters", |s| ["retry-2", "same-1"].iter().all(|id| s.dead(id).is_some())).await;
    stage.until("an answer to another publisher", |s| !answer(s, "of-another").is_empty()).await;

    assert_eq!(answer(&stage, "comes-back"), ["attempt 3 answer 1"], "two attempts left nothing in the state");
    assert_eq!(stage.dead("retry-2"), Some(("ATTEMPTS_EXHAUSTED".into(), 3)));
    assert_eq!(answer(&stage, "never"), [""; 0]);
    assert_eq!(answer(&stage, "not-now"), ["attempt 1 answer 1"], "to wait is no attempt, also the second time");
    assert_eq!(answer(&stage, "twice"), ["attempt 1 answer 1"]);
    assert_eq!(stage.dead("same-1"), Some(("DUPLICATE_ID".into(), 1)));
    assert_eq!(answer(&stage, "another"), [""; 0]);
    assert_eq!(
        answer(&stage, "of-another"),
        ["attempt 1 answer 1"],
        "the same id of another publisher is another message"
    );
    assert_eq!((stage.calls("retry-1"), stage.calls("retry-2")), (3, 3), "a call for each attempt, and no more");
    // The first of outside, and the one of another: neither the copy nor the other content reaches the handler.
    assert_eq!(stage.calls("same-1"), 2);
    assert_eq!(stage.starts(), 1, "none of this ends the process");

    let headers = stage.letter("retry-2").await;
    assert_eq!(headers["x-lota-error-code"], "ATTEMPTS_EXHAUSTED");
    assert!(headers.get("x-death").is_none(), "{headers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_ignores_panics_or_hoards_harms_nobody_else() {
    let mut stage = Stage::set().await;
    stage.wish("ignored-1", "ignored", "ignore").await;
    stage.wish("panic-1", "no-key", "panic-key").await;
    stage.wish("large-1", "hoard", "state:270000").await;
    stage.wish("timer-1", "panics", "timer:1").await;
    stage.wish("timer-2", "after-it", "timer:3").await;
    stage.wish("job-1", "speechless", "play:4").await;
    stage.until("the letters", |s| ["panic-1", "large-1"].iter().all(|id| s.dead(id).is_some())).await;
    assert_eq!(stage.dead("panic-1"), Some(("UNKNOWN_ERROR".into(), 1)));
    assert_eq!(stage.dead("large-1"), Some(("LIMIT_EXCEEDED".into(), 1)));
    stage.until("the timer after the one that panicked", |s| answer(s, "after-it").contains(&"timer".to_owned())).await;
    stage.until("the job without last words", |s| s.logged("`gave_up` panicked") == 1).await;

    assert_eq!(stage.logged("message_id=\"ignored-1\""), 1);
    assert_eq!(stage.logged("outcome=Ignored"), 1, "an ignored first message leaves nothing, and is told as ignored");
    stage.wish("ignored-2", "ignored", "say").await;
    stage.wish("large-2", "hoard", "say").await;
    stage.wish("job-2", "after-it", "play:2").await;
    stage.until("the job after it", |s| s.said("build.failed", "after-it").len() == 1).await;
    stage.until("answers", |s| !answer(s, "ignored").is_empty() && !answer(s, "hoard").is_empty()).await;
    assert_eq!(answer(&stage, "hoard"), ["attempt 1 answer 1"], "what was too large left nothing");
    assert_eq!(stage.starts(), 1);
}
