//! `lota show`: the tree of all that followed from one cause: who heard it, who left it and why, with times.
use std::process::ExitCode;

use chrono::DateTime;
use serde_json::Value;

use super::{
    monitor::{Monitor, count, list, text},
    story::outcome_words,
    terminal::{Out, Paint, Tone, cut, seen_enough, short, took},
};
use crate::home::Home;

/// What `lota show` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// A correlation, or at least six characters of its beginning; `last` is the latest push
    #[arg(value_name = "CORRELATION|PREFIX", default_value = "last")]
    correlation: String,
    /// The tree as JSON
    #[arg(long)]
    json: bool,
}

impl ShowArgs {
    /// One correlation, for people.
    pub(crate) fn of(correlation: &str) -> Self {
        Self { correlation: correlation.to_owned(), json: false }
    }
}

pub(crate) async fn run(home: &Home, args: ShowArgs) -> anyhow::Result<ExitCode> {
    seen_enough(show(home, &args).await)
}

async fn show(home: &Home, args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let monitor = Monitor::of(home)?;
    let asked = match args.correlation.as_str() {
        "last" => latest(&monitor).await?,
        asked => asked.to_owned(),
    };
    let tree = monitor.get(&["correlations", &asked], &[]).await?;
    let mut out = Out::stdout();
    if args.json {
        out.json(&tree)?;
    } else {
        out.lines(&draw(&tree, out.paint))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn latest(monitor: &Monitor) -> anyhow::Result<String> {
    let query = [("limit", "1".to_owned()), ("type", "repository.".to_owned())];
    let recent = monitor.get(&["correlations"], &query).await?;
    match list(&recent, "correlations").first().map(|c| text(c, "id").to_owned()) {
        Some(id) if !id.is_empty() => Ok(id),
        _ => anyhow::bail!("no push is known yet: `lota push` makes one, `lota status` lists what else was said"),
    }
}

/// Colour and word of a state.
pub(super) fn state_tone(state: &str) -> Tone {
    match state {
        "completed" | "healthy" | "running" | "up" => Tone::Good,
        "failed" | "critical" | "silent" | "down" => Tone::Bad,
        "degraded" | "paused" | "starting" | "stopped" | "stopping" => Tone::Warn,
        _ => Tone::Plain,
    }
}

/// The whole tree, line by line.
fn draw(tree: &Value, paint: Paint) -> Vec<String> {
    let state = text(tree, "state");
    let commit: String = text(tree, "commit").chars().take(8).collect();
    let about = match (text(tree, "repository"), commit.as_str()) {
        ("", _) => String::new(),
        (repository, "") => format!("  {}", cut(repository, 80)),
        (repository, commit) => format!("  {}@{}", cut(repository, 80), cut(commit, 8)),
    };
    let started =
        DateTime::parse_from_rfc3339(text(tree, "started")).map(|t| t.format("  %Y-%m-%d %H:%M:%S UTC").to_string());
    let figures = format!("{} messages in {}", count(tree, "count"), took(count(tree, "duration_ms")));
    let mut lines = vec![
        format!(
            "{}  {}{about}{}",
            cut(text(tree, "id"), 128),
            paint.tone(state_tone(state), state),
            started.unwrap_or_default()
        ),
        paint.dim(&figures),
    ];
    for root in list(tree, "roots") {
        node(root, "", "", paint, &mut lines);
    }
    let dropped = count(tree, "dropped");
    if dropped > 0 {
        lines.push(paint.dim(&format!("{dropped} more messages and outcomes did not fit into the monitor's memory")));
    }
    lines
}

/// `first` stands before the node's own line, `rest` before what hangs below it.
fn node(node_: &Value, first: &str, rest: &str, paint: Paint, lines: &mut Vec<String>) {
    let event_type = text(node_, "type");
    let tone = match event_type.rsplit_once('.').map_or("", |(_, what)| what) {
        "failed" | "dead_lettered" | "denied" => Tone::Bad,
        "rolled_back" | "triggered" => Tone::Warn,
        "completed" | "granted" | "resolved" => Tone::Good,
        _ => Tone::Plain,
    };
    let offset = count(node_, "offset_ms");
    let since = format!("+{}.{:03} s", offset / 1000, offset % 1000);
    let hop = node_.get("hop_ms").and_then(Value::as_u64).map(|ms| format!(" (hop {})", took(ms))).unwrap_or_default();
    let times = paint.dim(&format!("{since}{hop}  {}", short(text(node_, "id"))));
    lines.push(format!(
        "{}{}  by {}  {times}",
        paint.dim(first),
        paint.tone(tone, &cut(event_type, 100)),
        cut(text(node_, "source"), 64)
    ));
    let (handled, children) = (list(node_, "handled"), list(node_, "children"));
    let stem = if handled.is_empty() && children.is_empty() { "   " } else { "│  " };
    let summary = cut(text(node_, "summary"), 200);
    if !summary.is_empty() {
        lines.push(format!("{}{summary}", paint.dim(&format!("{rest}{stem}"))));
    }
    for (i, h) in handled.iter().enumerate() {
        let last = children.is_empty() && i + 1 == handled.len();
        lines.push(format!(
            "{}{}",
            paint.dim(&format!("{rest}{}", if last { "└· " } else { "├· " })),
            settled(h, paint)
        ));
    }
    for (i, child) in children.iter().enumerate() {
        let (branch, below) = if i + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        node(child, &format!("{rest}{branch}"), &format!("{rest}{below}"), paint, lines);
    }
}

/// `BuildBot acted in 2.1 ms: builds it`
fn settled(handled: &Value, paint: Paint) -> String {
    let (tone, words) = outcome_words(text(handled, "outcome"));
    let time = match handled.get("duration_us").and_then(Value::as_u64) {
        Some(us) if us < 1_000_000 => format!(" in {}.{} ms", us / 1000, us % 1000 / 100),
        Some(us) => format!(" in {}", took(us / 1000)),
        None => String::new(),
    };
    let reason = cut(text(handled, "reason"), 300);
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{} {}", cut(text(handled, "bot"), 64), paint.tone(tone, &format!("{words}{time}{reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tree_is_drawn_with_times_outcomes_and_reasons() {
        let handled = |bot: &str, outcome: &str, reason: &str, us: u64| json!({"bot": bot, "outcome": outcome, "reason": reason, "duration_us": us});
        let tree = json!({
            "id": "0198c5d2-7b3a-7c41-9a53-0f6f2f1f6a01", "state": "failed", "started": "2026-11-01T12:00:00Z",
            "duration_ms": 2310, "count": 3, "dropped": 1, "repository": "shop/api", "commit": "4f2d9c1e8b7a605f",
            "roots": [{
                "id": "push-1", "type": "repository.pushed", "source": "ci", "offset_ms": 0, "hop_ms": null, "summary": "shop/api@4f2d9c1e",
                "handled": [handled("BuildBot", "acted", "", 2100), handled("LintBot", "ignored", "no trigger fits", 90)],
                "children": [
                    {"id": "b1", "type": "build.started", "source": "BuildBot", "offset_ms": 12, "hop_ms": 12, "summary": "", "handled": [], "children": []},
                    {"id": "b2", "type": "build.failed", "source": "BuildBot", "offset_ms": 2310, "hop_ms": 2310, "summary": "step `compile`",
                     "handled": [handled("TestBot", "dead_lettered", "broken", 1_500_000)], "children": []},
                ],
            }],
        });
        let expected = "\
0198c5d2-7b3a-7c41-9a53-0f6f2f1f6a01  failed  shop/api@4f2d9c1e  2026-11-01 12:00:00 UTC
3 messages in 2.3 s
repository.pushed  by ci  +0.000 s  push-1
│  shop/api@4f2d9c1e
├· BuildBot acted in 2.1 ms
├· LintBot ignored it in 0.0 ms: no trigger fits
├─ build.started  by BuildBot  +0.012 s (hop 12 ms)  b1
└─ build.failed  by BuildBot  +2.310 s (hop 2.3 s)  b2
   │  step `compile`
   └· TestBot gave up on it (dead letter) in 1.5 s: broken
1 more messages and outcomes did not fit into the monitor's memory";
        assert_eq!(draw(&tree, Paint::NONE).join("\n"), expected);
    }

    #[test]
    fn what_the_monitor_left_out_is_left_out() {
        assert_eq!(draw(&json!({"id": "x", "state": "running"}), Paint::NONE), ["x  running", "0 messages in 0 ms"]);
    }
}
