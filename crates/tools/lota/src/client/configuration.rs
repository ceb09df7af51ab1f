//! `lota config`: whether the bots' configuration fits, and that it is meant to be run as it is.
#![allow(clippy::disallowed_methods, reason = "asks the bots' own programs what they make of their files")]

use std::process::{Command, ExitCode, Output};

use anyhow::{Context, anyhow, bail};
use bot_messages::{
    Event,
    config::{AppliedConfig, ConfigApplied},
    control::ControlProbe,
};
use clap::Subcommand;

use super::{
    control,
    operator::{Operator, Saying},
    terminal::{Out, plain, seen_enough},
};
use crate::{
    exit::{Exit, OrExit},
    home::Home,
    up::{self, Member},
};

/// What `lota config` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Whether every bot can read its configuration
    Check,
    /// Say that it is to run as it is: the monitor raises an alert for each bot that runs another. `lota up` does this too
    Apply {
        /// Who says so
        #[arg(long, env = "USER", default_value = "operator")]
        by: String,
    },
}

pub(crate) async fn run(home: &Home, args: ConfigArgs) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Check => seen_enough(check(home).await),
        What::Apply { by } => {
            let applied = apply(home, by).await?;
            let mut out = Out::stdout();
            let lines = applied.iter().try_for_each(|bot| {
                out.line(&format!("{}: configuration {} of version {}", bot.bot, bot.config_hash, bot.version))
            });
            seen_enough(lines.map(|()| ExitCode::SUCCESS).map_err(Into::into))
        }
    }
}

async fn check(home: &Home) -> anyhow::Result<ExitCode> {
    let mut out = Out::stdout();
    let mut wrong = 0;
    if up::has_programs()? {
        for member in up::members(home)? {
            let answer = ask(home, &member, "--check-config")?;
            let said = if answer.status.success() { &answer.stdout } else { &answer.stderr };
            out.line(String::from_utf8_lossy(said).trim_end())?;
            wrong += i32::from(!answer.status.success());
        }
    } else {
        for slug in up::allowed(home)? {
            let read = ask_bot(home, &slug).await?;
            wrong += i32::from(read.is_err());
            let told = read.map(|bot| format!("{}: its files fit, configuration {}", bot.bot, bot.config_hash));
            told.unwrap_or_else(|why| why).lines().try_for_each(|line| out.line(&plain(line)))?;
        }
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(Exit::Config.code()) })
}

/// Says to the monitor what every bot is to run: its configuration as it lies there now, and the program beside this one;
/// where bots have their programs elsewhere, as in containers, the one that answers.
pub(crate) async fn apply(home: &Home, by: String) -> anyhow::Result<Vec<AppliedConfig>> {
    let bots = if up::has_programs()? {
        up::members(home)?.iter().map(|member| hash(home, member)).collect::<anyhow::Result<Vec<_>>>()?
    } else {
        let mut bots = Vec::new();
        for slug in up::allowed(home)? {
            let read = ask_bot(home, &slug).await?;
            bots.push(read.map_err(|why| Exit::Config.of(anyhow!("nothing was applied: {why}")))?);
        }
        bots
    };
    let operator = Operator::connect(home).await.or_exit(Exit::Unavailable)?;
    let applied = ConfigApplied { bots, by };
    let saying = Saying {
        event_type: ConfigApplied::TYPE.to_owned(),
        data: serde_json::to_value(&applied)?,
        ..Saying::default()
    };
    let said = operator.say(saying).await;
    operator.close().await;
    said?;
    Ok(applied.bots)
}

fn hash(home: &Home, member: &Member) -> anyhow::Result<AppliedConfig> {
    let answer = ask(home, member, "--config-hash")?;
    if !answer.status.success() {
        let why = String::from_utf8_lossy(&answer.stderr).trim_end().to_owned();
        return Err(Exit::Config.of(anyhow!("nothing was applied: {why}")));
    }
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let Some((config_hash, version)) = text.trim().split_once(' ') else {
        bail!("expected a hash and a version from {} --config-hash, got `{}`", member.program.display(), text.trim());
    };
    let bot = member.name.to_string();
    Ok(AppliedConfig { bot, config_hash: config_hash.to_owned(), version: version.to_owned() })
}

/// What a bot that runs would start with now; else what is wrong with its files. Its own container has the variables that
/// count, which this one has not.
async fn ask_bot(home: &Home, slug: &str) -> anyhow::Result<Result<AppliedConfig, String>> {
    let name = control::name_of(home, slug).await?;
    let reply = control::ask(home, &name, &ControlProbe {}, None).await.with_context(|| {
        format!("{name} is asked what its files say, as its program is not beside this one: start it, and say it again")
    })?;
    let data = reply.data.unwrap_or_default();
    let (files, version) = (&data["files"], data["version"].as_str().unwrap_or_default());
    if let Some(wrong) = files["wrong"].as_str() {
        return Ok(Err(format!("{name}: {wrong}")));
    }
    let Some(config_hash) = files["config_hash"].as_str() else {
        bail!(
            "{name} of version {version} does not say what its files hold: it is older than this command; upgrade it"
        );
    };
    Ok(Ok(AppliedConfig { bot: name.to_string(), config_hash: config_hash.to_owned(), version: version.to_owned() }))
}

fn ask(home: &Home, member: &Member, what: &str) -> anyhow::Result<Output> {
    let mut command = Command::new(&member.program);
    command.arg(what).env("LOTA_HOME", home.path()).env("LOTA_CONFIG_DIR", home.join("config"));
    command.env_remove("LOTA_BROKER_URL");
    command.output().with_context(|| format!("cannot start {}", member.program.display()))
}
