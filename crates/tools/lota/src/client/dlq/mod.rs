//! `lota dlq`: the dead letters of the bots. Looking at them loses none; each is sent again, said anew or thrown away only by
//! name, and each time a record of it is said before the letter goes.
mod act;
mod difference;
mod edit;
mod fingerprint;
mod found;
mod look;

use std::{process::ExitCode, time::Duration};

use clap::Subcommand;

use super::{environments::Asker, terminal::seen_enough};
use crate::home::Home;

const WHICH_HELP: &str = "\
WHICH is a group (`fp-…`, as `lota dlq list` shows it), the id of a message or its beginning, or the digest of a body.
A letter stays where it is until what is done with it is confirmed by the broker and on record. A command that is cut off
can be given again: what was sent already has no second effect.";

/// What `lota dlq` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// How many there are, and what they have in common
    List {
        /// Only this bot's
        bot: Option<String>,
        /// As JSON, with every letter
        #[arg(long)]
        json: bool,
    },
    /// One letter or group: why it is dead, where it differs from its schema, headers and body
    #[command(after_help = WHICH_HELP)]
    Show {
        /// A group, a message's id or its beginning, or a digest
        which: String,
        /// Only of this bot
        #[arg(long)]
        bot: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say something else to the bot in a letter's place, in the operator's name
    #[command(after_help = WHICH_HELP)]
    Edit(EditArgs),
    /// Send letters to their bot once more, as they were
    #[command(after_help = WHICH_HELP)]
    Retry(RetryArgs),
    /// Throw letters away
    #[command(after_help = WHICH_HELP)]
    Discard(DiscardArgs),
}

/// Which letters are meant.
#[derive(Clone, Debug, clap::Args)]
struct Choice {
    /// Groups, ids or digests
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    which: Vec<String>,
    /// Every letter of --bot
    #[arg(long, requires = "bot")]
    all: bool,
    /// Only of this bot
    #[arg(long)]
    bot: Option<String>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct RetryArgs {
    #[command(flatten)]
    choice: Choice,
    /// At most so many in a time, such as 10/s, 100/m or 1000/h
    #[arg(long, value_parser = pause)]
    rate: Option<Duration>,
    /// Who said them, of letters that the broker gave up: nothing proves it, so you vouch for it
    #[arg(long = "as", value_name = "PUBLISHER")]
    vouched: Option<String>,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    by: Asker,
}

#[derive(Clone, Debug, clap::Args)]
struct DiscardArgs {
    #[command(flatten)]
    choice: Choice,
    /// Why, for the record
    #[arg(long)]
    reason: String,
    /// Append them to this file first, a line of JSON each; else their bytes are gone for good
    #[arg(long, value_name = "FILE")]
    export: Option<std::path::PathBuf>,
    #[command(flatten)]
    by: Asker,
}

#[derive(Clone, Debug, clap::Args)]
struct EditArgs {
    /// A message's id or its beginning, or a digest
    which: String,
    /// Only of this bot
    #[arg(long)]
    bot: Option<String>,
    /// Set a member of `payload.data`, such as commit='"4f2d…"' or steps.0.name='"fmt"'; else $EDITOR opens
    #[arg(long, value_name = "PATH=JSON", conflicts_with = "file")]
    set: Vec<String>,
    /// Take the whole `payload.data` from a file; - is standard input
    #[arg(long)]
    file: Option<String>,
    /// Another type than the letter has
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Say it even if it does not fit its schema
    #[arg(long)]
    force: bool,
    /// Only show what would be said
    #[arg(long)]
    dry_run: bool,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    by: Asker,
}

pub(crate) async fn run(home: &Home, args: DlqArgs) -> anyhow::Result<ExitCode> {
    home.fleet()?;
    arm_crash_points();
    seen_enough(match args.what {
        What::List { bot, json } => look::list(home, bot.as_deref(), json).await,
        What::Show { which, bot, json } => look::show(home, &which, bot.as_deref(), json).await,
        What::Edit(args) => edit::edit(home, args).await,
        What::Retry(args) => act::retry(home, args).await,
        What::Discard(args) => act::discard(home, args).await,
    })
}

#[allow(clippy::disallowed_methods, reason = "only tests set it, and release builds do nothing with it")]
fn arm_crash_points() {
    if let Some(folder) = std::env::var_os("LOTA_TEST_CRASHES") {
        bot_core::arm_crash_points(folder.into());
    }
}

/// `10/s` → the time between two.
fn pause(rate: &str) -> Result<Duration, String> {
    let wrong = || format!("`{rate}` is no rate: expected a number from 1 per s, m or h, such as 10/s");
    let (number, unit) = rate.split_once('/').ok_or_else(wrong)?;
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    Duration::from_secs(unit).checked_div(number).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_pause_between_two() {
        for (rate, ms) in [("10/s", 100), ("30/m", 2000), ("1/h", 3_600_000)] {
            assert_eq!(pause(rate), Ok(Duration::from_millis(ms)));
        }
        for rate in ["", "10", "0/s", "-1/s", "1/d", "x/s"] {
            assert!(pause(rate).unwrap_err().contains("no rate"), "{rate}");
        }
    }
}
