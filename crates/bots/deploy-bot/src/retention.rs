//! Retention by the clock: a schedule of the configuration starts a job that removes from the object store what is old
//! and what no environment needs. DeployBot does it because it alone says what environments need.
use std::collections::BTreeMap;

use bot_clients::{Collected, Tally};
use bot_core::{Effects, Fail, GaveUp, Job, JobCx, Outcome};
use bot_messages::{
    Severity,
    alert::{AlertResolved, AlertTriggered},
    objects::{ObjectCount, ObjectsCollected},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::DeployBot;

/// The state key.
pub(crate) const KEY: &str = "retention";
/// The timer by which a job tells how it ended.
pub(crate) const ENDED: &str = "retention:ended";
const ALERT: &str = "retention";
const SUBJECT: &str = "objects";
const WHY_CHARS_MAX: usize = 500;

/// The `data` of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scheduled {
    #[serde(rename = "do")]
    _what: Do,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Do {
    Collect,
}

/// The entity that a schedule is about.
pub(crate) fn schedule_key(data: &Value) -> Result<String, String> {
    Scheduled::deserialize(data).map_err(|e| format!("`data`: {e}; expected {{do: collect}}"))?;
    Ok(KEY.to_owned())
}

/// What is remembered between two times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Retention {
    /// Since when an alert stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    alert_since: Option<DateTime<Utc>>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Why nothing, or not everything, was removed that might have been.
    why: Option<String>,
}

impl Ended {
    fn say(&self) -> Effects<DeployBot> {
        let data = serde_json::to_value(self).unwrap_or_default();
        Effects::none().set_timer(ENDED, KEY, std::time::Duration::ZERO, data)
    }
}

impl Retention {
    /// Someone is called while nothing is removed: the store grows until it is full.
    pub(crate) fn ended(&mut self, ended: Ended, now: DateTime<Utc>) -> Effects<DeployBot> {
        let (alert_id, subject) = (ALERT.to_owned(), SUBJECT.to_owned());
        match (ended.why, self.alert_since) {
            (Some(why), _) => {
                self.alert_since = self.alert_since.or(Some(now));
                let why: String = why.chars().take(WHY_CHARS_MAX).collect();
                let summary = format!("old objects are not removed: {why}");
                Effects::none().say(AlertTriggered { alert_id, severity: Severity::Warning, subject, summary })
            }
            (None, Some(since)) => {
                self.alert_since = None;
                let duration_ms = (now - since).num_milliseconds().try_into().unwrap_or(0);
                let summary = "old objects are removed again".to_owned();
                Effects::none().say(AlertResolved { alert_id, subject, summary, duration_ms })
            }
            (None, None) => Effects::none(),
        }
    }
}

/// Removes what is old and not needed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectJob {}

impl Job for CollectJob {
    type Bot = DeployBot;
    const KIND: &'static str = "collect";

    fn exclusive(&self) -> Option<String> {
        Some(KEY.to_owned())
    }

    async fn run(&self, bot: &DeployBot, cx: &JobCx<DeployBot>) -> Outcome<DeployBot> {
        let environments: Vec<String> = bot.environments.keys().cloned().collect();
        let collecting = bot.objects.collect(&bot.retention, &environments, cx.now(), false);
        // Where it is stopped in between, what was removed stays removed, and the next time goes on.
        let collected = tokio::select! {
            collected = collecting => collected,
            () = cx.cancelled.cancelled() => return Err(Fail::retry(anyhow::anyhow!("told to stop"))),
        };
        // An environment that is new may not have said yet what it needs: the keeper says it within seconds.
        let collected = collected.map_err(Fail::retry)?;
        let said = said(cx, &collected);
        let all = said.removed.values().fold(ObjectCount::default(), |all, one| ObjectCount {
            count: all.count + one.count,
            bytes: all.bytes + one.bytes,
        });
        tracing::info!(
            job_id = cx.id,
            removed = all.count,
            bytes = all.bytes,
            in_use = said.in_use.count,
            kept = said.kept.count,
            "old objects were removed"
        );
        Ok(Ended { why: None }.say().say(said))
    }

    fn gave_up(&self, _: &DeployBot, end: &GaveUp) -> Effects<DeployBot> {
        Ended { why: Some(end.error.message.clone()) }.say()
    }
}

fn said(cx: &JobCx<DeployBot>, collected: &Collected) -> ObjectsCollected {
    let Collected { removed, unfinished, in_use, kept } = collected;
    let removed: BTreeMap<String, ObjectCount> =
        removed.iter().map(|(kind, tally)| (kind.to_string(), count(*tally))).collect();
    ObjectsCollected {
        job_id: cx.id.clone(),
        removed,
        unfinished: count(*unfinished),
        in_use: count(*in_use),
        kept: count(*kept),
        duration_ms: cx.duration_ms(),
    }
}

fn count(tally: Tally) -> ObjectCount {
    ObjectCount { count: tally.count, bytes: tally.bytes }
}
