//! When a push has come to its end: decided from the events and records of its correlation and the time. Pure.
use std::{collections::BTreeMap, time::Duration};

use bot_messages::telemetry::{LogRecord, Outcome, RecordKind};
use serde_json::Value;

use super::terminal::{cut, took};

/// After a stage that might be followed by another, so long without it is the end.
const QUIET: Duration = Duration::from_secs(3);
/// Who takes which message of a push further.
const STAGES: [(&str, &str); 3] =
    [("BuildBot", "repository.pushed"), ("TestBot", "build.completed"), ("DeployBot", "test.completed")];
/// `DeployBot` notes for each environment that takes an artifact that it goes there. Where the note reads otherwise,
/// [`QUIET`] decides.
const PROMISE: &str = " goes there";

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) success: bool,
    pub(super) why: String,
}

impl End {
    fn good(why: impl Into<String>) -> Self {
        Self { success: true, why: why.into() }
    }
    fn bad(why: impl Into<String>) -> Self {
        Self { success: false, why: why.into() }
    }
}

#[derive(Clone, Debug)]
struct Running {
    what: String,
    since: Duration,
    doing: String,
}

/// A push on its way. Times are since the push.
#[derive(Clone, Debug, Default)]
pub(super) struct Flow {
    /// id → type, of the messages that [`STAGES`] take further.
    messages: BTreeMap<String, String>,
    running: BTreeMap<String, Running>,
    built: bool,
    tested: bool,
    /// Environments that the pipeline names.
    deploys_named: usize,
    /// Deployments that `DeployBot` promised.
    deploys_promised: Option<usize>,
    deploys_started: usize,
    deploys_done: usize,
    /// For what a deployment waits that will not end soon.
    held_for: Option<String>,
    /// Since when nothing is known to follow.
    quiet_since: Option<Duration>,
    /// Why that is.
    quiet_why: String,
    /// Records that came before their message: the two travel by different queues.
    early: Vec<LogRecord>,
}

impl Flow {
    /// An event of the push's correlation.
    pub(super) fn said(&mut self, id: &str, event_type: &str, data: &Value, at: Duration) -> Option<End> {
        let known = self.messages.insert(id.to_owned(), event_type.to_owned()).is_some();
        if known {
            return None;
        }
        self.keep_running(event_type, data, at);
        let end = match event_type {
            "build.completed" => {
                self.built = true;
                None
            }
            "build.failed" => Some(End::bad("the build failed")),
            "test.failed" => Some(End::bad("the tests failed")),
            "deploy.failed" => Some(End::bad("the deployment failed")),
            "test.completed" => self.tests_passed(data, at),
            "deploy.started" => {
                self.deploys_started += 1;
                self.quiet_since = None;
                None
            }
            "deploy.completed" => {
                self.deploys_done += 1;
                self.deployed(at)
            }
            // It goes on by itself when someone says yes, or when the gate opens: nobody has to wait here for that.
            "approval.requested" => self.held("a person's yes", at),
            "deploy.held" if data.get("gate").is_none_or(|gate| gate != "busy") => self.held("an open gate", at),
            "message.dead_lettered" => gave_up(data),
            _ => None,
        };
        let early = std::mem::take(&mut self.early);
        let (now_known, still_early) = early.into_iter().partition(|r| r.message_id.as_deref() == Some(id));
        self.early = still_early;
        let late: Vec<LogRecord> = now_known;
        end.or_else(|| late.iter().find_map(|r| self.handled(r, at)))
    }

    /// A record of the push's correlation.
    pub(super) fn recorded(&mut self, record: &LogRecord, at: Duration) -> Option<End> {
        if let (Some(job), RecordKind::Progress | RecordKind::Output) = (&record.job_id, record.kind)
            && let Some(running) = self.running.get_mut(job)
        {
            running.doing = cut(&record.message, 100);
        }
        if record.kind != RecordKind::Handled {
            return None;
        }
        if record.message_id.as_ref().is_some_and(|id| self.messages.contains_key(id)) {
            return self.handled(record, at);
        }
        // Of other bots' messages there are few, and a correlation is bounded by its hops.
        if self.early.len() < 64 {
            self.early.push(record.clone());
        }
        None
    }

    /// Time passed.
    pub(super) fn passed(&mut self, at: Duration) -> Option<End> {
        let since = self.quiet_since?;
        (at.saturating_sub(since) >= QUIET).then(|| End::good(self.quiet_why.clone()))
    }

    /// What is going on, for whoever waits.
    pub(super) fn doing(&self, at: Duration) -> String {
        let running: Vec<String> = self
            .running
            .values()
            .map(|r| {
                let doing = if r.doing.is_empty() { String::new() } else { format!(": {}", r.doing) };
                format!("{} for {}{doing}", r.what, took(at.saturating_sub(r.since).as_millis() as u64))
            })
            .collect();
        if !running.is_empty() {
            return format!("still {}", running.join("; "));
        }
        let waits_for = match (self.built, self.tested) {
            (_, true) => "DeployBot",
            (true, false) => "TestBot",
            (false, false) => "BuildBot",
        };
        format!("still waiting for {waits_for} to begin; `lota status` shows how it is")
    }

    fn keep_running(&mut self, event_type: &str, data: &Value, at: Duration) {
        let Some((stage, what)) = event_type.split_once('.') else {
            return;
        };
        let Some(job) = data.get("job_id").and_then(Value::as_str) else {
            return;
        };
        match what {
            "started" => {
                let what = match stage {
                    "build" => "building".to_owned(),
                    "test" => "testing".to_owned(),
                    "deploy" => format!(
                        "deploying to {}",
                        data.get("environment").and_then(Value::as_str).unwrap_or("an environment")
                    ),
                    other => format!("running {other}"),
                };
                self.running.insert(job.to_owned(), Running { what, since: at, doing: String::new() });
            }
            "completed" | "failed" => {
                self.running.remove(job);
            }
            _ => {}
        }
    }

    fn tests_passed(&mut self, data: &Value, at: Duration) -> Option<End> {
        self.tested = true;
        // Who reads only the monitor's summary does not know what the pipeline asks for.
        let named =
            data.get("suites").map(|_| data.get("deploy").and_then(Value::as_object).map_or(0, serde_json::Map::len));
        self.deploys_named = named.unwrap_or(1);
        if self.deploys_named == 0 {
            return Some(End::good("built and tested; the pipeline names no environment to deploy to"));
        }
        if self.deploys_started == 0 {
            self.quiet(at, "built and tested; DeployBot began no deployment (is it running? see `lota status`)");
        }
        None
    }

    fn deployed(&mut self, at: Duration) -> Option<End> {
        let expected = self.deploys_promised.unwrap_or(0).max(self.deploys_started);
        let all = self.deploys_done >= expected;
        if all && (self.deploys_named <= 1 || self.deploys_promised.is_some()) {
            return Some(End::good(self.good()));
        }
        if all {
            self.quiet(at, &self.good());
        }
        None
    }

    /// A deployment that waits for something that may take days counts as done.
    fn held(&mut self, for_what: &str, at: Duration) -> Option<End> {
        self.held_for = Some(for_what.to_owned());
        self.deploys_done += 1;
        self.deploys_started += 1;
        self.deployed(at)
    }

    /// How a push ended well.
    fn good(&self) -> String {
        match &self.held_for {
            Some(for_what) => format!("built and tested; a deployment waits for {for_what}: see `lota history`"),
            None => "built, tested and deployed".to_owned(),
        }
    }

    fn quiet(&mut self, at: Duration, why: &str) {
        self.quiet_since = Some(at);
        why.clone_into(&mut self.quiet_why);
    }

    /// A stage's bot settled the message that leads to it.
    fn handled(&mut self, record: &LogRecord, at: Duration) -> Option<End> {
        let event_type = self.messages.get(record.message_id.as_ref()?)?.as_str();
        if !STAGES.contains(&(record.bot.as_str(), event_type)) {
            return None;
        }
        let (bot, why) = (record.bot.as_str(), cut(&record.message, 300));
        match (record.outcome?, bot) {
            (Outcome::Ignored, "BuildBot") => {
                Some(End::bad(format!("nothing is built, since BuildBot left the push: {why}")))
            }
            (Outcome::Ignored, "TestBot") => Some(End::good(format!("built; TestBot left it: {why}"))),
            (Outcome::Ignored, _) => Some(End::good(format!("built and tested; DeployBot left it: {why}"))),
            (Outcome::Acted, "DeployBot") => self.promised(&why, at),
            (Outcome::DeadLettered, _) => Some(End::bad(format!("{bot} gave up on {event_type}: {why}"))),
            // It comes again; the quiet begins anew then.
            (Outcome::Retried, _) => {
                self.quiet_since = None;
                None
            }
            _ => None,
        }
    }

    fn promised(&mut self, note: &str, at: Duration) -> Option<End> {
        let promised = note.matches(PROMISE).count();
        if promised > 0 {
            self.deploys_promised = Some(promised);
            self.quiet_since = None;
            return (self.deploys_done >= promised).then(|| End::good(self.good()));
        }
        if self.deploys_started == 0 {
            let note = if note.is_empty() { "it gave no reason" } else { note };
            self.quiet(at, &format!("built and tested; DeployBot began no deployment: {note}"));
        }
        None
    }
}

/// Only what stops the push itself: a bot beside it may give up on its own.
fn gave_up(data: &Value) -> Option<End> {
    let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    let stage = STAGES.contains(&(text("bot"), text("message_type")));
    stage.then(|| End::bad(format!("{} gave up on {}: {}", text("bot"), text("message_type"), cut(text("error"), 300))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const fn s(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn record(bot: &str, message: &str, outcome: Outcome, why: &str) -> LogRecord {
        serde_json::from_value(json!({
            "bot": bot, "instance": "i", "timestamp": "2026-11-01T12:00:00Z", "level": "info", "kind": "handled",
            "message": why, "message_id": message, "outcome": outcome,
        }))
        .unwrap()
    }

    fn tested(deploy: &Value) -> Value {
        json!({"suites": [], "deploy": deploy})
    }

    fn ended(end: Option<End>) -> Option<bool> {
        end.map(|e| e.success)
    }

    #[test]
    fn failures_end_it_at_once() {
        for event_type in ["build.failed", "test.failed", "deploy.failed"] {
            assert_eq!(ended(Flow::default().said("1", event_type, &Value::Null, s(1))), Some(false), "{event_type}");
        }
        let letter = |bot: &str| json!({"bot": bot, "message_type": "repository.pushed", "error": "no"});
        assert_eq!(ended(Flow::default().said("1", "message.dead_lettered", &letter("BuildBot"), s(1))), Some(false));
        assert_eq!(Flow::default().said("1", "message.dead_lettered", &letter("LintBot"), s(1)), None);
    }

    #[test]
    fn without_a_deployment_the_tests_are_the_end() {
        assert_eq!(ended(Flow::default().said("1", "test.completed", &tested(&json!({})), s(1))), Some(true));
        assert_eq!(ended(Flow::default().said("1", "test.completed", &json!({"suites": []}), s(1))), Some(true));
    }

    #[test]
    fn a_deployment_is_waited_for() {
        let mut f = Flow::default();
        assert_eq!(f.said("t", "test.completed", &tested(&json!({"local": {}})), s(1)), None);
        assert_eq!(f.passed(s(3)), None);
        assert_eq!(f.said("d", "deploy.started", &json!({"job_id": "j", "environment": "local"}), s(3)), None);
        assert_eq!(f.passed(s(99)), None, "it runs");
        assert_eq!(f.doing(s(9)), "still deploying to local for 6.0 s");
        assert_eq!(ended(f.said("e", "deploy.completed", &json!({"job_id": "j"}), s(100))), Some(true));
    }

    #[test]
    fn a_deployment_that_waits_for_people_is_not_waited_for() {
        let mut f = Flow::default();
        f.said("t", "test.completed", &tested(&json!({"live": {}})), s(1));
        assert_eq!(f.recorded(&record("DeployBot", "t", Outcome::Acted, "live: 3f8a goes there."), s(2)), None);
        assert_eq!(f.said("h", "deploy.held", &json!({"environment": "live", "gate": "busy"}), s(2)), None);
        let end = f.said("a", "approval.requested", &json!({"environment": "live"}), s(3)).unwrap();
        assert!(end.success && end.why.contains("waits for a person's yes"), "{}", end.why);
    }

    #[test]
    fn quiet_ends_it_where_no_deployment_follows() {
        let mut f = Flow::default();
        f.said("t", "test.completed", &tested(&json!({"local": {}})), s(1));
        assert_eq!(ended(f.passed(s(4))), Some(true));
    }

    #[test]
    fn deploy_bots_word_counts_more_than_the_quiet() {
        let begun = |why: &str, outcome| {
            let mut f = Flow::default();
            f.said("t", "test.completed", &tested(&json!({"a": {}, "b": {}})), s(1));
            let end = f.recorded(&record("DeployBot", "t", outcome, why), s(2));
            (f, end)
        };
        assert_eq!(ended(begun("not from this branch", Outcome::Ignored).1), Some(true));
        assert_eq!(ended(begun("broken", Outcome::DeadLettered).1), Some(false));
        let (mut f, _) = begun("b: there is no such environment.", Outcome::Acted);
        assert!(f.passed(s(5)).unwrap().why.contains("no such environment"));
        let (mut f, _) = begun("a: 3f8a goes there. b: 3f8a goes there.", Outcome::Acted);
        assert_eq!(f.passed(s(50)), None, "an environment may be busy");
        f.said("1", "deploy.started", &json!({"job_id": "1"}), s(51));
        assert_eq!(f.said("2", "deploy.completed", &json!({"job_id": "1"}), s(52)), None, "one of two");
        f.said("3", "deploy.started", &json!({"job_id": "2"}), s(60));
        assert_eq!(ended(f.said("4", "deploy.completed", &json!({"job_id": "2"}), s(61))), Some(true));
    }

    #[test]
    fn a_record_may_come_before_its_message() {
        let mut f = Flow::default();
        assert_eq!(f.recorded(&record("BuildBot", "p", Outcome::Ignored, "no trigger"), s(1)), None);
        assert_eq!(ended(f.said("p", "repository.pushed", &Value::Null, s(1))), Some(false));
    }

    #[test]
    fn other_bots_do_not_end_it() {
        let mut f = Flow::default();
        f.said("p", "repository.pushed", &Value::Null, s(1));
        assert_eq!(f.recorded(&record("LintBot", "p", Outcome::Ignored, "no"), s(1)), None);
        assert_eq!(f.doing(s(30)), "still waiting for BuildBot to begin; `lota status` shows how it is");
        f.said("b", "build.started", &json!({"job_id": "j"}), s(2));
        let mut output = record("BuildBot", "x", Outcome::Acted, "Compiling app");
        (output.kind, output.job_id) = (RecordKind::Output, Some("j".into()));
        f.recorded(&output, s(3));
        assert_eq!(f.doing(s(30)), "still building for 28.0 s: Compiling app");
    }
}
