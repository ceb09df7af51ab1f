//! What happened to one environment, as data: its switches, and what follows from them. How they are kept is in `journal`.
use std::collections::BTreeSet;

use bot_messages::{Digest, Revision};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::release::Release;

/// Which way a switch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// On to something else.
    Deploy,
    /// Back to something that was there.
    Rollback,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Switch {
    /// 1 for the first; without gaps.
    pub(crate) seq: u64,
    pub(crate) at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Digest>,
    /// Absent: nothing is there from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<Release>,
    pub(crate) job: String,
    /// The fencing token under which it was done; never falls within a job.
    pub(crate) token: i64,
    pub(crate) kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) requested_by: Option<String>,
}

/// What has happened so far, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct History {
    pub(crate) switches: Vec<Switch>,
}

impl History {
    /// The newest line.
    pub(crate) fn last(&self) -> Option<&Switch> {
        self.switches.last()
    }

    /// What should be there.
    pub(crate) fn current(&self) -> Option<&Release> {
        self.last()?.to.as_ref()
    }

    /// What was there before the current one, with everything that was taken back left out.
    pub(crate) fn previous(&self) -> Option<&Release> {
        self.standing().into_iter().rev().nth(1)
    }

    /// What was there when the switch `seq` was made.
    pub(crate) fn before(&self, seq: u64) -> Option<&Release> {
        self.switches.iter().rfind(|switch| switch.seq < seq)?.to.as_ref()
    }

    /// An artifact that was there once, as it was there last.
    pub(crate) fn release(&self, digest: &Digest) -> Option<&Release> {
        self.switches.iter().rev().filter_map(|switch| switch.to.as_ref()).find(|to| to.digest() == digest)
    }

    /// The switches of one job: its own, and the one that took it back.
    pub(crate) fn of_job(&self, job: &str) -> Vec<&Switch> {
        self.switches.iter().filter(|switch| switch.job == job).collect()
    }

    /// A later push of the same ref that was here, also if it was taken back.
    pub(crate) fn newer_than(&self, revision: &Revision) -> Option<&Revision> {
        let same = |other: &&Revision| other.repository == revision.repository && other.git_ref == revision.git_ref;
        let all = self.switches.iter().rev().filter_map(|switch| Some(&switch.to.as_ref()?.revision));
        let number = revision.sequence?;
        all.filter(same).find(|other| other.sequence.is_some_and(|sequence| sequence > number))
    }

    /// The newest switches' numbers, newest first.
    pub(crate) fn newest(&self, count: usize) -> Vec<u64> {
        self.switches.iter().rev().take(count).map(|switch| switch.seq).collect()
    }

    /// The newest switches to something that is served, newest first.
    pub(crate) fn applications(&self, count: usize) -> Vec<u64> {
        let serves = |switch: &&Switch| switch.to.as_ref().is_some_and(|to| to.serve.is_some());
        self.switches.iter().rev().filter(serves).take(count).map(|switch| switch.seq).collect()
    }

    /// The artifacts that stay on disk: the newest `keep`, and always the current and the one before.
    pub(crate) fn kept(&self, keep: usize) -> BTreeSet<Digest> {
        let always = [self.current(), self.previous()].into_iter().flatten();
        let mut kept: BTreeSet<Digest> = always.map(|release| release.digest().clone()).collect();
        for release in self.switches.iter().rev().filter_map(|switch| switch.to.as_ref()) {
            if kept.len() >= keep {
                break;
            }
            kept.insert(release.digest().clone());
        }
        kept
    }

    /// Each rollback takes away what was put over its target.
    fn standing(&self) -> Vec<&Release> {
        let mut standing: Vec<&Release> = Vec::new();
        for switch in &self.switches {
            match (&switch.to, switch.kind) {
                (None, _) => standing.clear(),
                (Some(to), Kind::Deploy) => {
                    standing.retain(|release| release.digest() != to.digest());
                    standing.push(to);
                }
                (Some(to), Kind::Rollback) => {
                    let target = standing.iter().rposition(|release| release.digest() == to.digest());
                    standing.truncate(target.unwrap_or(0));
                    standing.push(to);
                }
            }
        }
        standing
    }
}
