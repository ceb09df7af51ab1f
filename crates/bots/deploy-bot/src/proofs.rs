//! What vouches for artifacts: which tests they passed and who built them, joined by commit and digest. Kept durably, on
//! sixteen shelves that are each a bounded document.
use std::collections::BTreeMap;

use bot_messages::{Digest, Event, ObjectRef, Revision, pipeline::DeployStage, test::TestCompleted};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{STATE_BYTES_MAX, desk::bytes, environments::Environment, release::Release};

/// Of one shelf; all sixteen together remember 512.
const ARTIFACTS_MAX: usize = 32;
/// Longer than any inbox remembers, so that a late message finds its like.
const DAYS_MAX: i64 = 90;
/// Of one artifact.
const PROOFS_MAX: usize = 8;

/// Some of the artifacts; which ones, their digests say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shelf {
    artifacts: BTreeMap<Digest, Known>,
}

/// What is known of one artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    artifact: ObjectRef,
    /// The newest last.
    proofs: Vec<Proof>,
    heard_at: DateTime<Utc>,
}

/// Someone vouches for an artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Proof {
    /// The type of the event.
    pub(crate) event_type: String,
    /// Whose exchange it came from.
    pub(crate) publisher: String,
    pub(crate) revision: Revision,
    /// Where its pipeline sends it, where the event says.
    pub(crate) deploy: BTreeMap<String, DeployStage>,
}

/// The state key of the shelf that holds an artifact.
pub(crate) fn key(digest: &Digest) -> String {
    format!("proofs:{}", &digest.hex()[..1])
}

impl Shelf {
    pub(crate) fn is_empty(&self) -> bool {
        self.artifacts.is_empty()
    }

    pub(crate) fn put(&mut self, artifact: ObjectRef, proof: Proof, now: DateTime<Utc>) {
        let known = self.artifacts.entry(artifact.digest.clone()).or_insert_with(|| Known {
            artifact,
            proofs: Vec::new(),
            heard_at: now,
        });
        known.heard_at = now;
        known.proofs.retain(|other| other.event_type != proof.event_type || other.revision != proof.revision);
        known.proofs.push(proof);
        let surplus = known.proofs.len().saturating_sub(PROOFS_MAX);
        known.proofs.drain(..surplus);
        self.artifacts.retain(|_, known| now - known.heard_at <= TimeDelta::days(DAYS_MAX));
        while self.artifacts.len() > ARTIFACTS_MAX || (self.artifacts.len() > 1 && bytes(self) > STATE_BYTES_MAX) {
            let oldest =
                self.artifacts.iter().min_by_key(|(_, known)| known.heard_at).map(|(digest, _)| digest.clone());
            oldest.map(|digest| self.artifacts.remove(&digest));
        }
    }

    /// What an environment requires and nobody has said yet of this artifact and commit.
    pub(crate) fn missing<'e>(
        &self,
        digest: &Digest,
        revision: &Revision,
        environment: &'e Environment,
    ) -> Vec<&'e str> {
        let proofs = self.artifacts.get(digest).map(|known| known.proofs.as_slice()).unwrap_or_default();
        let said = |event_type: &str| {
            let same = |proof: &Proof| proof.event_type == event_type && proof.revision.commit == revision.commit;
            proofs.iter().any(same)
        };
        environment.requires.iter().map(String::as_str).filter(|event_type| !said(event_type)).collect()
    }

    /// The tests that an artifact passed, the newest first.
    pub(crate) fn tests(&self, digest: &Digest) -> impl Iterator<Item = &Proof> {
        let known = self.artifacts.get(digest);
        known.into_iter().flat_map(|known| known.proofs.iter().rev()).filter(|p| p.event_type == TestCompleted::TYPE)
    }

    pub(crate) fn newest_test(&self, digest: &Digest) -> Option<&Proof> {
        self.tests(digest).next()
    }

    /// The artifact as its pipeline wants it in an environment, if a tested revision may go there and its pipeline names
    /// it; otherwise why not, as a sentence.
    pub(crate) fn permitted(&self, digest: &Digest, environment: &Environment) -> Result<Release, String> {
        let name = &environment.name;
        let mut refused = None;
        for proof in self.tests(digest) {
            match self.judge(digest, proof, environment) {
                Ok(release) => return Ok(release),
                // The newest says it best.
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        Err(refused.unwrap_or_else(|| {
            format!(
                "{} was never seen to pass its tests, or that was more than {DAYS_MAX} days ago: {name} takes only what a \
                 {} vouches for; push its commit again",
                digest.short(),
                TestCompleted::TYPE
            )
        }))
    }

    fn judge(&self, digest: &Digest, proof: &Proof, environment: &Environment) -> Result<Release, String> {
        let (name, revision) = (&environment.name, &proof.revision);
        environment.admits(revision).map_err(|why| format!("{name}: environments.yaml {why}."))?;
        let Some(stage) = proof.deploy.get(name) else {
            let named: Vec<&str> = proof.deploy.keys().map(String::as_str).collect();
            let named = if named.is_empty() { "no environment".to_owned() } else { named.join(", ") };
            return Err(format!(
                "the pipeline file of {} does not say how {} goes to {name}: it names {named}; name {name} there and push",
                revision.commit.short(),
                digest.short()
            ));
        };
        match self.missing(digest, revision, environment)[..] {
            [] => self.release(digest, revision, stage),
            ref missing => Err(format!(
                "{name} requires {} of {} at {}, and nobody has said it",
                missing.join(" and "),
                digest.short(),
                revision.commit.short()
            )),
        }
    }

    pub(crate) fn release(&self, digest: &Digest, revision: &Revision, stage: &DeployStage) -> Result<Release, String> {
        let known = self.artifacts.get(digest).ok_or_else(|| format!("{} is not known", digest.short()))?;
        Ok(Release::new(known.artifact.clone(), revision.clone(), stage.clone()))
    }
}
