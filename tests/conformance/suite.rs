//! The promises of promises.rs at each place of places.rs, and the one table of what a place cannot show. A promise that is
//! neither kept nor in the table fails here, and so does one that is in the table and could be kept.
use crate::{
    places::{Cannot, Place},
    promises::{ATTEMPTS_MAX, OF_A_CLUSTER, PROMISES, Promise},
};

/// What each place cannot show, and for want of what.
const IN_MEMORY: [(&str, Cannot); 3] = [
    ("a deadly message goes alone", Cannot::DieOfAMessage),
    ("a lost node costs nothing", Cannot::LoseANode),
    ("no queue with messages is deleted", Cannot::BeProvisioned),
];
const ON_A_NODE: [(&str, Cannot); 1] = [("a lost node costs nothing", Cannot::LoseANode)];
const ON_A_CLUSTER: [(&str, Cannot); 0] = [];

fn variables() -> Vec<(&'static str, String)> {
    vec![("LOTA_CONFIG__CONSTRAINTS__RETRY_POLICY__MAX_ATTEMPTS", ATTEMPTS_MAX.to_string())]
}

/// Keeps promises one after the other at one place, and holds what it cannot show.
async fn keep(mut place: Place, chosen: impl Fn(&Promise) -> bool, table: &[(&str, Cannot)]) {
    let mut missing = Vec::new();
    for promise in PROMISES.iter().filter(|promise| chosen(promise)) {
        let begun = std::time::Instant::now();
        if let Err(cannot) = (promise.keep)(&mut place).await {
            missing.push((promise.name, cannot));
        }
        eprintln!("  {} ({:.1} s)", promise.name, begun.elapsed().as_secs_f32());
    }
    assert_eq!(missing, table);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_are_kept_in_memory() {
    keep(Place::memory(variables()), |_| true, &IN_MEMORY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_are_kept_on_a_node() {
    keep(Place::node(variables()).await, |_| true, &ON_A_NODE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_are_kept_on_a_cluster() {
    let whole = std::env::var_os("LOTA_TEST_WHOLE").is_some();
    let chosen = |promise: &Promise| whole || OF_A_CLUSTER.contains(&promise.name);
    keep(Place::cluster(variables()).await, chosen, &ON_A_CLUSTER).await;
}
