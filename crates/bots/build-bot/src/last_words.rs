//! What the last attempt of a failed job left for its `build.failed`. Only in memory: a process that ends takes its
//! running jobs along, and they begin anew in the next.
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use bot_messages::ObjectRef;

/// More jobs than ever wait for their end at a time.
const JOBS_MAX: usize = 256;

/// Of one attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LastWords {
    pub(crate) job_id: String,
    /// The step that failed.
    pub(crate) step: Option<String>,
    /// The last lines of its output.
    pub(crate) tail: Vec<String>,
    pub(crate) log: Option<ObjectRef>,
}

/// Of the jobs that failed last.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<VecDeque<LastWords>>);

impl Remembered {
    /// In place of those of an earlier attempt.
    pub(crate) fn keep(&self, words: LastWords) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.job_id != words.job_id);
        if all.len() == JOBS_MAX {
            all.pop_front();
        }
        all.push_back(words);
    }

    /// They stay: what is said at a job's end may have to be said again.
    pub(crate) fn of(&self, job_id: &str) -> LastWords {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|words| words.job_id == job_id).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_attempt_counts_and_old_jobs_are_forgotten() {
        let words = |job: usize, step: &str| LastWords {
            job_id: job.to_string(),
            step: Some(step.to_owned()),
            ..LastWords::default()
        };
        let remembered = Remembered::default();
        for job in 0..=JOBS_MAX {
            remembered.keep(words(job, "first"));
            remembered.keep(words(job, "second"));
        }
        assert_eq!(remembered.of("0"), LastWords::default());
        assert_eq!(remembered.of("1"), words(1, "second"));
    }
}
