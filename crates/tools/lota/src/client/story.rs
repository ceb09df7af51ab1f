//! What an event tells, for people: one line, and below it what one needs to see when something failed. Pure.
use bot_messages::{
    Event, Revision, SafeError,
    alert::{AlertResolved, AlertTriggered},
    approval::ApprovalRequested,
    bot::{BotFailed, BotPaused, BotResumed, BotStarted, BotStopping},
    build::{BuildCompleted, BuildFailed, BuildStarted, StepResult},
    control::ControlReplied,
    deploy::{
        DeployCompleted, DeployFailed, DeployFrozen, DeployHeld, DeployRefused, DeployRolledBack, DeployStarted,
        DeployUnfrozen,
    },
    message::{DeadLetterRef, MessageDeadLettered, MessageDiscarded, MessageEdited, MessageReplayed},
    repository::RepositoryPushed,
    telemetry::{LogRecord, Outcome, RecordKind},
    test::{SuiteResult, TestCompleted, TestFailed, TestFailure, TestStarted},
};
use serde_json::Value;

use super::terminal::{Tone, bytes, cut, plain, short, took};

/// The longest line; what is longer can be read in full with `--json`.
const LINE_CHARS_MAX: usize = 400;
/// Failing tests that are shown.
const FAILURES_MAX: usize = 10;
/// Lines of a failing test's message that are shown.
const FAILURE_LINES_MAX: usize = 6;
/// Lines of a log that are shown.
const TAIL_LINES_MAX: usize = 40;

/// An event in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Story {
    pub(super) tone: Tone,
    pub(super) line: String,
    pub(super) details: Vec<String>,
}

impl Story {
    fn new(tone: Tone, line: &str) -> Self {
        Self { tone, line: cut(line, LINE_CHARS_MAX), details: Vec::new() }
    }
}

/// What an event tells. A payload that does not fit its type is told like one of an unknown type.
pub(super) fn tell(event_type: &str, data: &Value) -> Story {
    let known = match event_type {
        RepositoryPushed::TYPE => told(data, pushed),
        BuildStarted::TYPE => told(data, build_started),
        BuildCompleted::TYPE => told(data, build_completed),
        BuildFailed::TYPE => told(data, build_failed),
        TestStarted::TYPE => told(data, test_started),
        TestCompleted::TYPE => told(data, test_completed),
        TestFailed::TYPE => told(data, test_failed),
        DeployStarted::TYPE => told(data, deploy_started),
        DeployCompleted::TYPE => told(data, deploy_completed),
        DeployFailed::TYPE => told(data, deploy_failed),
        DeployRolledBack::TYPE => told(data, rolled_back),
        DeployHeld::TYPE => told(data, |e: &DeployHeld| {
            Story::new(Tone::Warn, &format!("{}: attempt {} waits: {}", e.environment, e.number, e.why))
        }),
        ApprovalRequested::TYPE => told(data, approval_requested),
        DeployRefused::TYPE => {
            told(data, |e: &DeployRefused| Story::new(Tone::Bad, &format!("{}: {}", e.environment, fault(&e.error))))
        }
        DeployFrozen::TYPE => told(data, |e: &DeployFrozen| {
            let until = e.until.map_or_else(|| "someone ends it".to_owned(), |at| at.to_rfc3339());
            Story::new(Tone::Warn, &format!("{} is frozen by {} until {until}: {}", e.environment, e.by, e.reason))
        }),
        DeployUnfrozen::TYPE => told(data, |e: &DeployUnfrozen| {
            let still = e.still.as_deref().map(|still| format!("; but {still}")).unwrap_or_default();
            Story::new(Tone::Good, &format!("{} is not frozen any more, by {}{still}", e.environment, e.by))
        }),
        MessageDeadLettered::TYPE => told(data, dead_lettered),
        MessageReplayed::TYPE => told(data, |e: &MessageReplayed| handled("sent once more", &e.letter, &e.by)),
        MessageEdited::TYPE => {
            told(data, |e: &MessageEdited| handled(&format!("replaced by {}", e.new_id), &e.letter, &e.by))
        }
        MessageDiscarded::TYPE => {
            told(data, |e: &MessageDiscarded| handled(&format!("thrown away ({})", e.reason), &e.letter, &e.by))
        }
        AlertTriggered::TYPE => {
            told(data, |e: &AlertTriggered| Story::new(Tone::Warn, &format!("{}: {}", e.subject, e.summary)))
        }
        AlertResolved::TYPE => {
            told(data, |e: &AlertResolved| Story::new(Tone::Good, &format!("{}: {}", e.subject, e.summary)))
        }
        BotStarted::TYPE => told(data, |e: &BotStarted| {
            bot(&e.instance, &format!("version {}, configuration {}", e.version, e.config_hash))
        }),
        BotPaused::TYPE => told(data, |e: &BotPaused| bot(&e.instance, &format!("by {}: {}", e.by, e.reason))),
        BotResumed::TYPE => told(data, |e: &BotResumed| bot(&e.instance, &format!("by {}", e.by))),
        BotStopping::TYPE => told(data, |e: &BotStopping| bot(&e.instance, &e.reason)),
        BotFailed::TYPE => told(data, |e: &BotFailed| Story { tone: Tone::Bad, ..bot(&e.instance, &fault(&e.error)) }),
        ControlReplied::TYPE => told(data, replied),
        _ => None,
    };
    known.unwrap_or_else(|| unknown(data))
}

fn told<E: Event>(data: &Value, tell: fn(&E) -> Story) -> Option<Story> {
    serde_json::from_value(data.clone()).ok().map(|e| tell(&e))
}

fn revision(r: &Revision) -> String {
    format!("{}@{}", r.repository, r.commit.short())
}

fn fault(error: &SafeError) -> String {
    format!("{} ({})", error.message, error.code.as_str())
}

fn job(id: &str) -> String {
    format!("job {}", short(id))
}

fn bot(instance: &str, what: &str) -> Story {
    Story::new(Tone::Plain, &format!("{instance}: {what}"))
}

fn pushed(e: &RepositoryPushed) -> Story {
    let branch = e.revision.branch().or_else(|| e.revision.tag()).unwrap_or(&e.revision.git_ref);
    let title = e.title.as_deref().map(|t| format!(": {t}")).unwrap_or_default();
    Story::new(Tone::Plain, &format!("{} on {branch}{title}", revision(&e.revision)))
}

fn build_started(e: &BuildStarted) -> Story {
    let steps = if e.steps.is_empty() { "no steps".to_owned() } else { e.steps.join(", ") };
    Story::new(Tone::Plain, &format!("{} by {}: {steps} ({})", revision(&e.revision), e.pipeline, job(&e.job_id)))
}

fn step(s: &StepResult) -> String {
    match s.exit_code {
        Some(0) => format!("{} {}", s.name, took(s.duration_ms)),
        Some(code) => format!("{} {} (exit code {code})", s.name, took(s.duration_ms)),
        None => format!("{} {} (killed)", s.name, took(s.duration_ms)),
    }
}

fn build_completed(e: &BuildCompleted) -> Story {
    let steps: Vec<String> = e.steps.iter().map(step).collect();
    let steps = if steps.is_empty() { String::new() } else { format!(": {}", steps.join(", ")) };
    let artifact = format!("artifact {} of {}", e.artifact.digest.short(), bytes(e.artifact.size));
    let before = if e.cached { " (the same was built before)" } else { "" };
    Story::new(Tone::Good, &format!("in {}{before}{steps}; {artifact}", took(e.duration_ms)))
}

fn build_failed(e: &BuildFailed) -> Story {
    let step = e.step.as_deref().map(|s| format!("step `{s}`: ")).unwrap_or_default();
    let mut story = Story::new(Tone::Bad, &format!("after {}: {step}{}", took(e.duration_ms), fault(&e.error)));
    story.details = tail(&e.log_tail);
    story
}

fn test_started(e: &TestStarted) -> Story {
    let suites = if e.suites.is_empty() { "no suites".to_owned() } else { e.suites.join(", ") };
    Story::new(Tone::Plain, &format!("{}: {suites} ({})", revision(&e.revision), job(&e.job_id)))
}

/// `12 passed, 1 failed, 1 skipped, 1 flaky`
fn counts(passed: u64, failed: u64, skipped: u64, flaky: u64) -> String {
    let mut words = vec![format!("{passed} passed")];
    words.extend(
        [(failed, "failed"), (skipped, "skipped"), (flaky, "flaky")]
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, w)| format!("{n} {w}")),
    );
    words.join(", ")
}

fn suites(all: &[SuiteResult]) -> String {
    let sum = |of: fn(&SuiteResult) -> u32| all.iter().map(|s| u64::from(of(s))).sum::<u64>();
    let total = counts(sum(|s| s.passed), sum(|s| s.failed), sum(|s| s.skipped), sum(|s| s.flaky));
    let each: Vec<String> = all
        .iter()
        .map(|s| {
            format!(
                "{}: {} in {}",
                s.name,
                counts(s.passed.into(), s.failed.into(), s.skipped.into(), s.flaky.into()),
                took(s.duration_ms)
            )
        })
        .collect();
    match each.as_slice() {
        [] => "no suite ran".to_owned(),
        [one] => one.clone(),
        _ => format!("{total} ({})", each.join("; ")),
    }
}

fn test_completed(e: &TestCompleted) -> Story {
    Story::new(Tone::Good, &format!("in {}: {}", took(e.duration_ms), suites(&e.suites)))
}

fn test_failed(e: &TestFailed) -> Story {
    let ran = if e.suites.is_empty() { String::new() } else { format!("; {}", suites(&e.suites)) };
    let mut story = Story::new(Tone::Bad, &format!("after {}: {}{ran}", took(e.duration_ms), fault(&e.error)));
    story.details = e.failures.iter().take(FAILURES_MAX).flat_map(failure).collect();
    if e.failures.len() > FAILURES_MAX {
        story.details.push(format!("… and {} more", e.failures.len() - FAILURES_MAX));
    }
    // What a test printed is in its failure; the log is for tests that could not tell.
    if e.failures.is_empty() {
        story.details = tail(&e.log_tail);
    }
    story
}

fn failure(f: &TestFailure) -> Vec<String> {
    let place = f.location.as_deref().map(|l| format!(" at {l}")).unwrap_or_default();
    let mut lines = vec![cut(&format!("{}::{}{place}", f.suite, f.name), LINE_CHARS_MAX)];
    let said = f.message.lines().map(plain).filter(|l| !l.trim().is_empty());
    lines.extend(said.take(FAILURE_LINES_MAX).map(|l| format!("    {l}")));
    lines
}

fn tail(lines: &[String]) -> Vec<String> {
    let skip = lines.len().saturating_sub(TAIL_LINES_MAX);
    lines.iter().skip(skip).map(|l| format!("| {}", plain(l))).collect()
}

fn deploy_started(e: &DeployStarted) -> Story {
    let over = e.previous.as_ref().map(|p| format!(" over {}", p.short())).unwrap_or_default();
    let line = format!(
        "{}: {} ({}){over} ({})",
        e.environment,
        revision(&e.revision),
        e.artifact.digest.short(),
        job(&e.job_id)
    );
    Story::new(Tone::Plain, &line)
}

fn deploy_completed(e: &DeployCompleted) -> Story {
    let place = e.url.as_deref().map(|u| format!(" at {u}")).unwrap_or_default();
    let line = format!(
        "{} has {} ({}){place} after {}",
        e.environment,
        revision(&e.revision),
        e.digest.short(),
        took(e.duration_ms)
    );
    Story::new(Tone::Good, &line)
}

fn deploy_failed(e: &DeployFailed) -> Story {
    let mut story =
        Story::new(Tone::Bad, &format!("{} after {}: {}", e.environment, took(e.duration_ms), fault(&e.error)));
    story.details = tail(&e.log_tail);
    story
}

fn approval_requested(e: &ApprovalRequested) -> Story {
    let what = e.revision.as_ref().map(|r| format!("{} ", revision(r))).unwrap_or_default();
    let line = format!(
        "{}: {what}({}) waits for a yes until {}: lota approve {}",
        e.environment,
        e.digest.short(),
        e.expires_at.format("%Y-%m-%d %H:%M UTC"),
        e.approval_id
    );
    Story::new(Tone::Warn, &line)
}

fn rolled_back(e: &DeployRolledBack) -> Story {
    let to = e.to.as_ref().map_or("nothing: there was nothing before", |d| d.short());
    Story::new(Tone::Warn, &format!("{} is back at {to}: {}", e.environment, e.reason))
}

fn dead_lettered(e: &MessageDeadLettered) -> Story {
    let what = e.message_type.as_deref().unwrap_or("a message");
    let id = e.message_id.as_deref().map(|i| format!(" {}", short(i))).unwrap_or_default();
    let line = format!("{} gave up on {what}{id} of {}: {} ({})", e.bot, e.publisher, e.error, e.code.as_str());
    Story::new(Tone::Bad, &line)
}

fn handled(what: &str, letter: &DeadLetterRef, by: &str) -> Story {
    let id = letter.message_id.as_deref().unwrap_or_else(|| letter.digest.short());
    Story::new(Tone::Plain, &format!("{}'s dead letter {} was {what} by {by}", letter.bot, short(id)))
}

fn replied(e: &ControlReplied) -> Story {
    match &e.reply.error {
        Some(error) => Story::new(Tone::Bad, &format!("{}: {}", e.command, fault(error))),
        None => {
            let done = e.reply.data.as_ref().and_then(|data| data.get("summary")?.as_str()).map(str::to_owned);
            let done = done.unwrap_or_else(|| format!("done in {}", took(e.reply.duration_ms)));
            Story::new(Tone::Good, &format!("{}: {done}", e.command))
        }
    }
}

/// The usual members of payloads, or the whole payload where there are none.
fn unknown(data: &Value) -> Story {
    let text = |name: &str| data.get(name).or_else(|| data.get("revision")?.get(name)).and_then(Value::as_str);
    let about: Vec<&str> = ["environment", "repository", "bot", "subject"].into_iter().filter_map(text).collect();
    let error = data.get("error").and_then(|e| e.as_str().or_else(|| e.get("message")?.as_str()));
    let said = error.or_else(|| ["summary", "title", "reason"].into_iter().find_map(text));
    let line = match (about.is_empty(), said) {
        (false, Some(said)) => format!("{}: {said}", about.join(" ")),
        (false, None) => about.join(" "),
        (true, Some(said)) => said.to_owned(),
        (true, None) => data.to_string(),
    };
    Story::new(if error.is_some() { Tone::Bad } else { Tone::Plain }, &line)
}

/// How a bot settled a delivery, in words.
pub(super) fn outcome_words(outcome: &str) -> (Tone, &'static str) {
    match outcome {
        "acted" => (Tone::Plain, "acted"),
        "ignored" => (Tone::Dim, "ignored it"),
        "retried" => (Tone::Warn, "tries again later"),
        "dead_lettered" => (Tone::Bad, "gave up on it (dead letter)"),
        "duplicate" => (Tone::Dim, "had it before"),
        _ => (Tone::Plain, "settled it"),
    }
}

/// As on the wire.
pub(super) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Acted => "acted",
        Outcome::Ignored => "ignored",
        Outcome::Retried => "retried",
        Outcome::DeadLettered => "dead_lettered",
        Outcome::Duplicate => "duplicate",
    }
}

/// A record of the log stream in one line.
pub(super) fn tell_record(record: &LogRecord) -> Story {
    let id = |id: &Option<String>| id.as_deref().map(short).unwrap_or_default();
    match record.kind {
        RecordKind::Handled => {
            let (tone, words) = outcome_words(record.outcome.map(outcome_name).unwrap_or_default());
            let why = if record.message.is_empty() { String::new() } else { format!(": {}", record.message) };
            Story::new(tone, &format!("{} {words}{why}", id(&record.message_id)))
        }
        RecordKind::Output => {
            let mut story = Story::new(Tone::Dim, "");
            story.line = format!("{} | {}", id(&record.job_id), plain(&record.message));
            story
        }
        RecordKind::Progress => {
            let percent = record.percent.map(|p| format!(" {p} %")).unwrap_or_default();
            Story::new(Tone::Dim, &format!("{}{percent} {}", id(&record.job_id), record.message))
        }
        RecordKind::Note => {
            let tone = match record.level.as_str() {
                "error" => Tone::Bad,
                "warn" => Tone::Warn,
                _ => Tone::Plain,
            };
            Story::new(tone, &record.message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bot_messages::catalogue;
    use serde_json::json;

    fn line_of(event_type: &str) -> String {
        tell(event_type, &(catalogue::find(event_type).unwrap().example)()).line
    }

    #[test]
    fn events_are_told_in_one_line() {
        for (event_type, line) in [
            ("repository.pushed", "shop/api@4f2d9c1e on main: Answer with the version"),
            ("build.started", "shop/api@4f2d9c1e by .lotabots.yaml: compile (job 0198c5d2-7b3a)"),
            ("build.completed", "in 8.4 s: compile 8.1 s; artifact 3f8a3f8a3f8a of 470.8 KiB"),
            ("test.completed", "in 1.2 s: unit: 12 passed, 1 skipped, 1 flaky in 940 ms"),
            ("deploy.completed", "staging has shop/api@4f2d9c1e (3f8a3f8a3f8a) at http://127.0.0.1:8600/ after 214 ms"),
            (
                "message.dead_lettered",
                "BuildBot gave up on repository.pushed push-1 of ci: `payload.data.commit` is missing: expected the full commit id (MISSING_FIELD)",
            ),
            ("control.replied", "control.probe: done in 2 ms"),
        ] {
            assert_eq!(line_of(event_type), line);
        }
    }

    #[test]
    fn every_type_has_a_line_of_its_own() {
        for entry in catalogue::all() {
            let story = tell(entry.event_type, &(entry.example)());
            assert!(!story.line.is_empty() && !story.line.contains('\n'), "{}: {story:?}", entry.event_type);
        }
    }

    #[test]
    fn failures_show_what_one_needs_to_see() {
        let build = tell("build.failed", &(catalogue::find("build.failed").unwrap().example)());
        assert_eq!(
            (build.tone, build.details[0].as_str()),
            (Tone::Bad, "| error[E0425]: cannot find value `prot` in this scope")
        );
        assert!(build.line.starts_with("after 2.3 s: step `compile`: "), "{}", build.line);
        let test = tell("test.failed", &(catalogue::find("test.failed").unwrap().example)());
        assert_eq!(test.details, ["unit::tests::adds at src/lib.rs:21", "    left: 4, right: 5"]);
        let deploy = tell("deploy.failed", &(catalogue::find("deploy.failed").unwrap().example)());
        assert_eq!(deploy.details, ["| panicked at src/main.rs:14"]);
    }

    #[test]
    fn what_does_not_fit_is_told_all_the_same() {
        assert_eq!(tell("build.failed", &json!({"error": {"message": "no\x1b[2J"}, "repository": "a"})).line, "a: no");
        assert_eq!(tell("foo.bar", &json!({"x": 1})).line, "{\"x\":1}");
        assert_eq!(tell("foo.bar", &Value::Null).line, "null");
    }

    #[test]
    fn several_suites_are_summed_up() {
        let suite = |name: &str, failed| SuiteResult {
            name: name.into(),
            passed: 5,
            failed,
            skipped: 0,
            flaky: 0,
            duration_ms: 10,
        };
        assert_eq!(
            suites(&[suite("a", 0), suite("b", 1)]),
            "10 passed, 1 failed (a: 5 passed in 10 ms; b: 5 passed, 1 failed in 10 ms)"
        );
        assert_eq!(suites(&[]), "no suite ran");
    }
}
