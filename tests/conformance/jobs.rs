//! Jobs: handed over in order, tried again, given up with one terminal event.
use nix::sys::signal::Signal;

use crate::stage::Stage;

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
