//! `lota rerun`: has the bot that ran a job do it once more, and follows what comes of it.
use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use bot_messages::{BotName, Event, control::ControlRerun};
use uuid::Uuid;

use super::{
    control,
    environments::Asker,
    follow::{Following, Taps},
    monitor::{Monitor, text},
    terminal::{Out, plain, seen_enough, short},
};
use crate::home::Home;

/// What `lota rerun` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RerunArgs {
    /// The job, or at least six characters of its beginning
    job: String,
    /// Whose it is, such as `BuildBot` [default: the monitor knows]
    #[arg(long)]
    bot: Option<String>,
    /// Wait for the end, and let the exit code say how it was, as `lota push` does
    #[arg(long, short)]
    follow: bool,
    /// Show what the jobs print, too
    #[arg(long, short, requires = "follow")]
    verbose: bool,
    /// Seconds that --follow waits
    #[arg(long, value_name = "S", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    timeout: u64,
    #[command(flatten)]
    by: Asker,
}

pub(crate) async fn run(home: &Home, args: RerunArgs) -> anyhow::Result<ExitCode> {
    seen_enough(rerun(home, args).await)
}

async fn rerun(home: &Home, args: RerunArgs) -> anyhow::Result<ExitCode> {
    home.fleet()?;
    let (name, job_id) = whose(home, &args).await?;
    let id = Uuid::now_v7().to_string();
    // Before the command, so that nothing of what follows is missed.
    let taps = if args.follow { Some(Taps::open(home).await?) } else { None };
    let following = taps.map(|taps| Following::new(home, taps, &id, args.verbose, Duration::from_secs(args.timeout)));
    let command = ControlRerun { job_id, requested_by: Some(args.by.name) };
    let reply = control::ask(home, &name, &command, Some(id.clone())).await?;
    let mut out = Out::stdout();
    if control::refused(&mut out, &name, ControlRerun::TYPE, &reply)? {
        return Ok(ExitCode::FAILURE);
    }
    let told = reply.data.unwrap_or_default();
    out.line(&format!("{name} {}", plain(text(&told, "summary"))))?;
    out.line(&out.paint.dim(&format!("  id and correlation {id}")))?;
    match following {
        Some(following) => following.after(text(&told, "kind")).until_end(&mut out).await,
        None => {
            out.line(&out.paint.dim(&format!("  lota show {} tells what came of it", short(&id))))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The bot that ran the job, and the job's id as far as it is known.
async fn whose(home: &Home, args: &RerunArgs) -> anyhow::Result<(BotName, String)> {
    if let Some(bot) = &args.bot {
        return Ok((control::name_of(home, bot).await?, args.job.clone()));
    }
    let found = async { Monitor::of(home)?.get(&["jobs", &args.job], &[]).await };
    let job = found.await.context(
        "whose job it is, is not known; the bot itself keeps its jobs for two weeks: name it with --bot BuildBot",
    )?;
    let (bot, id) = (text(&job, "bot"), text(&job, "id"));
    if bot.is_empty() || id.is_empty() {
        bail!("the monitor does not say whose job {} is: name the bot with --bot BuildBot", args.job);
    }
    Ok((bot.parse()?, id.to_owned()))
}
