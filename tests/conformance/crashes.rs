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
}
