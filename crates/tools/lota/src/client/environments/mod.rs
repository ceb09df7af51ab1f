//! What people ask of an environment: `lota deploy`, `rollback`, `freeze`, `unfreeze`, `approve`, `deny`, `history`.
mod history;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, anyhow, bail};
use bot_core::{Envelope, Observed};
use bot_messages::{
    Digest, Event,
    approval::{ApprovalDenied, ApprovalGranted, ApprovalRequested},
    deploy::{
        Attempt, AttemptApproval, DeployCompleted, DeployFailed, DeployFreezeRequested, DeployFrozen, DeployHeld,
        DeployRefused, DeployReportRequested, DeployReported, DeployRequested, DeployRollbackRequested,
        DeployRolledBack, DeployUnfreezeRequested, DeployUnfrozen, Gate,
    },
    keys,
    pipeline::Span,
};
use chrono::{DateTime, TimeDelta, Utc};
pub(crate) use history::HistoryArgs;
use tokio::{sync::mpsc, time::Instant};

use super::{
    clock,
    operator::{self, Operator, Said, Saying},
    story::tell,
    terminal::{Out, Tone, plain, seen_enough, short, took},
};
use crate::home::Home;

/// For a question that DeployBot answers from its store.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Who asks; what the history calls them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Asker {
    /// Who asks, for the history
    #[arg(long = "by", value_name = "NAME", env = "USER", default_value = "someone")]
    pub(super) name: String,
}

/// What `lota deploy` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DeployArgs {
    /// As environments.yaml names it
    #[arg(value_name = "ENV")]
    environment: String,
    /// Of an artifact that passed its tests: sha256:… or its 64 digits
    digest: String,
    #[command(flatten)]
    by: Asker,
    /// Seconds to wait for its end
    #[arg(long, value_name = "S", default_value_t = 900)]
    timeout: u64,
}

/// What `lota rollback` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RollbackArgs {
    /// As environments.yaml names it
    #[arg(value_name = "ENV")]
    environment: String,
    /// To which artifact [default: what was there before]
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
    /// Why, for the history
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    by: Asker,
    /// Seconds to wait for its end
    #[arg(long, value_name = "S", default_value_t = 900)]
    timeout: u64,
}

/// What `lota freeze` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FreezeArgs {
    /// As environments.yaml names it
    #[arg(value_name = "ENV")]
    environment: String,
    /// Why, for everyone who waits
    #[arg(long)]
    reason: String,
    /// Until when: such as 2026-12-24T08:00:00Z, or 2h from now [default: until `lota unfreeze`]
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    by: Asker,
}

/// What `lota unfreeze` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UnfreezeArgs {
    /// As environments.yaml names it
    #[arg(value_name = "ENV")]
    environment: String,
    #[command(flatten)]
    by: Asker,
}

/// What `lota approve` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ApproveArgs {
    /// As `lota history` shows it: production:7:3f8a3f8a3f8a
    #[arg(value_name = "ID")]
    approval: String,
    #[command(flatten)]
    by: Asker,
}

/// What `lota deny` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DenyArgs {
    /// As `lota history` shows it: production:7:3f8a3f8a3f8a
    #[arg(value_name = "ID")]
    approval: String,
    /// Why, for everyone who looks
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    by: Asker,
}

pub(crate) async fn deploy(home: &Home, args: DeployArgs) -> anyhow::Result<ExitCode> {
    let digest = digest(&args.digest)?;
    let request = DeployRequested { environment: args.environment, digest, requested_by: Some(args.by.name) };
    let limit = Duration::from_secs(args.timeout);
    seen_enough(to_its_end(home, &request, &request.environment, limit).await)
}

pub(crate) async fn rollback(home: &Home, args: RollbackArgs) -> anyhow::Result<ExitCode> {
    let to = args.to.as_deref().map(digest).transpose()?;
    let request = DeployRollbackRequested {
        environment: args.environment,
        to,
        reason: args.reason,
        requested_by: Some(args.by.name),
    };
    let limit = Duration::from_secs(args.timeout);
    seen_enough(to_its_end(home, &request, &request.environment, limit).await)
}

pub(crate) async fn freeze(home: &Home, args: FreezeArgs) -> anyhow::Result<ExitCode> {
    let until = args.until.as_deref().map(|text| time(text, clock::now())).transpose()?;
    let (environment, reason) = (args.environment, args.reason);
    let request = DeployFreezeRequested { environment, reason, until, requested_by: Some(args.by.name) };
    seen_enough(one_answer::<_, DeployFrozen>(home, &request).await)
}

pub(crate) async fn unfreeze(home: &Home, args: UnfreezeArgs) -> anyhow::Result<ExitCode> {
    let request = DeployUnfreezeRequested { environment: args.environment, requested_by: Some(args.by.name) };
    seen_enough(one_answer::<_, DeployUnfrozen>(home, &request).await)
}

pub(crate) async fn approve(home: &Home, args: ApproveArgs) -> anyhow::Result<ExitCode> {
    let (environment, digest, expires_at) = waiting(home, &args.approval).await?;
    let (approval_id, approver) = (args.approval, args.by.name);
    let yes = ApprovalGranted { approval_id, environment, digest, approver, expires_at, signature: None };
    seen_enough(one_answer::<_, DeployReported>(home, &yes).await)
}

pub(crate) async fn deny(home: &Home, args: DenyArgs) -> anyhow::Result<ExitCode> {
    let (environment, digest, expires_at) = waiting(home, &args.approval).await?;
    let (approval_id, approver, reason) = (args.approval, args.by.name, args.reason);
    let no = ApprovalDenied { approval_id, environment, digest, approver, reason, expires_at, signature: None };
    seen_enough(one_answer::<_, DeployReported>(home, &no).await)
}

pub(crate) async fn history(home: &Home, args: HistoryArgs) -> anyhow::Result<ExitCode> {
    seen_enough(history::show(home, args).await)
}

/// Exactly what an approval was asked for. That it still can be answered is DeployBot's to say.
async fn waiting(home: &Home, approval: &str) -> anyhow::Result<(String, Digest, DateTime<Utc>)> {
    let expected = "expected such as production:7:3f8a3f8a3f8a, as `lota history` shows it";
    let environment = approval.rsplitn(3, ':').nth(2).filter(|name| !name.is_empty());
    let environment = environment.ok_or_else(|| anyhow!("`{approval}` is no approval: {expected}"))?;
    let report = report(home, environment, Some(50)).await?;
    let asked = |attempt: &Attempt| {
        let AttemptApproval { approval_id, expires_at, .. } = attempt.approval.as_ref()?;
        (approval_id == approval).then_some(())?;
        Some((environment.to_owned(), attempt.digest.clone()?, *expires_at))
    };
    let found = report.attempts.iter().find_map(asked);
    found.ok_or_else(|| {
        anyhow!("no approval {approval} was asked for in {environment}: see `lota history {environment}`")
    })
}

/// What happened in an environment.
async fn report(home: &Home, environment: &str, attempts_max: Option<u32>) -> anyhow::Result<DeployReported> {
    let request = DeployReportRequested { environment: environment.to_owned(), attempts_max };
    let mut asked = Asked::say(home, &request).await?;
    let answer = asked.next(Instant::now() + ANSWER_LIMIT, &[DeployReported::TYPE, DeployRefused::TYPE]).await?;
    match serde_json::from_value::<DeployReported>(answer.data.clone()) {
        Ok(report) if answer.event_type == DeployReported::TYPE => Ok(report),
        _ => bail!("{}", refusal(&answer)),
    }
}

/// Asks something that has one answer at once.
async fn one_answer<Q: Event, A: Event>(home: &Home, question: &Q) -> anyhow::Result<ExitCode> {
    let mut asked = Asked::say(home, question).await?;
    let answer = asked.next(Instant::now() + ANSWER_LIMIT, &[A::TYPE, DeployRefused::TYPE]).await?;
    let mut out = Out::stdout();
    if answer.event_type == DeployRefused::TYPE {
        out.line(&out.paint.tone(Tone::Bad, &refusal(&answer)))?;
        return Ok(ExitCode::FAILURE);
    }
    if let Ok(report) = serde_json::from_value::<DeployReported>(answer.data.clone())
        && answer.event_type == DeployReported::TYPE
    {
        out.lines(&history::lines(&report, true, out.paint))?;
        return Ok(ExitCode::SUCCESS);
    }
    let story = tell(&answer.event_type, &answer.data);
    out.line(&out.paint.tone(story.tone, &story.line))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks for a change of an environment and tells what happens, until it has ended or waits for something that takes long.
async fn to_its_end<Q: Event>(
    home: &Home,
    question: &Q,
    environment: &str,
    limit: Duration,
) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + limit;
    let mut asked = Asked::say(home, question).await?;
    let correlation = short(&asked.said.correlation_id);
    let mut out = Out::stdout();
    loop {
        let Ok(event) = asked.next(until, &[]).await else {
            let limit = took(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            bail!(
                "no end within {limit}; it goes on in the fleet: lota history {environment}, lota show {correlation}"
            );
        };
        let story = tell(&event.event_type, &event.data);
        out.line(&out.paint.tone(story.tone, &format!("{}  {}", event.event_type, story.line)))?;
        for detail in &story.details {
            out.line(&format!("    {detail}"))?;
        }
        match event.event_type.as_str() {
            DeployCompleted::TYPE => return Ok(ExitCode::SUCCESS),
            DeployFailed::TYPE | DeployRefused::TYPE => return Ok(ExitCode::FAILURE),
            // A deployment that takes itself back says so too, and then that it failed.
            DeployRolledBack::TYPE if Q::TYPE == DeployRollbackRequested::TYPE => return Ok(ExitCode::SUCCESS),
            ApprovalRequested::TYPE => break,
            DeployHeld::TYPE => {
                let gate = serde_json::from_value::<DeployHeld>(event.data).map(|held| held.gate);
                if gate.is_ok_and(|gate| gate != Gate::Busy) {
                    break;
                }
            }
            _ => {}
        }
    }
    out.line(
        &out.paint.dim(&format!("  it goes on by itself then: lota history {environment}, lota show {correlation}")),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn refusal(answer: &Envelope) -> String {
    let refused = serde_json::from_value::<DeployRefused>(answer.data.clone());
    refused.map_or_else(|_| "DeployBot refused it".to_owned(), |refused| plain(&refused.error.message))
}

/// A question that was said, and what is said in its correlation since.
struct Asked {
    said: Said,
    events: mpsc::Receiver<Observed>,
}

impl Asked {
    async fn say<Q: Event>(home: &Home, question: &Q) -> anyhow::Result<Self> {
        home.fleet()?;
        let events = operator::watch(home, keys::EVENTS, &["deploy.#", "approval.#", "message.dead_lettered"]).await?;
        let operator = Operator::connect(home).await?;
        let data = serde_json::to_value(question)?;
        let said = operator.say(Saying { event_type: Q::TYPE.to_owned(), data, ..Saying::default() }).await;
        operator.close().await;
        Ok(Self { said: said?, events })
    }

    /// The next event of the correlation that is one of these types, or any but the question itself.
    async fn next(&mut self, until: Instant, types: &[&str]) -> anyhow::Result<Envelope> {
        loop {
            let seen = tokio::time::timeout_at(until, self.events.recv()).await;
            let seen = seen.ok().flatten().context(
                "DeployBot did not answer: it may be busy, paused, or not running; see `lota status` and `lota probe DeployBot`",
            )?;
            let Ok(event) = Envelope::decode(&seen.body) else {
                continue;
            };
            if event.correlation_id.as_deref() != Some(self.said.correlation_id.as_str()) || event.id == self.said.id {
                continue;
            }
            if types.is_empty() || types.contains(&event.event_type.as_str()) {
                return Ok(event);
            }
        }
    }
}

fn digest(text: &str) -> anyhow::Result<Digest> {
    let whole = if text.starts_with("sha256:") { text.to_owned() } else { format!("sha256:{text}") };
    whole.parse().with_context(|| format!("`{text}`: `lota history ENV --json` shows digests in full"))
}

/// A point in time, or a span from now.
fn time(text: &str, now: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.with_timezone(&Utc));
    }
    let span: Option<Span> = text.parse().ok();
    let at = span.and_then(|span| now.checked_add_signed(TimeDelta::from_std(span.0).ok()?));
    at.ok_or_else(|| anyhow!("--until `{text}`: expected a time such as 2026-12-24T08:00:00Z, or a span such as 2h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_taken_with_and_without_its_prefix() {
        let hex = "3f8a".repeat(16);
        assert_eq!(digest(&hex).unwrap(), digest(&format!("sha256:{hex}")).unwrap());
        assert!(digest("3f8a").unwrap_err().to_string().contains("--json"));
    }

    #[test]
    fn until_is_a_time_or_a_span() {
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(time("2h", now).unwrap(), now + TimeDelta::hours(2));
        assert_eq!(time("1970-01-01T03:00:00+01:00", now).unwrap(), now + TimeDelta::hours(2));
        assert!(time("tomorrow", now).unwrap_err().to_string().contains("such as 2h"));
    }
}
