//! `lota publish`: says any message, checked against the catalogue before it goes out.
use std::{
    io::{self, Read},
    process::ExitCode,
};

use anyhow::{Context, bail};
use bot_core::BODY_BYTES_MAX;
use bot_messages::{BotName, Kind, catalogue, is_event_type};
use serde_json::{Value, json};

use super::{
    control,
    operator::{Operator, Saying},
    terminal::{Out, cut, note, seen_enough, short},
};
use crate::home::Home;

/// Of an example in an error; the whole is in proto-schemas.
const EXAMPLE_CHARS_MAX: usize = 300;
/// By Jaro and Winkler; below it a suggestion is a guess.
const NEAR: f64 = 0.85;

/// What `lota publish` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PublishArgs {
    /// Such as deploy.requested
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// `payload.data`: JSON, @FILE, or - for standard input [default: {}]
    #[arg(long, value_name = "JSON|@FILE|-")]
    data: Option<String>,
    /// The bot that is asked, for a command
    #[arg(long, value_name = "BOT")]
    to: Option<String>,
    /// The correlation it belongs to [default: a new one]
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Its id; the same id is done once [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Send it even if it does not fit its schema
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(home: &Home, args: PublishArgs) -> anyhow::Result<ExitCode> {
    seen_enough(publish(home, args).await)
}

async fn publish(home: &Home, args: PublishArgs) -> anyhow::Result<ExitCode> {
    home.fleet()?;
    let data = data(args.data.as_deref())?;
    if let Err(wrong) = check(&args.event_type, &data, args.to.is_some()) {
        if !args.force {
            bail!("not sent: {wrong}; --force sends it anyway");
        }
        note(&format!("sent all the same: {wrong}"));
    }
    let to: Option<BotName> = match &args.to {
        Some(bot) => Some(control::name_of(home, bot).await?),
        None => None,
    };
    let operator = Operator::connect(home).await?;
    let saying = Saying {
        event_type: args.event_type,
        data,
        id: args.id,
        correlation_id: args.correlation,
        to,
        caused_by: None,
    };
    let said = operator.say(saying).await;
    operator.close().await;
    let said = said?;
    let mut out = Out::stdout();
    out.line(&format!("said {}", said.id))?;
    out.line(&out.paint.dim(&format!("  lota show {} tells what came of it", short(&said.correlation_id))))?;
    Ok(ExitCode::SUCCESS)
}

fn data(given: Option<&str>) -> anyhow::Result<Value> {
    let (text, place) = match given {
        None => return Ok(json!({})),
        Some("-") => (bounded(&mut io::stdin().lock(), "standard input")?, "standard input".to_owned()),
        Some(text) => match text.strip_prefix('@') {
            Some(file) => {
                let mut open = std::fs::File::open(file).with_context(|| format!("--data: cannot read {file}"))?;
                (bounded(&mut open, file)?, file.to_owned())
            }
            None => (text.to_owned(), "--data".to_owned()),
        },
    };
    serde_json::from_str(&text)
        .with_context(|| format!("{place} is no JSON: expected one value such as {{\"environment\": \"local\"}}"))
}

fn bounded(from: &mut impl Read, place: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(BODY_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("{place} cannot be read as UTF-8"))?;
    if text.len() > BODY_BYTES_MAX {
        bail!("{place} has more than {BODY_BYTES_MAX} bytes: larger things go to the object store");
    }
    Ok(text)
}

/// What is wrong with it, where something is.
fn check(event_type: &str, data: &Value, addressed: bool) -> Result<(), String> {
    if !is_event_type(event_type) {
        return Err(format!(
            "`{event_type}` is no message type: expected lower-case words joined by dots, such as build.completed"
        ));
    }
    let Some(entry) = catalogue::find(event_type) else {
        return Err(unknown(event_type));
    };
    match (entry.kind, addressed) {
        (Kind::Command, false) => return Err(format!("{event_type} is a command: name the bot with --to")),
        (Kind::Event, true) => {
            return Err(format!("{event_type} is an event, for everyone who hears it: leave --to out"));
        }
        _ => {}
    }
    (entry.check)(data)
        .map_err(|e| format!("{e}; an example is {}", cut(&(entry.example)().to_string(), EXAMPLE_CHARS_MAX)))
}

/// With the type that was probably meant, where one is near.
fn unknown(event_type: &str) -> String {
    let all = catalogue::all().into_iter().map(|e| (e.event_type, strsim::jaro_winkler(e.event_type, event_type)));
    match all.max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((near, likeness)) if likeness >= NEAR => {
            format!("no message has the type `{event_type}`: did you mean {near}?")
        }
        _ => format!("no message has the type `{event_type}`: docs/MESSAGES.md lists them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_message_is_told_before_it_is_sent() {
        for (event_type, data, addressed, part) in [
            ("repository.psuhed", json!({}), false, "did you mean repository.pushed?"),
            ("foo.bar", json!({}), false, "docs/MESSAGES.md"),
            ("Repository", json!({}), false, "is no message type"),
            ("deploy.requested", json!({"environment": "local", "digest": "x"}), false, "`payload.data.digest`"),
            ("control.pause", json!({"reason": "x"}), false, "--to"),
            ("deploy.requested", json!({}), true, "leave --to out"),
        ] {
            let told = check(event_type, &data, addressed).unwrap_err();
            assert!(told.contains(part), "{told}");
        }
        let example = (catalogue::find("deploy.requested").unwrap().example)();
        assert_eq!(check("deploy.requested", &example, false), Ok(()));
        assert_eq!(check("control.probe", &json!({}), true), Ok(()));
    }

    #[test]
    fn data_is_json_from_wherever_it_comes() {
        assert_eq!(data(None).unwrap(), json!({}));
        assert_eq!(data(Some("[1]")).unwrap(), json!([1]));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"a\": 1}").unwrap();
        assert_eq!(data(Some(&format!("@{}", file.path().display()))).unwrap(), json!({"a": 1}));
        assert!(data(Some("{a}")).unwrap_err().to_string().contains("--data is no JSON"));
        std::fs::write(file.path(), " ".repeat(BODY_BYTES_MAX + 1)).unwrap();
        assert!(data(Some(&format!("@{}", file.path().display()))).unwrap_err().to_string().contains("object store"));
    }
}
