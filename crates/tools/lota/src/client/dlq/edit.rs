//! `lota dlq edit`: the operator says something else to the bot in a letter's place.
#![allow(clippy::disallowed_methods, reason = "starts the editor that the person at this terminal has named")]
use std::{
    env,
    io::{self, IsTerminal as _, Read as _},
    process::{Command, ExitCode},
};

use anyhow::{Context, anyhow, bail};
use bot_core::{BODY_BYTES_MAX, Destination, Envelope, crash_point};
use bot_messages::{catalogue, contract::operator_name, is_event_type, message::MessageEdited};
use serde_json::{Value, json};

use super::{
    super::{
        clock,
        operator::Operator,
        terminal::{Out, Tone, cut, note, short},
    },
    EditArgs,
    act::{record, settle},
    difference,
    found::{Found, Hand, hex_of},
};
use crate::{
    exit::{Exit, OrExit},
    home::Home,
};

pub(super) async fn edit(home: &Home, args: EditArgs) -> anyhow::Result<ExitCode> {
    let hand = Hand::take(home, args.bot.as_deref()).await?;
    let found = match hand.choose(std::slice::from_ref(&args.which))?.as_slice() {
        [one] => &hand.letters[*one],
        several => {
            let n = several.len();
            return Err(Exit::Usage.of(anyhow!("`{}` names {n} letters, and one is edited at a time: give its id or digest, and --bot where several bots have it", args.which)));
        }
    };
    let event_type = event_type(found, args.event_type.as_deref())?;
    let before = data_of(found);
    let after = edited(&args, &before)?;
    let mut out = Out::stdout();
    let changed = difference::changed(&before, &after);
    if changed.is_empty() && found.about.message_type.as_deref() == Some(&event_type) && found.envelope().is_some() {
        hand.close().await?;
        out.line("nothing was changed: the letter stays; `lota dlq retry` sends it as it is")?;
        return Ok(ExitCode::SUCCESS);
    }
    let differences = difference::of_data(&event_type, &after);
    for pointer in &changed {
        out.line(&change(pointer, &before, &after))?;
    }
    for wrong in &differences {
        out.line(&format!("schema  {}", out.paint.tone(Tone::Warn, &cut(&wrong.line(), 1000))))?;
    }
    if !differences.is_empty() && !args.force {
        let why =
            "it does not fit its schema, as told above, so the bot would refuse it again; --force says it all the same";
        return Err(Exit::Data.of(anyhow!("nothing was said, and the letter stays: {why}")));
    }
    let envelope = envelope(found, &event_type, after);
    if envelope.encode().len() > BODY_BYTES_MAX {
        bail!("the message would have more than {BODY_BYTES_MAX} bytes: larger things go to the object store");
    }
    if args.dry_run {
        hand.close().await?;
        out.line(&format!("would say {} {} to {}", envelope.event_type, envelope.id, args.which))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(home, found, &envelope, changed, &args).await?;
    let bot = found.about.bot.clone();
    hand.close().await?;
    out.line(&format!("said {} to {bot} in the letter's place", envelope.id))?;
    let correlation = envelope.correlation_id.unwrap_or(envelope.id);
    out.line(&out.paint.dim(&format!("  lota show {} tells what came of it", cut(&short(&correlation), 128))))?;
    Ok(ExitCode::SUCCESS)
}

async fn say(
    home: &Home,
    found: &Found,
    envelope: &Envelope,
    changed: Vec<String>,
    args: &EditArgs,
) -> anyhow::Result<()> {
    let operator = Operator::connect(home).await.or_exit(Exit::Unavailable)?;
    operator.send(&found.letter.instead(&operator_name(), envelope, found.about.message_id.as_deref())).await?;
    crash_point("dlq: edit confirmed");
    let edited = MessageEdited {
        letter: found.about.clone(),
        new_id: envelope.id.clone(),
        changed,
        by: args.by.name.clone(),
        reason: args.reason.clone(),
    };
    record(&operator, found, &edited).await?;
    settle(found).await?;
    operator.close().await;
    Ok(())
}

fn event_type(found: &Found, given: Option<&str>) -> anyhow::Result<String> {
    let event_type = given.or(found.about.message_type.as_deref()).unwrap_or_default();
    if is_event_type(event_type) && catalogue::find(event_type).is_some() {
        return Ok(event_type.to_owned());
    }
    let told = if event_type.is_empty() { "none".to_owned() } else { format!("`{}`", cut(event_type, 100)) };
    Err(Exit::Usage
        .of(anyhow!("the letter's type is {told}: name one that the bot hears with --type, such as build.completed")))
}

/// The `payload.data` of the letter, as far as there is one.
fn data_of(found: &Found) -> Value {
    let body: Value = serde_json::from_slice(&found.letter.body).unwrap_or_default();
    body.pointer("/payload/data").cloned().unwrap_or_else(|| json!({}))
}

/// What is said instead. Its id is that of the same edit of the same letter, so that one that is said twice has one effect.
fn envelope(found: &Found, event_type: &str, data: Value) -> Envelope {
    let before = found.envelope();
    let names =
        json!([found.about.bot, found.about.digest, found.letter.next_replay(), found.why.at, event_type, data]);
    let destination = before.as_ref().map(|e| e.destination.clone());
    let destination = match destination {
        Some(Destination::Bot(bot)) if bot.slug() == found.about.bot => Destination::Bot(bot),
        _ => Destination::Everyone,
    };
    let correlation_id = before.and_then(|e| e.correlation_id).or_else(|| found.about.message_id.clone());
    Envelope {
        id: format!("edited-{}", &hex_of(names.to_string().as_bytes())[..32]),
        timestamp: clock::now(),
        source: operator_name(),
        destination,
        event_type: event_type.to_owned(),
        data,
        priority: catalogue::find(event_type).map(|entry| entry.priority).unwrap_or_default(),
        correlation_id: correlation_id.filter(|id| (1..=128).contains(&id.len())),
    }
}

fn change(pointer: &str, before: &Value, after: &Value) -> String {
    let shown = |value: &Value| value.pointer(pointer).map_or_else(|| "none".to_owned(), |v| cut(&v.to_string(), 120));
    format!("data{}: {} → {}", pointer.replace('/', "."), shown(before), shown(after))
}

fn edited(args: &EditArgs, before: &Value) -> anyhow::Result<Value> {
    if let Some(file) = &args.file {
        let text = if file == "-" {
            let mut text = String::new();
            io::stdin().lock().take(BODY_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
            text
        } else {
            std::fs::read_to_string(file).with_context(|| format!("--file: cannot read {file}"))?
        };
        return serde_json::from_str(&text).with_context(|| format!("{file} is no JSON")).or_exit(Exit::Data);
    }
    if args.set.is_empty() && args.event_type.is_none() {
        return in_editor(before);
    }
    let mut after = before.clone();
    for assignment in &args.set {
        set(&mut after, assignment).or_exit(Exit::Usage)?;
    }
    Ok(after)
}

/// `steps.0.name="fmt"`
fn set(data: &mut Value, assignment: &str) -> anyhow::Result<()> {
    let (path, json) =
        assignment.split_once('=').context("--set: expected PATH=JSON, such as environment='\"local\"'")?;
    let value: Value = serde_json::from_str(json)
        .with_context(|| format!("--set {path}: `{json}` is no JSON; a text stands in quotes: {path}='\"{json}\"'"))?;
    let mut at = data;
    for part in path.split('.') {
        at = match at {
            Value::Object(map) => map.entry(part).or_insert(Value::Null),
            Value::Null => {
                *at = json!({});
                at.as_object_mut().context("an object")?.entry(part).or_insert(Value::Null)
            }
            Value::Array(list) => {
                let n = list.len();
                let index = part.parse::<usize>().ok();
                index
                    .and_then(|i| list.get_mut(i))
                    .with_context(|| format!("--set {path}: `{part}` is no place in a list of {n}"))?
            }
            _ => bail!("--set {path}: what is above `{part}` is neither object nor list"),
        };
    }
    *at = value;
    Ok(())
}

fn in_editor(before: &Value) -> anyhow::Result<Value> {
    if !io::stdin().is_terminal() {
        return Err(Exit::Usage
            .of(anyhow!("nobody is at a terminal to edit it: say what is to be different with --set or --file")));
    }
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| env::var(name).ok().filter(|v| !v.trim().is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let file = tempfile::Builder::new().prefix("lota-letter-").suffix(".json").tempfile()?;
    std::fs::write(file.path(), format!("{before:#}\n"))?;
    // An editor may be several words, as `code --wait`.
    let status = Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(file.path()).status();
    let status = status.with_context(|| format!("the editor `{editor}` cannot be started: set EDITOR"))?;
    if !status.success() {
        bail!("the editor `{editor}` ended with {status}: nothing was said, and the letter stays");
    }
    let text = std::fs::read_to_string(file.path())?;
    serde_json::from_str(&text).map_err(|e| {
        // What was typed should not be lost with a comma.
        match file.keep() {
            Ok((_, path)) => note(&format!("your text is in {}: mend it, and give it with --file", path.display())),
            Err(e) => note(&format!("your text could not be kept: {e}")),
        }
        Exit::Data.of(anyhow!("what the editor left is no JSON ({e}): nothing was said, and the letter stays"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_set_by_their_path() {
        let mut data = json!({"a": {"b": [1, {"c": 2}]}, "n": 1});
        for assignment in ["a.b.1.c=\"x\"", "new.deep=true", "n=null"] {
            set(&mut data, assignment).unwrap();
        }
        assert_eq!(data, json!({"a": {"b": [1, {"c": "x"}]}, "n": null, "new": {"deep": true}}));
        for (assignment, part) in
            [("a", "PATH=JSON"), ("a=x", "in quotes"), ("a.b.9=1", "list of 2"), ("a.b.0.z=1", "neither")]
        {
            let error = format!("{:#}", set(&mut data, assignment).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }
}
