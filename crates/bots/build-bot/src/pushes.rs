//! What BuildBot remembers of a repository: the latest push of each of its refs.
use std::collections::BTreeMap;

use bot_messages::{CommitId, Revision};
use serde::{Deserialize, Serialize};

/// The refs of a repository whose latest push is remembered.
const REFS_MAX: usize = 1000;

/// The latest push of each ref of one repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pushes(BTreeMap<String, Latest>);

/// The latest push of a ref.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Latest {
    Push {
        number: u64,
        commit: CommitId,
    },
    /// Of a version that kept the number alone.
    Number(u64),
}

impl Latest {
    fn number(&self) -> u64 {
        match self {
            Self::Push { number, .. } | Self::Number(number) => *number,
        }
    }
}

impl Pushes {
    /// The commit that was pushed to this ref last.
    pub(crate) fn latest(&self, git_ref: &str) -> Option<&CommitId> {
        match self.0.get(git_ref)? {
            Latest::Push { commit, .. } => Some(commit),
            Latest::Number(_) => None,
        }
    }

    /// The commit to compare a push with: what the forge says the ref pointed to before, else what was pushed to it
    /// last. None for the same commit again, which would have changed nothing.
    pub(crate) fn base(&self, revision: &Revision, before: Option<CommitId>) -> Option<CommitId> {
        let last = || self.latest(&revision.git_ref).cloned();
        before.filter(|commit| !means_deleted(commit)).or_else(last).filter(|commit| *commit != revision.commit)
    }

    /// The number of a push. It is the time, or one more than the latest push has: so numbers go on rising where the
    /// clock went back, and where this memory was lost. A number of before that the push repeats (it is built again)
    /// stays what it was.
    pub(crate) fn number(&mut self, revision: &Revision, now_ms: i64) -> u64 {
        let latest = self.0.get(&revision.git_ref).map_or(0, Latest::number);
        if let Some(given) = revision.sequence.filter(|given| *given <= latest) {
            return given;
        }
        let number = u64::try_from(now_ms).unwrap_or(0).max(latest + 1);
        self.0.insert(revision.git_ref.clone(), Latest::Push { number, commit: revision.commit.clone() });
        if self.0.len() > REFS_MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, latest)| latest.number()).map(|(name, _)| name.clone())
        {
            self.0.remove(&oldest);
        }
        number
    }
}

/// A forge says so with a commit of zeros.
pub(crate) fn means_deleted(commit: &CommitId) -> bool {
    commit.as_str().bytes().all(|b| b == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_push_of_a_ref_has_a_higher_number() {
        let mut pushes = Pushes::default();
        let main = Revision { sequence: None, ..Revision::example() };
        assert_eq!((pushes.number(&main, 5), pushes.number(&main, 5), pushes.number(&main, 2)), (5, 6, 7));
        assert_eq!(pushes.number(&main, 9), 9);
        let again = Revision { sequence: Some(6), ..main.clone() };
        assert_eq!(pushes.number(&again, 20), 6, "what is built again is no newer than it was");
        let foreign = Revision { sequence: Some(1 << 60), ..main.clone() };
        assert_eq!(pushes.number(&foreign, 20), 20, "nobody pushes into the future");
        for number in 0..2000 {
            pushes.number(&Revision { git_ref: format!("refs/heads/{number}"), ..main.clone() }, number + 30);
        }
        assert_eq!(pushes.0.len(), REFS_MAX);
    }

    #[test]
    fn a_push_is_compared_with_what_the_ref_pointed_to_before() {
        let commit = |c: &str| c.repeat(40).parse::<CommitId>().unwrap();
        let main = |c: &str| Revision { commit: commit(c), ..Revision::example() };
        let mut pushes = Pushes::default();
        assert_eq!(pushes.base(&main("a"), None), None);
        pushes.number(&main("a"), 5);
        assert_eq!(pushes.base(&main("b"), None), Some(commit("a")));
        assert_eq!(pushes.base(&main("b"), Some(commit("c"))), Some(commit("c")), "the forge knows better");
        assert_eq!(pushes.base(&main("b"), Some(commit("0"))), Some(commit("a")));
        assert_eq!(pushes.base(&main("a"), None), None, "the same commit again");
        let old: Pushes = serde_json::from_str("{\"refs/heads/main\": 7}").unwrap();
        assert_eq!(old.base(&main("a"), None), None);
        let kept: Pushes = serde_json::from_value(serde_json::to_value(&pushes).unwrap()).unwrap();
        assert_eq!(kept, pushes);
    }
}
