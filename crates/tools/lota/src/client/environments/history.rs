//! `lota history`: every attempt to change an environment, how far it came and why it ended so.
use std::process::ExitCode;

use bot_messages::deploy::{Attempt, AttemptKind, AttemptState, DeployReported};
use chrono::{DateTime, Utc};

use super::report;
use crate::{
    client::{
        table::{Cell, Table},
        terminal::{Out, Paint, Tone, cut, plain},
    },
    home::Home,
};

const WHY_CHARS_MAX: usize = 200;

/// What `lota history` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// As environments.yaml names it
    #[arg(value_name = "ENV")]
    environment: String,
    /// How many attempts, the newest first; at most 50
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    number: u32,
    /// With what was done for each, step by step
    #[arg(long, short)]
    verbose: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn show(home: &Home, args: HistoryArgs) -> anyhow::Result<ExitCode> {
    let report = report(home, &args.environment, Some(args.number)).await?;
    let mut out = Out::stdout();
    if args.json {
        out.json(&serde_json::to_value(&report)?)?;
    } else {
        out.lines(&lines(&report, args.verbose, out.paint))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// As people read it.
pub(super) fn lines(report: &DeployReported, verbose: bool, paint: Paint) -> Vec<String> {
    let frozen = report.frozen.iter().map(|why| paint.tone(Tone::Warn, &plain(why)));
    let mut lines: Vec<String> = frozen.collect();
    if report.attempts.is_empty() {
        lines.push(format!("nothing was ever to go to {}", report.environment));
        return lines;
    }
    let mut table = Table::new(&["#", "WHEN", "WHAT", "COMMIT", "BY", "STATE", "WHY"]);
    for attempt in &report.attempts {
        table.row(row(attempt));
    }
    let mut rows = table.lines(paint).into_iter();
    lines.extend(rows.next());
    for (attempt, row) in report.attempts.iter().zip(rows) {
        lines.push(row);
        if verbose {
            lines.extend(details(attempt).iter().map(|line| paint.dim(&format!("      {line}"))));
        }
    }
    lines
}

fn row(attempt: &Attempt) -> Vec<Cell> {
    let digest = attempt.digest.as_ref().map_or("-", |digest| digest.short());
    let what = match attempt.kind {
        AttemptKind::Deploy => digest.to_owned(),
        AttemptKind::Rollback => format!("back to {digest}"),
    };
    let commit = attempt.revision.as_ref();
    let commit = commit.map_or_else(|| "-".to_owned(), |r| format!("{}@{}", r.repository, r.commit.short()));
    vec![
        Cell::figure(attempt.number.to_string()),
        second(attempt.asked_at).into(),
        what.into(),
        plain(&commit).into(),
        cut(&plain(&attempt.by), 40).into(),
        Cell::toned(word(attempt), tone(attempt.state)),
        cut(&plain(&attempt.why), WHY_CHARS_MAX).into(),
    ]
}

fn details(attempt: &Attempt) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(approval) = &attempt.approval {
        let by = approval.by.as_deref().unwrap_or("nobody yet");
        let answer = match approval.granted {
            Some(true) => format!("granted by {by}"),
            Some(false) => format!("denied by {by}"),
            None => format!("asked for, until {}", second(approval.expires_at)),
        };
        let at = approval.answered_at.map(|at| format!(" at {}", second(at))).unwrap_or_default();
        lines.push(plain(&format!("approval {} {answer}{at}", approval.approval_id)));
    }
    if let Some(digest) = &attempt.digest {
        lines.push(format!("digest {}", digest.as_str()));
    }
    lines.extend(attempt.job_id.iter().map(|job| format!("job {}", plain(job))));
    lines.extend(attempt.steps.iter().map(|step| format!("{} {}", second(step.at), plain(&step.what))));
    if let (AttemptState::Running, Some(last)) = (attempt.state, attempt.steps.last()) {
        lines.push(format!("it has not ended since {}; what comes next was not told yet", second(last.at)));
    }
    lines.extend(attempt.ended_at.map(|at| format!("{} ended: {}", second(at), word(attempt))));
    lines
}

fn word(attempt: &Attempt) -> &'static str {
    match attempt.state {
        AttemptState::Waiting => "waiting",
        AttemptState::Running => "running",
        AttemptState::Succeeded => "succeeded",
        AttemptState::RolledBack => "rolled back",
        AttemptState::Stranded => "STRANDED",
        AttemptState::Failed => "failed",
        AttemptState::Cancelled => "cancelled",
        AttemptState::Superseded => "superseded",
        AttemptState::Denied => "denied",
        AttemptState::Expired => "expired",
        AttemptState::Refused => "refused",
    }
}

fn tone(state: AttemptState) -> Tone {
    match state {
        AttemptState::Succeeded => Tone::Good,
        AttemptState::Stranded | AttemptState::Failed | AttemptState::RolledBack => Tone::Bad,
        AttemptState::Waiting | AttemptState::Running => Tone::Warn,
        _ => Tone::Dim,
    }
}

fn second(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use bot_messages::{Event, deploy::AttemptStep};

    use super::*;

    #[test]
    fn an_attempt_is_one_line_and_its_steps_below_it() {
        let mut report = DeployReported::example();
        report.frozen = Some("production is frozen".into());
        report.attempts[0].steps = vec![AttemptStep { at: DateTime::UNIX_EPOCH, what: "begun\u{1b}[31m".into() }];
        let lines = lines(&report, true, Paint::NONE);
        assert_eq!(lines[0], "production is frozen");
        assert!(lines[2].starts_with("7  2026-11-01 12:00:00Z  3f8a3f8a3f8a  shop/api@4f2d9c1e"), "{}", lines[2]);
        assert!(lines[2].ends_with("waiting  waits for a yes"), "{}", lines[2]);
        assert_eq!(lines[3], "      approval production:7:3f8a3f8a3f8a asked for, until 2026-11-01 12:00:00Z");
        assert!(!lines.iter().any(|line| line.contains('\u{1b}')), "what is printed steers no terminal");
    }

    #[test]
    fn an_environment_without_a_history_says_so() {
        let report = DeployReported { environment: "local".into(), frozen: None, attempts: Vec::new() };
        assert_eq!(lines(&report, false, Paint::NONE), ["nothing was ever to go to local"]);
    }
}
