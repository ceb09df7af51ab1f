//! `lota watch`: every message as it passes, until told to stop.
use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use bot_core::{Envelope, Observed};
use bot_messages::{keys, telemetry::LogRecord};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    operator,
    story::{Story, tell, tell_record},
    terminal::{Out, Paint, Tone, cut, note, seen_enough, short},
};
use crate::home::Home;

const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// As AMQP allows for a key.
const PATTERN_BYTES_MAX: usize = 255;

/// What `lota watch` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// Types, such as `build.*`, `deploy.#` or `to.#` (commands)
    #[arg(default_value = "#")]
    pattern: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// What bots and jobs log, too
    #[arg(long)]
    logs: bool,
}

pub(crate) async fn run(home: &Home, args: WatchArgs) -> anyhow::Result<ExitCode> {
    seen_enough(watch(home, &args).await)
}

async fn watch(home: &Home, args: &WatchArgs) -> anyhow::Result<ExitCode> {
    if args.pattern.is_empty() || args.pattern.len() > PATTERN_BYTES_MAX {
        bail!(
            "the pattern has {} bytes: expected 1 to {PATTERN_BYTES_MAX}, words joined by dots, `*` for one and `#` for any number",
            args.pattern.len()
        );
    }
    let mut out = Out::stdout();
    let (mut events, mut logs) = open(home, args).await?;
    if !args.json {
        note("watching; what was said before is in `lota status` and `lota show`");
    }
    loop {
        let seen = tokio::select! {
            e = events.recv() => e.map(|e| (e, false)),
            Some(r) = next(logs.as_mut()) => r.map(|r| (r, true)),
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        };
        let Some((seen, is_record)) = seen else {
            note("the session with the broker ended; what is said until it is back is not shown");
            (events, logs) = reopen(home, args).await;
            note("watching again");
            continue;
        };
        if args.json {
            out.line(&object(&seen).to_string())?;
        } else {
            out.lines(&lines(&seen, is_record, out.paint))?;
        }
    }
}

type Streams = (mpsc::Receiver<Observed>, Option<mpsc::Receiver<Observed>>);

async fn open(home: &Home, args: &WatchArgs) -> anyhow::Result<Streams> {
    let logs = if args.logs { Some(operator::watch(home, keys::LOGS, &["#"]).await?) } else { None };
    Ok((operator::watch(home, keys::EVENTS, &[&args.pattern]).await?, logs))
}

async fn reopen(home: &Home, args: &WatchArgs) -> Streams {
    loop {
        tokio::time::sleep(AGAIN_AFTER).await;
        if let Ok(streams) = open(home, args).await {
            return streams;
        }
    }
}

/// `None` where logs are not watched; `Some(None)` at their end.
async fn next(logs: Option<&mut mpsc::Receiver<Observed>>) -> Option<Option<Observed>> {
    match logs {
        Some(logs) => Some(logs.recv().await),
        None => std::future::pending().await,
    }
}

/// A body that is no JSON is shown as text.
fn object(seen: &Observed) -> Value {
    let body = serde_json::from_slice(&seen.body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&seen.body).into_owned()));
    json!({"at": seen.at, "routing_key": seen.routing_key, "causation_id": seen.causation_id, "body": body})
}

fn lines(seen: &Observed, is_record: bool, paint: Paint) -> Vec<String> {
    let time = seen.at.format("%H:%M:%S%.3f").to_string();
    let (source, what, correlation, story) = if is_record { record(seen) } else { event(seen) };
    let head = format!(
        "{}  {:<13}  {:<10}  {:<21}",
        paint.dim(&time),
        paint.dim(&correlation),
        cut(&source, 24),
        cut(&what, 40)
    );
    let mut lines = vec![format!("{head}  {}", paint.tone(story.tone, &story.line)).trim_end().to_owned()];
    lines.extend(story.details.iter().map(|d| format!("    {d}")));
    lines
}

fn event(seen: &Observed) -> (String, String, String, Story) {
    match Envelope::decode(&seen.body) {
        Ok(e) => {
            let correlation = short(e.correlation_id.as_deref().unwrap_or(&e.id));
            (e.source.to_string(), e.event_type.clone(), correlation, tell(&e.event_type, &e.data))
        }
        Err(error) => (String::new(), seen.routing_key.clone(), String::new(), unreadable(&error.to_string())),
    }
}

fn record(seen: &Observed) -> (String, String, String, Story) {
    match serde_json::from_slice::<LogRecord>(&seen.body) {
        Ok(r) => (
            r.bot.clone(),
            "log".to_owned(),
            r.correlation_id.as_deref().map(short).unwrap_or_default(),
            tell_record(&r),
        ),
        Err(error) => (String::new(), seen.routing_key.clone(), String::new(), unreadable(&error.to_string())),
    }
}

fn unreadable(why: &str) -> Story {
    Story { tone: Tone::Bad, line: cut(&format!("cannot be read: {why}"), 400), details: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn observed(key: &str, body: &str) -> Observed {
        Observed {
            body: body.as_bytes().to_vec(),
            routing_key: key.into(),
            publisher: None,
            causation_id: None,
            at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_message_is_one_line() {
        let body = json!({
            "id": "m1", "timestamp": "2026-11-01T12:00:00Z", "source": "ci", "destination": "*", "type": "foo.done",
            "payload": {"data": {"summary": "all well"}}, "correlation_id": "c1",
        });
        let told = lines(&observed("foo.done", &body.to_string()), false, Paint::NONE);
        assert_eq!(told, ["00:00:00.000  c1             ci          foo.done               all well"]);
    }

    #[test]
    fn what_cannot_be_read_is_shown_as_that() {
        let told = lines(&observed("foo.done", "{"), false, Paint::NONE);
        assert!(told[0].contains("foo.done") && told[0].contains("is not JSON"), "{told:?}");
        assert_eq!(object(&observed("k", "{"))["body"], "{");
    }
}
