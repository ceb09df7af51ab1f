//! A process that dies, of a message or of SIGKILL.
use nix::sys::signal::Signal;

use crate::stage::Stage;

const NEIGHBOURS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_ends_the_process_goes_alone_and_its_neighbours_live() {
    let mut stage = Stage::set().await;
    for n in 0..NEIGHBOURS {
        if n == NEIGHBOURS / 2 {
            stage.wish("deadly", "deadly", "abort").await;
        }
        stage.wish(&format!("neighbour-{n}"), &format!("neighbour-{n}"), "say").await;
    }
    let all = |s: &Stage| (0..NEIGHBOURS).all(|n| !s.said("build.started", &format!("neighbour-{n}")).is_empty());
    stage.until("the neighbours", all).await;
    stage.until("the letter", |s| s.dead("deadly").is_some()).await;
    assert_eq!(stage.dead("deadly").unwrap().0, "CRASH_LOOP");
    for n in 0..NEIGHBOURS {
        assert_eq!(stage.said("build.started", &format!("neighbour-{n}")).len(), 1, "neighbour-{n}");
    }
    // Once without a mark, as nobody suspected it, and three times with one.
    let crashes = stage.starts() - 1;
    assert!((3..=4).contains(&crashes), "it ended the process {crashes} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_letter_of_a_deadly_retry_names_its_publisher() {
    let mut stage = Stage::set().await;
    stage.wish("late-death", "deadly", "abort-later").await;
    stage.until("the letter", |s| s.dead("late-death").is_some()).await;
    assert_eq!(stage.dead("late-death"), Some(("CRASH_LOOP".into(), 2)));
    let headers = stage.letter("late-death").await;
    assert_eq!(headers["x-lota-publisher"], "outside", "{headers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_outlive_the_process() {
    let mut stage = Stage::set().await;
    stage.wish("1", "kept", "timer:8").await;
    stage.wish("2", "cleared", "timer:8").await;
    stage.wish("3", "last", "timer:10").await;
    let set = |s: &Stage| ["kept", "cleared", "last"].iter().all(|r| s.said("build.started", r).len() == 1);
    stage.until("the timers to be set", set).await;
    stage.wish("4", "cleared", "untimer").await;
    stage.until("one to be cleared", |s| s.said("build.started", "cleared").len() == 2).await;
    stage.signal(Signal::SIGKILL).await;
    stage.until("the last to be due", |s| s.said("build.started", "last").len() == 2).await;
    let fired = |repository: &str| {
        let said = stage.said("build.started", repository);
        said.iter().filter(|m| m["payload"]["data"]["job_id"] == "timer").count()
    };
    assert_eq!((fired("kept"), fired("cleared"), fired("last")), (1, 0, 1));

    // One that fired is gone: after another restart, whatever is due by then fires before the one that is set now.
    stage.signal(Signal::SIGKILL).await;
    stage.start();
    stage.wish("5", "after", "timer:1").await;
    stage.until("a timer of the third process", |s| s.said("build.started", "after").len() == 2).await;
    let fired = |repository: &str| stage.said("build.started", repository).len() - 1;
    assert_eq!((fired("kept"), fired("last")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_keeps_a_state_that_only_a_newer_version_can_read() {
    let mut stage = Stage::set().await;
    stage.wish("1", "newer", "timer:5").await;
    stage.wish("2", "newer", "newer").await;
    stage.until("the state to be written", |s| s.said("build.started", "newer").len() == 2).await;
    stage.until("the timer to fail", |s| s.logged("failed: the stored state of newer cannot be read") == 1).await;
    stage.wish("3", "newer", "say").await;
    stage.until("the letter", |s| s.dead("3").is_some()).await;
    assert_eq!(stage.dead("3"), Some(("UNSUPPORTED_SCHEMA".into(), 1)), "the timer wrote over it");
    assert_eq!(stage.said("build.started", "newer").len(), 2);
}
