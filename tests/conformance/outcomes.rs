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
    stage.until("the letters", |s| ["retry-2", "same-1"].iter().all(|id| s.dead(id).is_some())).await;

    assert_eq!(answer(&stage, "comes-back"), ["attempt 3 answer 1"], "two attempts left nothing in the state");
    assert_eq!(stage.dead("retry-2"), Some(("ATTEMPTS_EXHAUSTED".into(), 3)));
    assert_eq!(answer(&stage, "never"), [""; 0]);
    assert_eq!(answer(&stage, "not-now"), ["attempt 1 answer 1"], "to wait is no attempt, also the second time");
    assert_eq!(answer(&stage, "twice"), ["attempt 1 answer 1"]);
    assert_eq!(stage.dead("same-1"), Some(("DUPLICATE_ID".into(), 1)));
    assert_eq!(answer(&stage, "another"), [""; 0]);
    assert_eq!(stage.starts(), 1, "none of this ends the process");

    let letters = stage.management.peek("lota", "toy-bot.dead", 10).await.unwrap();
    let of = |id: &str| letters.iter().find(|l| l.payload.contains(id)).unwrap().properties["headers"].clone();
    assert_eq!(of("retry-2")["x-lota-error-code"], "ATTEMPTS_EXHAUSTED");
    assert!(of("retry-2").get("x-death").is_none(), "{}", of("retry-2"));
}
