//! Random claims, renewals, ends, crashes and leases that run out, by two processes, against a few lines that say who may
//! write: the last who claimed a job, and nobody after its end.

use std::collections::BTreeMap;
use std::time::Duration;

use bot_store::{Claimed, Commit, Committed, JobOutcome, JobStatus, Renewed, Store};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;
use tempfile::tempdir;
use tokio::runtime::Builder;

use crate::fixture::{HOUR, add_jobs, ending, held, job, next_millisecond, open};

const PROCESSES: usize = 2;
/// Over when the step that gives it is.
const SHORT: Duration = Duration::ZERO;

#[derive(Clone, Debug)]
enum Step {
    Add,
    /// By a process, as many as it gets up to two; the lease is over at once, or never.
    Claim {
        process: usize,
        short: bool,
    },
    /// One of the claims that a process remembers, however old.
    Renew {
        process: usize,
        claim: Index,
        short: bool,
    },
    Write {
        process: usize,
        claim: Index,
        step: u8,
    },
    End {
        process: usize,
        claim: Index,
    },
    HandBack {
        process: usize,
        claim: Index,
        counts: bool,
    },
    /// The store of one instance is opened again: what ran waits, and who held it may still answer late.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let process = || 0..PROCESSES;
    prop_oneof![
        2 => Just(Step::Add),
        5 => (process(), any::<bool>()).prop_map(|(process, short)| Step::Claim { process, short }),
        3 => (process(), any::<Index>(), any::<bool>())
            .prop_map(|(process, claim, short)| Step::Renew { process, claim, short }),
        4 => (process(), any::<Index>(), 0..3_u8).prop_map(|(process, claim, step)| Step::Write { process, claim, step }),
        2 => (process(), any::<Index>()).prop_map(|(process, claim)| Step::End { process, claim }),
        1 => (process(), any::<Index>(), any::<bool>())
            .prop_map(|(process, claim, counts)| Step::HandBack { process, claim, counts }),
        1 => Just(Step::Crash),
    ]
}

/// What is true of a job.
#[derive(Clone, Debug, Default)]
struct Truth {
    token: i64,
    attempt: u32,
    running: bool,
    expired: bool,
    ended: bool,
    steps: Vec<u8>,
}

struct Run {
    store: Store,
    jobs: BTreeMap<String, Truth>,
    /// The newest of all jobs.
    token: i64,
    /// All that each process ever claimed.
    claims: [Vec<Claimed>; PROCESSES],
}

impl Run {
    fn picked(&self, process: usize, claim: Index) -> Option<Claimed> {
        let claims = &self.claims[process];
        (!claims.is_empty()).then(|| claims[claim.index(claims.len())].clone())
    }

    fn may_write(&self, claim: &Claimed) -> bool {
        let truth = &self.jobs[&claim.id];
        truth.running && truth.token == claim.token
    }

    async fn claim(&mut self, process: usize, short: bool) -> Result<(), TestCaseError> {
        let lease = if short { SHORT } else { HOUR };
        let free: Vec<String> =
            self.jobs.iter().filter(|(_, t)| !t.ended && (!t.running || t.expired)).map(|(id, _)| id.clone()).collect();
        let claimed = self.store.claim(&format!("process {process}"), lease, 2, &[], &[]).await.unwrap();
        prop_assert_eq!(claimed.len(), free.len().min(2), "{:?} were free", free);
        for claim in claimed {
            prop_assert!(free.contains(&claim.id), "{} was held", claim.id);
            let truth = self.jobs.get_mut(&claim.id).unwrap();
            prop_assert!(claim.token > self.token, "token {} after {}", claim.token, self.token);
            prop_assert_eq!(claim.is_first, truth.token == 0);
            self.token = claim.token;
            prop_assert_eq!(claim.attempt, truth.attempt + 1);
            (truth.token, truth.attempt, truth.running, truth.expired) = (claim.token, claim.attempt, true, short);
            self.claims[process].push(claim);
        }
        Ok(())
    }

    async fn write(&mut self, claim: &Claimed, step: u8) -> Result<(), TestCaseError> {
        let may = self.may_write(claim);
        let truth = self.jobs.get_mut(&claim.id).unwrap();
        let commit =
            Commit { guard: held(claim), step: Some((step.to_string(), json!(claim.token))), ..Commit::default() };
        let expected = match (may, truth.steps.contains(&step)) {
            (false, _) => Committed::Fenced,
            (true, true) => Committed::StepDone,
            (true, false) => Committed::Done,
        };
        let done = expected == Committed::Done;
        prop_assert_eq!(self.store.commit(commit).await.unwrap(), expected, "token {} of {:?}", claim.token, truth);
        if done {
            truth.steps.push(step);
        }
        Ok(())
    }

    async fn end(&mut self, claim: &Claimed, outcome: JobOutcome) -> Result<(), TestCaseError> {
        let may = self.may_write(claim);
        let expected = if may { Committed::Done } else { Committed::Fenced };
        prop_assert_eq!(self.store.commit(ending(claim, outcome.clone())).await.unwrap(), expected);
        if may {
            let truth = self.jobs.get_mut(&claim.id).unwrap();
            truth.running = false;
            match outcome {
                JobOutcome::Ended(_) => truth.ended = true,
                JobOutcome::Again { counts, .. } => truth.attempt -= u32::from(!counts),
            }
        }
        Ok(())
    }

    async fn take(&mut self, number: usize, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Add => {
                let id = format!("job {number}");
                add_jobs(&self.store, vec![job(&id, None)]).await;
                self.jobs.insert(id, Truth::default());
            }
            Step::Claim { process, short } => self.claim(process, short).await?,
            Step::Renew { process, claim, short } => {
                let Some(claim) = self.picked(process, claim) else { return Ok(()) };
                let lease = if short { SHORT } else { HOUR };
                let renewed = self.store.renew(&claim.id, claim.token, lease).await.unwrap();
                let may = self.may_write(&claim);
                prop_assert_eq!(renewed == Renewed::Lost, !may, "token {}", claim.token);
                if may {
                    self.jobs.get_mut(&claim.id).unwrap().expired = short;
                }
            }
            Step::Write { process, claim, step } => {
                let Some(claim) = self.picked(process, claim) else { return Ok(()) };
                self.write(&claim, step).await?;
            }
            Step::End { process, claim } => {
                let Some(claim) = self.picked(process, claim) else { return Ok(()) };
                self.end(&claim, JobOutcome::Ended(JobStatus::Done)).await?;
            }
            Step::HandBack { process, claim, counts } => {
                let Some(claim) = self.picked(process, claim) else { return Ok(()) };
                let error = "handed back".to_owned();
                self.end(&claim, JobOutcome::Again { after: Duration::ZERO, error, counts }).await?;
            }
            Step::Crash => self.jobs.values_mut().for_each(|truth| truth.running = false),
        }
        // What is over at once is over for the database's clock.
        next_millisecond().await;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_the_last_who_claimed_a_job_writes(steps in vec(step(), 1..50)) {
        let dir = tempdir().unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open(dir.path()).await;
            let mut run = Run { store, jobs: BTreeMap::new(), token: 0, claims: Default::default() };
            for (number, step) in steps.into_iter().enumerate() {
                if matches!(step, Step::Crash) {
                    run.store.close().await;
                    run.store = open(dir.path()).await;
                }
                run.take(number, step).await?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}
