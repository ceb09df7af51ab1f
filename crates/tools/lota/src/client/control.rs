//! `lota pause`, `resume`, `cancel` and `probe`: a command to one bot, and its answer.
use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use bot_core::{Envelope, Observed};
use bot_messages::{
    BotName, Event, Reply,
    control::{ControlCancel, ControlPause, ControlProbe, ControlReplied, ControlResume},
    keys,
    telemetry::Heartbeat,
};
use bot_provision::QueueInfo;
use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};

use super::{
    monitor::{Monitor, text},
    operator::{self, Operator, Said, Saying},
    show::state_tone,
    terminal::{Out, Paint, Tone, bytes, plain, seen_enough, took},
};
use crate::home::Home;

const REPLY_LIMIT: Duration = Duration::from_secs(10);
const CONTROL: &str = ".control";

/// What `lota pause` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PauseArgs {
    /// Such as `BuildBot` or `build-bot`
    bot: String,
    /// Why, for everyone who looks
    #[arg(long)]
    reason: String,
    /// Seconds after which it goes on by itself [default: when told]
    #[arg(long = "for", value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    for_seconds: Option<u64>,
}

/// What `lota resume` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// Such as `BuildBot` or `build-bot`
    bot: String,
}

/// What `lota cancel` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// Such as `BuildBot` or `build-bot`
    bot: String,
    /// The job, or at least six characters of its beginning
    job: String,
    /// Why, for everyone who looks
    #[arg(long)]
    reason: String,
}

/// What `lota probe` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProbeArgs {
    /// Such as `BuildBot` or `build-bot`
    bot: String,
    /// The whole answer as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn pause(home: &Home, args: PauseArgs) -> anyhow::Result<ExitCode> {
    let until = args.for_seconds.map(|s| format!(" for {}", took(s.saturating_mul(1000)))).unwrap_or_default();
    let command = ControlPause { reason: args.reason, for_seconds: args.for_seconds };
    let done = format!("takes no work{until}; what is running goes on");
    seen_enough(command_to(home, &args.bot, &command, |out, _| out.line(&done)).await)
}

pub(crate) async fn resume(home: &Home, args: ResumeArgs) -> anyhow::Result<ExitCode> {
    seen_enough(command_to(home, &args.bot, &ControlResume {}, |out, _| out.line("takes work again")).await)
}

pub(crate) async fn cancel(home: &Home, args: CancelArgs) -> anyhow::Result<ExitCode> {
    let job_id = whole_job(home, &args.job).await;
    let command = ControlCancel { job_id, reason: args.reason };
    seen_enough(
        command_to(home, &args.bot, &command, |out, _| {
            out.line("stops the job; its end is a *.failed with reason cancelled")
        })
        .await,
    )
}

pub(crate) async fn probe(home: &Home, args: ProbeArgs) -> anyhow::Result<ExitCode> {
    let show = |out: &mut Out, reply: &Reply| {
        let data = reply.data.clone().unwrap_or_default();
        if args.json { out.json(&data) } else { out.lines(&heartbeat(&data, out.paint)) }
    };
    seen_enough(command_to(home, &args.bot, &ControlProbe {}, show).await)
}

/// The job's whole id; a bot knows its jobs by nothing less. Whole already, or unknown to the monitor: as it was given.
async fn whole_job(home: &Home, asked: &str) -> String {
    let found = async { Monitor::of(home)?.get(&["jobs", asked], &[]).await };
    match found.await {
        Ok(job) if !text(&job, "id").is_empty() => text(&job, "id").to_owned(),
        _ => asked.to_owned(),
    }
}

/// Says a command, waits for the answer, and shows it. Exit 1 where it was not done.
async fn command_to<E: Event>(
    home: &Home,
    bot: &str,
    command: &E,
    show: impl FnOnce(&mut Out, &Reply) -> std::io::Result<()>,
) -> anyhow::Result<ExitCode> {
    let name = name_of(home, bot).await?;
    let reply = ask(home, &name, command, None).await?;
    let mut out = Out::stdout();
    if refused(&mut out, &name, E::TYPE, &reply)? {
        return Ok(ExitCode::FAILURE);
    }
    show(&mut out, &reply)?;
    Ok(if reply.success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says a command, under this id where one is given, and waits for the bot's own answer.
pub(super) async fn ask<E: Event>(
    home: &Home,
    name: &BotName,
    command: &E,
    id: Option<String>,
) -> anyhow::Result<Reply> {
    let running = registered(home, name).await?;
    let mut replies = operator::watch(home, keys::EVENTS, &[ControlReplied::TYPE]).await?;
    let operator = Operator::connect(home).await?;
    let saying = Saying {
        event_type: E::TYPE.to_owned(),
        data: serde_json::to_value(command)?,
        to: Some(name.clone()),
        id,
        ..Saying::default()
    };
    let said = operator.say(saying).await;
    operator.close().await;
    let Some(reply) = answer(&mut replies, &said?, name).await else {
        let state = if running { "it may be busy, or just starting" } else { "it is not running" };
        bail!(
            "{name} did not answer within {} s: {state}; the command waits in {}.control and is carried out when it can be",
            REPLY_LIMIT.as_secs(),
            name.slug()
        );
    };
    Ok(reply)
}

/// Tells why a bot did not do it, where it did not.
pub(super) fn refused(out: &mut Out, name: &BotName, command: &str, reply: &Reply) -> std::io::Result<bool> {
    let (false, Some(error)) = (reply.success, &reply.error) else { return Ok(false) };
    let told = format!("{name} refused {command}: {} ({})", plain(&error.message), error.code.as_str());
    out.line(&out.paint.tone(Tone::Bad, &told))?;
    Ok(true)
}

async fn answer(replies: &mut mpsc::Receiver<Observed>, said: &Said, name: &BotName) -> Option<Reply> {
    let until = Instant::now() + REPLY_LIMIT;
    while let Ok(Some(seen)) = tokio::time::timeout_at(until, replies.recv()).await {
        if let Some(reply) = reply_to(&seen.body, said, name) {
            return Some(reply);
        }
    }
    None
}

/// Whether a body is the answer. `source` is believed here: nobody else may publish to the tap in that bot's name.
fn reply_to(body: &[u8], said: &Said, name: &BotName) -> Option<Reply> {
    let envelope = Envelope::decode(body).ok()?;
    if envelope.source != *name || envelope.correlation_id.as_deref() != Some(said.correlation_id.as_str()) {
        return None;
    }
    let replied: ControlReplied = serde_json::from_value(envelope.data).ok()?;
    (replied.reply.execution_id == said.id).then_some(replied.reply)
}

/// The bot's name as it stands in messages. People type `build-bot`; the monitor knows whom they mean, and where it
/// does not answer, bots are called as the convention has it.
pub(super) async fn name_of(home: &Home, asked: &str) -> anyhow::Result<BotName> {
    let given: BotName = asked.parse()?;
    if given.as_str() != given.slug() {
        return Ok(given);
    }
    let found = async { Monitor::of(home)?.get(&["bots", asked], &[]).await };
    let name = match found.await {
        Ok(bot) if !text(&bot, "name").is_empty() => text(&bot, "name").to_owned(),
        _ => conventional(asked),
    };
    name.parse().with_context(|| format!("`{asked}` is no bot's name"))
}

/// `build-bot` → `BuildBot`
fn conventional(slug: &str) -> String {
    slug.split('-')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
        })
        .collect()
}

/// Whether its control queue is read. An error where there is none: nobody has to wait for someone who is not there.
async fn registered(home: &Home, name: &BotName) -> anyhow::Result<bool> {
    let queues = match home.management()?.queues(keys::VHOST).await {
        Ok(queues) => queues,
        Err(e) => {
            tracing::debug!("the queues cannot be listed: {e}");
            return Ok(true);
        }
    };
    match of_bot(&queues, &name.slug()) {
        Ok(queue) => Ok(queue.consumers.unwrap_or(1) > 0),
        Err(known) => bail!("no bot {name} is in this fleet (NOT_REGISTERED): expected one of {known}"),
    }
}

fn of_bot<'q>(queues: &'q [QueueInfo], slug: &str) -> Result<&'q QueueInfo, String> {
    let bots = || queues.iter().filter_map(|q| Some((q.name.strip_suffix(CONTROL)?, q)));
    bots().find(|(bot, _)| *bot == slug).map(|(_, q)| q).ok_or_else(|| {
        let mut known: Vec<&str> = bots().map(|(bot, _)| bot).collect();
        known.sort_unstable();
        if known.is_empty() { "none: is the topology applied?".to_owned() } else { known.join(", ") }
    })
}

fn heartbeat(data: &Value, paint: Paint) -> Vec<String> {
    let Ok(h) = serde_json::from_value::<Heartbeat>(data.clone()) else {
        return vec![plain(&data.to_string())];
    };
    let state = h.state.as_str();
    let mut lines = vec![
        format!(
            "{} {} on {}, version {}, up {}",
            plain(&h.bot),
            paint.tone(state_tone(state), state),
            plain(&h.instance),
            plain(&h.version),
            took(h.uptime_s.saturating_mul(1000))
        ),
        format!("  settled {} ({} failed), {:.1}/s, {} in hand", h.processed, h.errors, h.rate_per_s, h.in_flight),
        format!("  jobs {} running, {} waiting; {} messages unsent", h.jobs_running, h.jobs_waiting, h.outbox_unsent),
        format!(
            "  {} resident, {:.0} % of a core; configuration {}",
            bytes(h.rss_bytes),
            h.cpu_percent,
            plain(&h.config_hash)
        ),
    ];
    lines.extend(h.sandbox.iter().map(|s| format!("  commands run in {}", plain(s))));
    if !h.sandbox_weaknesses.is_empty() {
        let weaknesses = h.sandbox_weaknesses.join(", ");
        lines.push(format!("  which does not hold {} (docs/SECURITY.md)", plain(&weaknesses)));
    }
    lines.extend(h.processes_bound.iter().map(|b| format!("  their processes are bounded by {}", plain(b))));
    lines.extend(h.off.iter().map(|feature| format!("  without {} for now", plain(feature))));
    lines.extend(h.held.iter().map(|held| {
        let (what, dependency) = (plain(&held.what), plain(&held.dependency));
        format!("  {what} wait for {dependency} ({}), next tried at {}", held.code.as_str(), held.probe_at.format("%T"))
    }));
    lines.extend(h.breakers.iter().map(|(name, state)| format!("  breaker {} is {}", plain(name), plain(state))));
    lines.extend(h.reasons.iter().map(|r| paint.tone(Tone::Warn, &format!("  {}", plain(r)))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bots_are_called_by_their_convention() {
        for (slug, name) in [("build-bot", "BuildBot"), ("monitor-bot", "MonitorBot"), ("x", "X")] {
            assert_eq!(conventional(slug), name);
            assert_eq!(name.parse::<BotName>().unwrap().slug(), slug);
        }
    }

    #[test]
    fn only_the_bots_own_answer_to_this_command_counts() {
        let said = Said { id: "m".into(), correlation_id: "m".into() };
        let name: BotName = "BuildBot".parse().unwrap();
        let body = |source: &str, correlation: &str, execution: &str| {
            json!({
                "id": "r", "timestamp": "2026-11-01T12:00:00Z", "source": source, "destination": "*", "type": "control.replied",
                "correlation_id": correlation,
                "payload": {"data": {"bot": source, "command": "control.probe", "reply": {"success": true, "execution_id": execution, "duration_ms": 1}}},
            })
            .to_string()
        };
        assert!(reply_to(body("BuildBot", "m", "m").as_bytes(), &said, &name).unwrap().success);
        for (source, correlation, execution) in [("TestBot", "m", "m"), ("BuildBot", "x", "m"), ("BuildBot", "m", "x")]
        {
            assert_eq!(reply_to(body(source, correlation, execution).as_bytes(), &said, &name), None);
        }
    }

    #[test]
    fn who_is_not_there_is_told_with_who_is() {
        let queue = |name: &str| QueueInfo { name: name.into(), ..QueueInfo::default() };
        let queues = [queue("test-bot.control"), queue("build-bot.control"), queue("build-bot.work")];
        assert_eq!(of_bot(&queues, "test-bot").unwrap().name, "test-bot.control");
        assert_eq!(of_bot(&queues, "lint-bot").unwrap_err(), "build-bot, test-bot");
    }

    #[test]
    fn a_heartbeat_reads_well() {
        let beat = json!({"bot": "BuildBot", "instance": "h-1", "state": "degraded", "version": "0.1.0", "uptime_s": 75, "rss_bytes": 20_971_520, "reasons": ["no bwrap"]});
        let told = heartbeat(&beat, Paint::NONE);
        assert_eq!(told[0], "BuildBot degraded on h-1, version 0.1.0, up 75.0 s");
        assert_eq!(told.last().unwrap(), "  no bwrap");
    }
}
