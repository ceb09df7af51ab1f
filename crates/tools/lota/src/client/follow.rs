//! Following one correlation on the taps, line by line, until its flow is over.
use std::{collections::HashSet, process::ExitCode, time::Duration};

use bot_core::{Envelope, Observed};
use bot_messages::{
    keys,
    telemetry::{LogRecord, RecordKind},
};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use super::{
    flow::{End, Flow, Verdict},
    monitor::{Monitor, list, text},
    operator,
    story::{Story, outcome_name, outcome_words, tell},
    terminal::{Out, Tone, cut, note, plain, short, took},
};
use crate::home::Home;

/// Nobody waits longer for a sign of life; the promise is 20 s.
const STILL_EVERY: Duration = Duration::from_secs(15);
/// What is on its way when the end comes may still arrive.
const LINGER: Duration = Duration::from_millis(300);
const TICK: Duration = Duration::from_millis(250);
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// As `timeout(1)` says it.
const TIMED_OUT: u8 = 124;

/// The two taps that tell what happens.
pub(super) struct Taps {
    events: mpsc::Receiver<Observed>,
    logs: mpsc::Receiver<Observed>,
}

impl Taps {
    pub(super) async fn open(home: &Home) -> anyhow::Result<Self> {
        Ok(Self {
            events: operator::watch(home, keys::EVENTS, &["#"]).await?,
            logs: operator::watch(home, keys::LOGS, &["#"]).await?,
        })
    }
}

/// One correlation that is followed; its time begins when this is made.
pub(super) struct Following<'a> {
    home: &'a Home,
    taps: Taps,
    correlation: String,
    verbose: bool,
    limit: Duration,
    begun: Instant,
    quiet_since: Instant,
    flow: Flow,
    told: HashSet<String>,
}

/// What came next.
enum Next {
    Event(Observed),
    Record(Observed),
    Lost,
    Tick,
}

impl<'a> Following<'a> {
    pub(super) fn new(home: &'a Home, taps: Taps, correlation: &str, verbose: bool, limit: Duration) -> Self {
        let begun = Instant::now();
        let (flow, told) = (Flow::default(), HashSet::new());
        Self { home, taps, correlation: correlation.to_owned(), verbose, limit, begun, quiet_since: begun, flow, told }
    }

    /// What is followed is not a push from its beginning, but a job of this kind that is done once more.
    pub(super) fn after(self, kind: &str) -> Self {
        Self { flow: Flow::of_job(kind), ..self }
    }

    /// Tells everything until it is over.
    pub(super) async fn until_end(mut self, out: &mut Out) -> anyhow::Result<ExitCode> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            let next = tokio::select! {
                e = self.taps.events.recv() => e.map_or(Next::Lost, Next::Event),
                r = self.taps.logs.recv() => r.map_or(Next::Lost, Next::Record),
                _ = tick.tick() => Next::Tick,
            };
            let end = match next {
                Next::Event(seen) => self.event(&seen, out)?,
                Next::Record(seen) => self.record(&seen, out)?,
                Next::Lost => self.again(out).await?,
                Next::Tick => self.flow.passed(self.begun.elapsed()),
            };
            if let Some(end) = end {
                break end;
            }
            if self.begun.elapsed() >= self.limit {
                let limit = took(self.limit.as_millis() as u64);
                out.line(
                    &out.paint
                        .tone(Tone::Bad, &format!("no end within {limit}: {}", self.flow.doing(self.begun.elapsed()))),
                )?;
                out.line(&format!("it goes on in the fleet: lota show {}", short(&self.correlation)))?;
                return Ok(ExitCode::from(TIMED_OUT));
            }
            self.still(out)?;
        };
        self.linger(out).await?;
        self.close(&end, out)
    }

    /// A sign of life where there was none for a while.
    fn still(&mut self, out: &mut Out) -> anyhow::Result<()> {
        if self.quiet_since.elapsed() >= STILL_EVERY {
            let text = self.flow.doing(self.begun.elapsed());
            self.tell(out, "", "", &Story { tone: Tone::Dim, line: text, details: Vec::new() })?;
        }
        Ok(())
    }

    fn event(&mut self, seen: &Observed, out: &mut Out) -> anyhow::Result<Option<End>> {
        let Ok(envelope) = Envelope::decode(&seen.body) else {
            return Ok(None);
        };
        let correlation = envelope.correlation_id.as_ref().unwrap_or(&envelope.id);
        if *correlation != self.correlation || !self.told.insert(envelope.id.clone()) {
            return Ok(None);
        }
        self.tell(out, envelope.source.as_str(), &envelope.event_type, &tell(&envelope.event_type, &envelope.data))?;
        Ok(self.flow.said(&envelope.id, &envelope.event_type, &envelope.data, self.begun.elapsed()))
    }

    fn record(&mut self, seen: &Observed, out: &mut Out) -> anyhow::Result<Option<End>> {
        let Ok(record) = serde_json::from_slice::<LogRecord>(&seen.body) else {
            return Ok(None);
        };
        if record.correlation_id.as_deref() != Some(self.correlation.as_str()) {
            return Ok(None);
        }
        if let Some(story) = worth_telling(&record, self.verbose) {
            self.tell(out, &record.bot, "", &story)?;
        }
        Ok(self.flow.recorded(&record, self.begun.elapsed()))
    }

    fn tell(&mut self, out: &mut Out, source: &str, event_type: &str, story: &Story) -> anyhow::Result<()> {
        self.quiet_since = Instant::now();
        let passed = self.begun.elapsed();
        let time = out.paint.dim(&format!("{:>4}.{:03} s", passed.as_secs(), passed.subsec_millis()));
        let line = out.paint.tone(story.tone, &story.line);
        let who = format!("{:<10}", cut(source, 24));
        out.line(format!("{time}  {who}  {:<21}  {line}", cut(event_type, 40)).trim_end())?;
        for detail in &story.details {
            out.line(&format!("    {detail}"))?;
        }
        Ok(())
    }

    /// The session with the broker ended: begins again, and asks the monitor for what was said meanwhile.
    async fn again(&mut self, out: &mut Out) -> anyhow::Result<Option<End>> {
        note("the session with the broker ended; the push goes on, following it again");
        self.quiet_since = Instant::now();
        while self.begun.elapsed() < self.limit {
            match Taps::open(self.home).await {
                Ok(taps) => {
                    self.taps = taps;
                    return self.catch_up(out).await;
                }
                Err(e) => {
                    if self.quiet_since.elapsed() >= STILL_EVERY {
                        note(&format!("still no broker: {e:#}"));
                        self.quiet_since = Instant::now();
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
        Ok(None)
    }

    async fn catch_up(&mut self, out: &mut Out) -> anyhow::Result<Option<End>> {
        let Ok(monitor) = Monitor::of(self.home) else {
            return Ok(None);
        };
        let Ok(tree) = monitor.get(&["correlations", &self.correlation], &[]).await else {
            return Ok(None);
        };
        let mut missed = Vec::new();
        flatten(list(&tree, "roots"), &mut missed);
        missed.sort_by(|a, b| text(a, "at").cmp(text(b, "at")));
        for node in missed {
            let (id, event_type) = (text(node, "id"), text(node, "type"));
            if !self.told.insert(id.to_owned()) {
                continue;
            }
            let story = Story { tone: Tone::Plain, line: plain(text(node, "summary")), details: Vec::new() };
            self.tell(out, text(node, "source"), event_type, &story)?;
            // The monitor keeps no payloads; the flow falls back on time where it would look into one.
            let end = self.flow.said(id, event_type, &Value::Null, self.begun.elapsed());
            if end.is_some() {
                return Ok(end);
            }
        }
        Ok(None)
    }

    async fn linger(&mut self, out: &mut Out) -> anyhow::Result<()> {
        let until = Instant::now() + LINGER;
        loop {
            let next = tokio::select! {
                Some(e) = self.taps.events.recv() => Next::Event(e),
                Some(r) = self.taps.logs.recv() => Next::Record(r),
                () = tokio::time::sleep_until(until) => return Ok(()),
            };
            match next {
                Next::Event(seen) => self.event(&seen, out)?,
                Next::Record(seen) => self.record(&seen, out)?,
                Next::Lost | Next::Tick => None,
            };
        }
    }

    fn close(&self, end: &End, out: &mut Out) -> anyhow::Result<ExitCode> {
        let after = took(self.begun.elapsed().saturating_sub(LINGER).as_millis() as u64);
        let (tone, mark, code) = match end.verdict {
            Verdict::Good => (Tone::Good, "ok", ExitCode::SUCCESS),
            Verdict::NotDeployed => (Tone::Warn, "not deployed", ExitCode::SUCCESS),
            Verdict::Bad => (Tone::Bad, "failed", ExitCode::FAILURE),
        };
        out.line(&out.paint.tone(tone, &format!("{mark} after {after}: {}", end.why)))?;
        Ok(code)
    }
}

fn flatten<'v>(nodes: &'v [Value], into: &mut Vec<&'v Value>) {
    for node in nodes {
        into.push(node);
        flatten(list(node, "children"), into);
    }
}

/// Trouble always; what jobs print and how deliveries were settled where that is asked for.
fn worth_telling(record: &LogRecord, verbose: bool) -> Option<Story> {
    let story = |tone, line: String| Some(Story { tone, line, details: Vec::new() });
    match record.kind {
        RecordKind::Output if verbose => story(Tone::Dim, format!("| {}", plain(&record.message))),
        RecordKind::Progress if verbose => story(Tone::Dim, cut(&record.message, 200)),
        RecordKind::Handled => {
            let outcome = record.outcome.map(outcome_name)?;
            let (tone, words) = outcome_words(outcome);
            let trouble = matches!(outcome, "retried" | "dead_lettered");
            let why = cut(&record.message, 300);
            let line = if why.is_empty() { words.to_owned() } else { format!("{words}: {why}") };
            if verbose || trouble { story(tone, line) } else { None }
        }
        RecordKind::Note if verbose || record.level != "info" => story(Tone::Warn, cut(&record.message, 300)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(kind: &str, outcome: Option<&str>) -> LogRecord {
        serde_json::from_value(json!({
            "bot": "BuildBot", "instance": "i", "timestamp": "2026-11-01T12:00:00Z", "level": "info", "kind": kind,
            "message": "why", "outcome": outcome,
        }))
        .unwrap()
    }

    #[test]
    fn trouble_is_told_and_chatter_only_when_asked_for() {
        for (kind, outcome, verbose, line) in [
            ("output", None, false, None),
            ("output", None, true, Some("| why")),
            ("handled", Some("ignored"), false, None),
            ("handled", Some("ignored"), true, Some("ignored it: why")),
            ("handled", Some("retried"), false, Some("tries again later: why")),
            ("note", None, false, None),
        ] {
            assert_eq!(
                worth_telling(&record(kind, outcome), verbose).map(|s| s.line).as_deref(),
                line,
                "{kind} {outcome:?}"
            );
        }
    }

    #[test]
    fn a_tree_is_read_in_any_depth() {
        let tree = json!([{"id": "1", "children": [{"id": "2", "children": [{"id": "3"}]}]}, {"id": "4"}]);
        let mut all = Vec::new();
        flatten(tree.as_array().unwrap(), &mut all);
        assert_eq!(all.iter().map(|n| text(n, "id")).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    }
}
