//! Whose job is claimed next where several keys wait.

use std::collections::BTreeMap;
use std::time::Duration;

use bot_store::{Claimed, NewJob, Store};
use proptest::collection::vec;
use proptest::prelude::*;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use tempfile::tempdir;

use crate::fixture::{LEASE, add_jobs, again, claim, done, ending, ids, job, next_millisecond, open};

fn of(key: &str, number: usize, weight: u32) -> NewJob {
    NewJob { key: key.to_owned(), weight, ..job(&format!("{key}{number}"), None) }
}

async fn add(store: &Store, key: &str, numbers: std::ops::Range<usize>, weight: u32) {
    add_jobs(store, numbers.map(|number| of(key, number, weight)).collect()).await;
}

/// Claims one job, ends it, and says whose it was.
async fn run_one(store: &Store) -> String {
    let one = claim(store, 1).await.remove(0);
    store.commit(done(&one)).await.unwrap();
    one.key
}

async fn run(store: &Store, count: usize) -> String {
    let mut keys = String::new();
    for _ in 0..count {
        keys += &run_one(store).await;
    }
    keys
}

#[tokio::test]
async fn one_job_of_a_key_passes_the_fifty_of_another() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).await;
    add(&store, "a", 0..50, 1).await;
    add(&store, "b", 0..1, 1).await;
    assert_eq!(run(&store, 4).await, "abaa");
    // Also one that comes while the other runs.
    let running = claim(&store, 1).await.remove(0);
    add(&store, "c", 0..1, 1).await;
    store.commit(done(&running)).await.unwrap();
    assert_eq!(run(&store, 2).await, "ca");
}

#[tokio::test]
async fn several_claimed_at_once_are_those_claimed_one_after_the_other() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).await;
    add(&store, "a", 0..4, 1).await;
    add(&store, "b", 0..2, 1).await;
    add(&store, "c", 0..1, 1).await;
    assert_eq!(ids(&claim(&store, 5).await), ["a0", "b0", "c0", "a1", "b1"]);
    assert_eq!(ids(&claim(&store, 5).await), ["a2", "a3"]);
}

#[tokio::test]
async fn turns_follow_the_weights() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).await;
    add(&store, "a", 0..40, 1).await;
    add(&store, "b", 0..40, 3).await;
    let keys = run(&store, 40).await;
    let of_b = keys.matches('b').count();
    assert!((29..=31).contains(&of_b), "{of_b} of 40 for weights 1 and 3: {keys}");
}

#[tokio::test]
async fn a_key_that_was_away_collects_no_credit() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).await;
    add(&store, "a", 0..1, 1).await;
    // Running all the while, so that its key is never without a job.
    let long = claim(&store, 1).await.remove(0);
    add(&store, "b", 0..40, 1).await;
    assert_eq!(run(&store, 20).await, "b".repeat(20));
    add(&store, "a", 1..11, 1).await;
    let keys = run(&store, 10).await;
    assert!((4..=6).contains(&keys.matches('a').count()), "{keys}");
    store.commit(done(&long)).await.unwrap();
}

#[tokio::test]
async fn a_key_that_ends_each_job_before_the_next_comes_still_takes_turns() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).await;
    add(&store, "a", 0..20, 1).await;
    let mut keys = String::new();
    // Of the four others one always waits, and has nothing unfinished from before.
    for number in 0..20 {
        add(&store, ["b", "c", "d", "e"][number % 4], number..number + 1, 1).await;
        keys += &run_one(&store).await;
    }
    assert!(keys.matches('a').count() >= 3, "{keys}");
}

#[tokio::test]
async fn expired_leases_come_before_any_turn() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).await;
    add(&store, "a", 0..2, 1).await;
    store.claim("a", Duration::ZERO, 1, &[], &[]).await.unwrap();
    add(&store, "b", 0..1, 1).await;
    next_millisecond().await;
    assert_eq!(ids(&claim(&store, 1).await), ["a0"]);
    assert_eq!(ids(&claim(&store, 2).await), ["b0", "a1"], "it was the same turn");
}

async fn turns(dir: &std::path::Path) -> Vec<String> {
    let options = SqliteConnectOptions::new().filename(dir.join("store.db")).read_only(true);
    let mut conn: SqliteConnection = options.connect().await.unwrap();
    sqlx::query_scalar("SELECT key FROM job_turns ORDER BY key").fetch_all(&mut conn).await.unwrap()
}

#[tokio::test]
async fn keys_without_unfinished_jobs_are_forgotten() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).await;
    for key in ["a", "b", "c"] {
        add(&store, key, 0..3, 1).await;
    }
    assert_eq!(run(&store, 8).await, "abcabcab");
    let last = claim(&store, 1).await.remove(0);
    assert_eq!(turns(dir.path()).await, ["a", "b", "c"], "their jobs were still needed to be fair to the last");
    assert_eq!(ids(&claim(&store, 1).await), [""; 0]);
    assert_eq!(turns(dir.path()).await, ["c"]);
    store.commit(done(&last)).await.unwrap();
    claim(&store, 1).await;
    assert_eq!(turns(dir.path()).await, [""; 0]);
}

#[derive(Clone, Debug)]
enum Action {
    Add(u8, u32),
    Claim(u32),
    /// The held job at this place (modulo how many there are) ends, or is handed back.
    End(usize, bool),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (0..4_u8, 1..5_u32).prop_map(|(key, weight)| Action::Add(key, weight)),
        2 => (1..4_u32).prop_map(Action::Claim),
        2 => (0..8_usize, any::<bool>()).prop_map(|(place, again)| Action::End(place, again)),
    ]
}

/// How often each job was claimed beyond having been handed back.
#[derive(Default)]
struct Ledger {
    claims: BTreeMap<String, i32>,
    held: Vec<Claimed>,
}

impl Ledger {
    async fn claim(&mut self, store: &Store, limit: u32) {
        let claimed = store.claim("this bot", LEASE, limit, &[], &[]).await.unwrap();
        for job in &claimed {
            *self.claims.get_mut(&job.id).unwrap() += 1;
        }
        self.held.extend(claimed);
    }

    async fn end(&mut self, store: &Store, place: usize, hand_back: bool) {
        if self.held.is_empty() {
            return;
        }
        let job = self.held.remove(place % self.held.len());
        if hand_back {
            *self.claims.get_mut(&job.id).unwrap() -= 1;
            store.commit(ending(&job, again(Duration::ZERO, false))).await.unwrap();
        } else {
            store.commit(done(&job)).await.unwrap();
        }
    }
}

async fn each_once(actions: Vec<Action>) -> Result<(), TestCaseError> {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut ledger = Ledger::default();
    for (number, action) in actions.into_iter().enumerate() {
        match action {
            Action::Add(key, weight) => {
                let job = of(&format!("k{key}-"), number, weight);
                ledger.claims.insert(job.id.clone(), 0);
                add_jobs(&store, vec![job]).await;
            }
            Action::Claim(limit) => ledger.claim(&store, limit).await,
            Action::End(place, hand_back) => ledger.end(&store, place, hand_back).await,
        }
    }
    for _ in 0..ledger.claims.len() {
        ledger.claim(&store, 3).await;
    }
    prop_assert!(ledger.claims.values().all(|count| *count == 1), "{:?}", ledger.claims);
    store.close().await;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_job_is_claimed_once(actions in vec(action(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(each_once(actions))?;
    }
}
