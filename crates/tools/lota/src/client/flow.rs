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
/// Until `DeployBot` says what it makes of a test that passed; it does so at once where it runs.
const WORD: Duration = Duration::from_secs(15);
/// `DeployBot` notes what becomes of each environment that the pipeline file names, one sentence each: it goes there,
const PROMISED: &str = " goes there.";
/// the pipeline file itself does not want it there from this ref,
const UNWANTED: &str = ": the pipeline file sends it there ";
/// or the operator's file does not let it. Where the note reads otherwise, [`QUIET`] decides.
const REFUSED: [&str; 2] = [": there is no such environment in environments.yaml", ": environments.yaml "];

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All that was asked for.
    Good,
    /// Nothing failed and nothing was refused, but no environment has it.
    NotDeployed,
    /// A stage failed, or a deployment that was asked for was refused.
    Bad,
}

/// The end, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) verdict: Verdict,
    pub(super) why: String,
}

impl End {
    fn good(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, why: why.into() }
    }
    fn not_deployed(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::NotDeployed, why: why.into() }
    }
    fn bad(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, why: why.into() }
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
    /// What `DeployBot` said of an environment that was refused.
    refused: Option<String>,
    /// When it is over, should nothing follow; and how.
    over_at: Option<(Duration, End)>,
    /// Records that came before their message: the two travel by different queues.
    early: Vec<LogRecord>,
}

impl Flow {
    /// Of a job that is done once more: what comes before its stage was done before.
    pub(super) fn of_job(kind: &str) -> Self {
        let (built, tested) = (matches!(kind, "test" | "deploy"), kind == "deploy");
        Self { built, tested, deploys_promised: tested.then_some(1), ..Self::default() }
    }

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
            "deploy.refused" => Some(End::bad("it was refused")),
            // A deployment that took itself back was started, and ends as failed.
            "deploy.rolled_back" if self.deploys_started == 0 => Some(End::good("taken back")),
            "test.completed" => self.tests_passed(data, at),
            "deploy.started" => {
                self.deploys_started += 1;
                self.over_at = None;
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
        let (over_at, end) = self.over_at.as_ref()?;
        (at >= *over_at).then(|| end.clone())
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
            let why = "built and tested; it waits for DeployBot, which has not taken it up (is it running? see `lota status`)";
            self.over_at = Some((at + WORD, End::not_deployed(why)));
        }
        None
    }

    fn deployed(&mut self, at: Duration) -> Option<End> {
        let expected = self.deploys_promised.unwrap_or(0).max(self.deploys_started);
        if self.deploys_done < expected {
            return None;
        }
        let end = self.all_done();
        if self.deploys_named <= 1 || self.deploys_promised.is_some() {
            return Some(end);
        }
        self.over_at = Some((at + QUIET, end));
        None
    }

    /// A deployment that waits for something that may take days is as far as it comes.
    fn held(&mut self, for_what: &str, at: Duration) -> Option<End> {
        self.held_for = Some(for_what.to_owned());
        self.deploys_done += 1;
        self.deploys_started += 1;
        self.deployed(at)
    }

    /// All deployments that begin at all are as far as they come by themselves.
    fn all_done(&self) -> End {
        match (&self.refused, &self.held_for) {
            (None, None) => End::good("built, tested and deployed"),
            (None, Some(for_what)) => {
                End::not_deployed(format!("built and tested; a deployment waits for {for_what}: see `lota history`"))
            }
            (Some(note), _) => End::bad(format!("built, tested and deployed, but not to every environment: {note}")),
        }
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
            (Outcome::Ignored, "TestBot") => Some(End::not_deployed(format!("built; TestBot left it: {why}"))),
            (Outcome::Ignored, _) => Some(End::not_deployed(format!("built and tested; DeployBot left it: {why}"))),
            (Outcome::Acted, "DeployBot") => self.promised(&record.message, &why, at),
            (Outcome::DeadLettered, _) => Some(End::bad(format!("{bot} gave up on {event_type}: {why}"))),
            // It comes again; the quiet begins anew then.
            (Outcome::Retried, _) => {
                self.over_at = None;
                None
            }
            _ => None,
        }
    }

    /// `note` says it in full, `shown` for people.
    fn promised(&mut self, note: &str, shown: &str, at: Duration) -> Option<End> {
        if REFUSED.iter().any(|words| note.contains(words)) {
            self.refused = Some(shown.to_owned());
        }
        let promised = note.matches(PROMISED).count();
        if promised > 0 {
            self.deploys_promised = Some(promised);
            self.over_at = None;
            return (self.deploys_done >= promised).then(|| self.all_done());
        }
        if self.deploys_started > 0 {
            return None;
        }
        if self.refused.is_some() {
            return Some(End::bad(format!("built and tested; the deployment was refused: {shown}")));
        }
        if note.contains(UNWANTED) {
            return Some(End::not_deployed(format!("built and tested; no environment fits: {shown}")));
        }
        let shown = if shown.is_empty() { "it gave no reason" } else { shown };
        let why = format!("built and tested; DeployBot began no deployment: {shown}");
        self.over_at = Some((at + QUIET, End::not_deployed(why)));
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
    use super::{Verdict::*, *};
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

    fn ended(end: Option<End>) -> Option<Verdict> {
        end.map(|e| e.verdict)
    }

    #[test]
    fn failures_end_it_at_once() {
        for event_type in ["build.failed", "test.failed", "deploy.failed"] {
            assert_eq!(ended(Flow::default().said("1", event_type, &Value::Null, s(1))), Some(Bad), "{event_type}");
        }
        let letter = |bot: &str| json!({"bot": bot, "message_type": "repository.pushed", "error": "no"});
        assert_eq!(ended(Flow::default().said("1", "message.dead_lettered", &letter("BuildBot"), s(1))), Some(Bad));
        assert_eq!(Flow::default().said("1", "message.dead_lettered", &letter("LintBot"), s(1)), None);
    }

    #[test]
    fn without_a_deployment_the_tests_are_the_end() {
        assert_eq!(ended(Flow::default().said("1", "test.completed", &tested(&json!({})), s(1))), Some(Good));
        assert_eq!(ended(Flow::default().said("1", "test.completed", &json!({"suites": []}), s(1))), Some(Good));
    }

    #[test]
    fn a_deployment_is_waited_for() {
        let mut f = Flow::default();
        assert_eq!(f.said("t", "test.completed", &tested(&json!({"local": {}})), s(1)), None);
        assert_eq!(f.passed(s(3)), None);
        assert_eq!(f.said("d", "deploy.started", &json!({"job_id": "j", "environment": "local"}), s(3)), None);
        assert_eq!(f.passed(s(99)), None, "it runs");
        assert_eq!(f.doing(s(9)), "still deploying to local for 6.0 s");
        assert_eq!(ended(f.said("e", "deploy.completed", &json!({"job_id": "j"}), s(100))), Some(Good));
    }

    #[test]
    fn a_job_that_is_done_once_more_goes_on_from_its_stage() {
        let mut f = Flow::of_job("deploy");
        assert_eq!(f.doing(s(1)), "still waiting for DeployBot to begin; `lota status` shows how it is");
        f.said("d", "deploy.started", &json!({"job_id": "j", "environment": "local"}), s(3));
        assert_eq!(ended(f.said("e", "deploy.completed", &json!({"job_id": "j"}), s(4))), Some(Good));
        let back = json!({"job_id": "j", "environment": "local"});
        assert_eq!(ended(Flow::of_job("deploy").said("b", "deploy.rolled_back", &back, s(1))), Some(Good));
        assert_eq!(ended(Flow::of_job("deploy").said("b", "deploy.refused", &back, s(1))), Some(Bad));
        let mut taken_back = Flow::of_job("deploy");
        taken_back.said("d", "deploy.started", &back, s(3));
        assert_eq!(taken_back.said("b", "deploy.rolled_back", &back, s(4)), None, "deploy.failed follows");
        assert!(Flow::of_job("test").doing(s(1)).contains("TestBot"));
        assert!(Flow::of_job("build").doing(s(1)).contains("BuildBot"));
    }

    #[test]
    fn a_deployment_that_waits_for_people_is_not_waited_for() {
        let mut f = Flow::default();
        f.said("t", "test.completed", &tested(&json!({"live": {}})), s(1));
        assert_eq!(f.recorded(&record("DeployBot", "t", Outcome::Acted, "live: 3f8a goes there."), s(2)), None);
        assert_eq!(f.said("h", "deploy.held", &json!({"environment": "live", "gate": "busy"}), s(2)), None);
        let end = f.said("a", "approval.requested", &json!({"environment": "live"}), s(3)).unwrap();
        assert_eq!(end.verdict, NotDeployed);
        assert!(end.why.contains("waits for a person's yes"), "{}", end.why);
    }

    #[test]
    fn a_word_of_deploy_bot_is_not_waited_for_without_end() {
        let mut f = Flow::default();
        f.said("t", "test.completed", &tested(&json!({"local": {}})), s(1));
        assert_eq!(f.passed(s(4)), None);
        let end = f.passed(s(16)).unwrap();
        assert_eq!(end.verdict, NotDeployed);
        assert!(end.why.contains("waits for DeployBot"), "{end:?}");
    }

    #[test]
    fn deploy_bots_word_counts_more_than_the_quiet() {
        let begun = |why: &str, outcome| {
            let mut f = Flow::default();
            f.said("t", "test.completed", &tested(&json!({"a": {}, "b": {}})), s(1));
            let end = f.recorded(&record("DeployBot", "t", outcome, why), s(2));
            (f, end)
        };
        assert_eq!(ended(begun("asks for no deployment", Outcome::Ignored).1), Some(NotDeployed));
        assert_eq!(ended(begun("broken", Outcome::DeadLettered).1), Some(Bad));
        let unwanted = begun("a: the pipeline file sends it there from main alone.", Outcome::Acted).1.unwrap();
        assert!(unwanted.verdict == NotDeployed && unwanted.why.contains("no environment fits"), "{unwanted:?}");
        for refusal in [
            "b: there is no such environment in environments.yaml, which has: local.",
            "a: the pipeline file sends it there from main alone. b: environments.yaml takes refs/tags/* alone.",
        ] {
            let end = begun(refusal, Outcome::Acted).1.unwrap();
            assert!(end.verdict == Bad && end.why.contains("refused: ") && end.why.contains(refusal), "{end:?}");
        }
        let (mut f, _) = begun("something new", Outcome::Acted);
        assert_eq!(ended(f.passed(s(5))), Some(NotDeployed));
        let (mut f, _) = begun("a: 3f8a goes there. b: environments.yaml takes refs/tags/* alone.", Outcome::Acted);
        f.said("1", "deploy.started", &json!({"job_id": "1"}), s(3));
        assert_eq!(ended(f.said("2", "deploy.completed", &json!({"job_id": "1"}), s(4))), Some(Bad), "one was refused");
        let (mut f, _) = begun("a: 3f8a goes there. b: 3f8a goes there.", Outcome::Acted);
        assert_eq!(f.passed(s(50)), None, "an environment may be busy");
        f.said("1", "deploy.started", &json!({"job_id": "1"}), s(51));
        assert_eq!(f.said("2", "deploy.completed", &json!({"job_id": "1"}), s(52)), None, "one of two");
        f.said("3", "deploy.started", &json!({"job_id": "2"}), s(60));
        assert_eq!(ended(f.said("4", "deploy.completed", &json!({"job_id": "2"}), s(61))), Some(Good));
    }

    #[test]
    fn a_record_may_come_before_its_message() {
        let mut f = Flow::default();
        assert_eq!(f.recorded(&record("BuildBot", "p", Outcome::Ignored, "no trigger"), s(1)), None);
        assert_eq!(ended(f.said("p", "repository.pushed", &Value::Null, s(1))), Some(Bad));
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
