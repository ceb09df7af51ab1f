//! The applications that were deployed, what is asked to see that they are healthy, and what they answered. The asking
//! itself is in `service.rs`.
use std::collections::BTreeMap;

use bot_messages::{
    Digest,
    deploy::{DeployCompleted, DeployRolledBack},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// So many failures in a row make an application count as down.
pub(crate) const FAILURES_DOWN: u32 = 2;
/// At most so many are probed; a further one is not.
const APPLICATIONS_MAX: usize = 200;
/// So many earlier releases are remembered, for the day on which one comes back.
const EARLIER_MAX: usize = 10;

/// What stands in an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The artifact.
    pub digest: Digest,
    /// Where it came from, where it is known.
    pub repository: Option<String>,
    /// The commit, where it is known.
    pub commit: Option<String>,
    /// Where it answers.
    pub url: Option<String>,
    /// What is asked; without it there is nothing to probe.
    pub health_url: Option<String>,
}

/// What is durably known of one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// The deploy job that is the latest one heard of. Job ids are ordered by time.
    pub job_id: String,
    /// What stands there; nothing after everything was taken back.
    pub current: Option<Release>,
    /// What stood there before, latest first.
    pub earlier: Vec<Release>,
}

impl Known {
    /// Something was deployed. False where it is older than what is known: messages may come late.
    pub(crate) fn deployed(&mut self, event: DeployCompleted) -> bool {
        if event.job_id < self.job_id {
            return false;
        }
        self.job_id = event.job_id;
        self.replace(Some(Release {
            digest: event.digest,
            repository: Some(event.revision.repository),
            commit: Some(event.revision.commit.to_string()),
            url: event.url,
            health_url: event.health_url,
        }));
        true
    }

    /// An environment went back. False where it is older than what is known.
    pub(crate) fn rolled_back(&mut self, event: &DeployRolledBack) -> bool {
        if event.job_id < self.job_id {
            return false;
        }
        self.job_id.clone_from(&event.job_id);
        let Some(to) = &event.to else {
            self.replace(None);
            return true;
        };
        if self.current.as_ref().is_some_and(|c| c.digest == *to) {
            return true;
        }
        let known = self.earlier.iter().find(|r| r.digest == *to).cloned();
        // One that was never heard of is expected where the one before it answered.
        let (url, health_url) =
            self.current.as_ref().map(|c| (c.url.clone(), c.health_url.clone())).unwrap_or_default();
        let unknown = || Release { digest: to.clone(), repository: None, commit: None, url, health_url };
        self.replace(Some(known.unwrap_or_else(unknown)));
        true
    }

    fn replace(&mut self, release: Option<Release>) {
        if let Some(before) = std::mem::replace(&mut self.current, release) {
            self.earlier.retain(|r| r.digest != before.digest);
            self.earlier.insert(0, before);
            self.earlier.truncate(EARLIER_MAX);
        }
    }
}

/// What is known of an application's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Health {
    /// Not asked yet, or it has nothing that could be asked.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It did not answer several times in a row.
    Down,
}

/// One application.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Application {
    /// Where.
    pub(crate) environment: String,
    /// What.
    #[serde(flatten)]
    pub(crate) release: Release,
    /// How it is.
    pub(crate) health: Health,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// When it was asked last.
    pub(crate) probed: Option<DateTime<Utc>>,
    /// How long its latest answer took, milliseconds.
    pub(crate) response_ms: Option<u64>,
    /// What its latest probe found wrong.
    pub(crate) error: Option<String>,
}

/// All of them, by environment.
#[derive(Debug, Default)]
pub(crate) struct Applications {
    by_environment: BTreeMap<String, Application>,
}

impl Applications {
    /// What stands in an environment now. The same release again keeps what was found out about it.
    pub(crate) fn place(&mut self, environment: &str, release: Option<&Release>) {
        let Some(release) = release else {
            self.by_environment.remove(environment);
            return;
        };
        let is_same = self.by_environment.get(environment).is_some_and(|a| a.release == *release);
        let is_full = self.by_environment.len() >= APPLICATIONS_MAX && !self.by_environment.contains_key(environment);
        if is_same || is_full {
            return;
        }
        let application = Application {
            environment: environment.to_owned(),
            release: release.clone(),
            health: Health::Unknown,
            failures: 0,
            probed: None,
            response_ms: None,
            error: None,
        };
        self.by_environment.insert(environment.to_owned(), application);
    }

    /// What is to be asked: environment and URL.
    pub(crate) fn targets(&self) -> Vec<(String, String)> {
        let all = self.by_environment.values();
        all.filter_map(|a| Some((a.environment.clone(), a.release.health_url.clone()?))).collect()
    }

    /// What came of asking `url`: how long the answer took, or what was wrong. An answer about a release that was
    /// replaced in the meantime counts for nothing.
    pub(crate) fn probed(&mut self, environment: &str, url: &str, answer: Result<u64, String>, now: DateTime<Utc>) {
        let Some(a) = self.by_environment.get_mut(environment) else {
            return;
        };
        if a.release.health_url.as_deref() != Some(url) {
            return;
        }
        a.probed = Some(now);
        match answer {
            Ok(response_ms) => {
                (a.health, a.failures, a.response_ms, a.error) = (Health::Up, 0, Some(response_ms), None);
            }
            Err(error) => {
                a.failures = a.failures.saturating_add(1);
                a.error = Some(error);
                if a.failures >= FAILURES_DOWN {
                    a.health = Health::Down;
                }
            }
        }
    }

    /// All, by environment.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Application> {
        self.by_environment.values()
    }

    /// One.
    pub(crate) fn get(&self, environment: &str) -> Option<&Application> {
        self.by_environment.get(environment)
    }

    /// What stands where, for the next run of the monitor.
    pub(crate) fn releases(&self) -> BTreeMap<String, Release> {
        self.by_environment.iter().map(|(e, a)| (e.clone(), a.release.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::tests::at;
    use bot_messages::Event;

    fn digest(n: u8) -> Digest {
        Digest::from_hex(&format!("{n:02x}").repeat(32)).unwrap()
    }

    fn deployed(job: &str, n: u8) -> DeployCompleted {
        let url = Some(format!("http://127.0.0.1:{n}/health"));
        DeployCompleted { job_id: job.into(), digest: digest(n), health_url: url, ..DeployCompleted::example() }
    }

    fn back(job: &str, to: Option<u8>) -> DeployRolledBack {
        DeployRolledBack { job_id: job.into(), to: to.map(digest), ..DeployRolledBack::example() }
    }

    #[test]
    fn an_environment_goes_forth_and_back() {
        let mut known = Known::default();
        assert!(known.deployed(deployed("1", 1)) && known.deployed(deployed("2", 2)));
        assert!(!known.deployed(deployed("1", 1)), "late");
        assert!(known.rolled_back(&back("3", Some(1))));
        assert_eq!(known.current.as_ref().unwrap().health_url.as_deref(), Some("http://127.0.0.1:1/health"));
        assert!(known.rolled_back(&back("4", Some(9))), "one that was never heard of");
        let current = known.current.as_ref().unwrap();
        assert_eq!((current.repository.as_deref(), current.health_url.is_some()), (None, true));
        assert!(known.rolled_back(&back("5", None)));
        assert!(known.current.is_none() && known.earlier.len() == 3);
        assert!(!known.rolled_back(&back("4", Some(2))), "late");
    }

    #[test]
    fn two_failures_in_a_row_are_down_and_one_answer_is_up() {
        let mut known = Known::default();
        known.deployed(deployed("1", 1));
        let mut apps = Applications::default();
        apps.place("staging", known.current.as_ref());
        let (environment, url) = apps.targets().remove(0);
        let mut probe = |answer: Result<u64, String>| {
            apps.probed(&environment, &url, answer, at(0));
            apps.get("staging").unwrap().health
        };
        assert_eq!(probe(Err("refused".into())), Health::Unknown);
        assert_eq!(probe(Ok(3)), Health::Up);
        assert_eq!(probe(Err("refused".into())), Health::Up);
        assert_eq!(probe(Err("refused".into())), Health::Down);
        assert_eq!(probe(Ok(3)), Health::Up);
        apps.probed("staging", "http://elsewhere/", Err("old".into()), at(1));
        assert_eq!(apps.get("staging").unwrap().failures, 0);
        apps.place("staging", None);
        assert!(apps.targets().is_empty());
    }

    #[test]
    fn a_site_without_a_health_url_is_listed_and_not_probed() {
        let mut apps = Applications::default();
        let mut known = Known::default();
        known.deployed(DeployCompleted { health_url: None, ..DeployCompleted::example() });
        apps.place("site", known.current.as_ref());
        assert_eq!((apps.targets().len(), apps.all().count()), (0, 1));
    }
}
