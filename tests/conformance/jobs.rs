//! Jobs: handed over in order, tried again, given up with one terminal event.
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_jobs_of_one_entity_delay_another_by_at_most_one() {
    let limit = |name, value: &str| (name, value.to_owned());
    let mut stage = Stage::set_with(vec![
        limit("LOTA_CONFIG__CONSTRAINTS__MAX_CONCURRENT_JOBS", "1"),
        limit("LOTA_CONFIG__CONSTRAINTS__MAX_WAITING_JOBS", "1000"),
    ])
    .await;
    // Holds the one place until all others wait.
    stage.wish("first", "noisy", "play:3").await;
    stage.until("the first job", |s| !s.said("build.started", "noisy").is_empty()).await;
    let first = stage.said("build.started", "noisy")[0]["payload"]["data"]["job_id"].clone();
    for n in 0..50 {
        stage.wish(&format!("noisy-{n}"), "noisy", "play:5").await;
    }
    stage.wish("quiet", "quiet", "play:5").await;
    let all_asked = |s: &Stage| s.calls("quiet") == 1 && (0..50).all(|n| s.calls(&format!("noisy-{n}")) == 1);
    stage.until("all to be asked for", all_asked).await;
    stage.command("stop", "control.cancel", json!({"job_id": first, "reason": "a test"})).await;
    stage.until("every end", |s| s.said_of("build.completed").len() == 52).await;
    let ends = stage.said_of("build.completed");
    let quiet = ends.iter().position(|m| m["payload"]["data"]["revision"]["repository"] == "quiet").unwrap();
    assert!(quiet <= 2, "after {quiet} others: the one that ran, and at most one more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_handed_over_or_given_up_with_one_end() {
    let mut stage = Stage::set().await;
    stage.wish("1", "handed-over", "play:1").await;
    stage.wish("2", "given-up", "play:0").await;
    stage.wish("3", "too-much", "play:2").await;
    let begun = |s: &Stage| ["handed-over", "given-up"].iter().all(|r| !s.said("build.started", r).is_empty());
    stage.until("both jobs to begin", begun).await;

    let status = stage.signal(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
    stage.start();
    stage.until("the end of the first", |s| !s.said("build.completed", "handed-over").is_empty()).await;
    stage.until("the end of the second", |s| !s.said("build.failed", "given-up").is_empty()).await;
    // Said in order by the same outbox, so that nothing of the first is still to come.
    assert_eq!(stage.said("build.started", "handed-over").len(), 1, "a step is committed once");
    let ends = stage.said("build.completed", "handed-over");
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0]["payload"]["data"]["steps"][0]["name"], "attempt 1", "a hand-over is no attempt");
    assert_eq!(stage.said("build.failed", "handed-over").len(), 0);

    let ends = stage.said("build.failed", "too-much");
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0]["payload"]["data"]["error"]["code"], "MESSAGE_TOO_LARGE");

    let ends = stage.said("build.failed", "given-up");
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0]["payload"]["data"]["error"]["code"], "ATTEMPTS_EXHAUSTED");
    assert_eq!(stage.said("build.started", "given-up").len(), 1);
    assert_eq!(stage.starts(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_a_killed_process_is_taken_over_under_a_higher_token() {
    let mut stage = Stage::set().await;
    stage.wish("1", "taken-over", "play:1").await;
    // Its first token is in the store as soon as it waits.
    stage.until("the job to wait", |s| s.logged("waits under token") == 1).await;
    stage.signal(Signal::SIGKILL).await;
    stage.start();
    stage.until("its end", |s| !s.said("build.completed", "taken-over").is_empty()).await;
    let ends = stage.said("build.completed", "taken-over");
    let steps: Vec<&str> =
        ends[0]["payload"]["data"]["steps"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!((ends.len(), steps[0]), (1, "attempt 2"), "a death is an attempt");
    let token = |step: &str| step.strip_prefix("token ").unwrap().parse::<i64>().unwrap();
    assert!(token(steps[2]) > token(steps[1]), "{steps:?}");
    assert_eq!(stage.said("build.started", "taken-over").len(), 1, "a step is committed once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_that_stops_keeps_its_session_until_its_jobs_have_ended() {
    let mut stage = Stage::set().await;
    stage.wish("1", "slow", "play:3").await;
    stage.until("the job to begin", |s| !s.said("build.started", "slow").is_empty()).await;
    stage.ask_to_stop();
    stage.until("it to stop", |s| s.logged("stopping: SIGTERM") == 1).await;
    // Nobody takes these any more; they are for the next process.
    stage.command("late", "control.probe", json!({})).await;
    stage.wish("2", "late", "say").await;
    stage.until("the end of the job", |s| !s.said("build.completed", "slow").is_empty()).await;
    assert!(stage.ended().await.success());
    assert_eq!((stage.sessions(), stage.logged("session over: stopping")), (1, 1), "one session to the end");
    stage.start();
    stage.until("what came late", |s| !s.said("build.started", "late").is_empty()).await;
    stage.until("the answer to the probe", |s| !s.said_of("control.replied").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_waiting_jobs_and_timers_until_resume() {
    let mut stage = Stage::set().await;
    stage.wish("1", "a-timer", "timer:6").await;
    stage.wish("2", "a-job", "play:0").await;
    let begun = |s: &Stage| ["a-timer", "a-job"].iter().all(|r| !s.said("build.started", r).is_empty());
    stage.until("both to begin", begun).await;
    stage.command("p", "control.pause", json!({"reason": "a test"})).await;
    stage.until("the pause", |s| !s.said_of("bot.paused").is_empty()).await;
    // Also a process that begins paused.
    stage.signal(Signal::SIGKILL).await;
    stage.start();
    // The pause itself: longer than the timer, and than all attempts of the job with what lies between.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let fired = |s: &Stage| s.said("build.started", "a-timer").len() == 2;
    assert!(!fired(&stage) && stage.said("build.failed", "a-job").is_empty(), "it worked while it was paused");
    stage.command("r", "control.resume", json!({})).await;
    stage.until("the timer", fired).await;
    stage.until("the end of the job", |s| !s.said("build.failed", "a-job").is_empty()).await;
    let resumed = stage.place("bot.resumed", "").unwrap();
    assert!(stage.place("build.started", "a-timer").unwrap() > resumed);
    assert!(stage.place("build.failed", "a-job").unwrap() > resumed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_has_ended_is_done_once_more_for_each_command() {
    let mut stage = Stage::set().await;
    stage.wish("1", "again", "play:5").await;
    stage.wish("2", "busy", "play:1").await;
    stage.until("the end of the one", |s| !s.said("build.completed", "again").is_empty()).await;
    stage.until("the other to begin", |s| !s.said("build.started", "busy").is_empty()).await;
    let job = stage.said("build.completed", "again")[0]["payload"]["data"]["job_id"].as_str().unwrap().to_owned();
    let busy = stage.said("build.started", "busy")[0]["payload"]["data"]["job_id"].clone();
    stage.command("no-such", "control.rerun", json!({"job_id": "0198c5d2-7b3a"})).await;
    stage.command("runs", "control.rerun", json!({"job_id": busy})).await;
    // The same command twice, as a broker may deliver it, and by the beginning of the id.
    for _ in 0..2 {
        stage.command("once-more", "control.rerun", json!({"job_id": job[..30], "requested_by": "ada"})).await;
    }
    stage.command("last", "control.probe", json!({})).await;
    stage.until("the last answer", |s| s.said_of("control.replied").len() == 4).await;
    stage.until("the second end", |s| s.said("build.completed", "again").len() == 2).await;

    let replies: Vec<_> = stage.said_of("control.replied");
    let replies: Vec<_> = replies.iter().map(|m| &m["payload"]["data"]["reply"]).collect();
    let why = |reply: &serde_json::Value| reply["error"]["message"].as_str().unwrap().to_owned();
    assert!(why(replies[0]).contains("no job 0198c5d2-7b3a is known here"), "{replies:?}");
    assert!(why(replies[1]).contains("is running still"), "{replies:?}");
    let data = &replies[2]["data"];
    assert_eq!((&data["again"], &data["correlation_id"]), (&json!(job), &json!("1")), "{data}");
    let second = &stage.said("build.completed", "again")[1];
    assert_eq!(
        (&second["correlation_id"], &second["payload"]["data"]["job_id"]),
        (&json!("once-more"), &data["job_id"])
    );
    assert_ne!(data["job_id"], json!(job));
    assert_eq!(stage.calls("1"), 1, "the event itself is not heard again");
}
