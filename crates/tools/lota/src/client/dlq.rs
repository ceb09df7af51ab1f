//! `lota dlq`: looking at dead letters. Looking puts them back where they were; nothing here takes one away.
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use bot_core::Envelope;
use bot_messages::{BotName, catalogue, keys};
use bot_provision::{Management, MessageGot, QueueInfo};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    clock,
    status::age,
    table::{Cell, Table},
    terminal::{Out, Paint, Tone, cut, plain, seen_enough, short},
};
use crate::home::Home;

/// A queue can only be looked at from its beginning, and each body may have 256 KiB: more are not fetched at once.
const LOOK_MAX: u32 = 200;
const DEAD: &str = ".dead";
const HEADERS: [&str; 5] =
    ["x-lota-error-code", "x-lota-error-message", "x-lota-error-bot", "x-lota-error-attempts", "x-lota-error-time"];

/// What `lota dlq` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// How many there are, and the newest
    List {
        /// Only this bot's
        bot: Option<String>,
        /// Of each bot, at most so many
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=200))]
        limit: u16,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// One letter: its headers, why it is dead, its body, and the field that is wrong
    Show {
        /// Such as `BuildBot` or `build-bot`
        bot: String,
        /// The message's id (or its beginning), or its number in the list
        #[arg(value_name = "ID|N")]
        which: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(home: &Home, args: DlqArgs) -> anyhow::Result<ExitCode> {
    home.fleet()?;
    let management = home.management()?;
    seen_enough(match args.what {
        What::List { bot, limit, json } => list(&management, bot.as_deref(), limit.into(), json).await,
        What::Show { bot, which, json } => show(&management, &bot, &which, json).await,
    })
}

/// One dead letter, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq)]
struct Letter {
    /// Its place in the queue from 1; the oldest is the first.
    number: usize,
    id: String,
    event_type: String,
    publisher: String,
    code: String,
    error: String,
    at: String,
    attempts: String,
}

fn header(got: &MessageGot, name: &str) -> String {
    match got.properties.get("headers").and_then(|h| h.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn letter(number: usize, got: &MessageGot) -> Letter {
    let body: Value = serde_json::from_str(&got.payload).unwrap_or_default();
    let property = |name: &str| got.properties.get(name).and_then(Value::as_str);
    let known = |property: Option<&str>, field: &str| {
        property.or_else(|| body.get(field).and_then(Value::as_str)).unwrap_or_default().to_owned()
    };
    let publisher = Some(header(got, "x-lota-publisher")).filter(|p| !p.is_empty());
    let [code, error, _, attempts, at] = HEADERS.map(|name| header(got, name));
    // The broker's own dead-lettering (too many deliveries) leaves only its history.
    let history = got.properties.get("headers").and_then(|h| h.pointer("/x-death/0/reason")).and_then(Value::as_str);
    Letter {
        number,
        id: known(property("message_id"), "id"),
        event_type: known(property("type"), "type"),
        publisher: publisher.unwrap_or_else(|| known(None, "source")),
        code: if code.is_empty() { history.unwrap_or("-").to_owned() } else { code },
        error: if error.is_empty() {
            history.map_or(String::new(), |h| format!("dead-lettered by the broker: {h}"))
        } else {
            error
        },
        at,
        attempts,
    }
}

/// The newest first, at most so many.
fn newest(got: &[MessageGot], limit: usize) -> Vec<Letter> {
    got.iter().enumerate().rev().take(limit).map(|(i, m)| letter(i + 1, m)).collect()
}

async fn list(management: &Management, bot: Option<&str>, limit: usize, as_json: bool) -> anyhow::Result<ExitCode> {
    let queues = management.queues(keys::VHOST).await?;
    let wanted = bot.map(|b| queue_of(&queues, b)).transpose()?;
    let mut dead: Vec<&QueueInfo> =
        queues.iter().filter(|q| q.name.ends_with(DEAD) && wanted.as_deref().is_none_or(|w| w == q.name)).collect();
    dead.sort_by(|a, b| a.name.cmp(&b.name));
    let mut out = Out::stdout();
    let mut all = Vec::new();
    for queue in dead {
        // The figure may be 5 s old, and a letter that is not counted yet is one all the same.
        let got = management.peek(keys::VHOST, &queue.name, LOOK_MAX).await?;
        let last = got.last().map_or(0, |m| m.message_count);
        let total = got.len() as u64 + last;
        let letters = newest(&got, limit);
        if as_json {
            all.push(json!({"bot": bot_of(&queue.name), "count": total, "letters": letters.iter().map(as_value).collect::<Vec<_>>()}));
        } else if total > 0 {
            out.line(&format!(
                "{}: {total} dead {}",
                bot_of(&queue.name),
                if total == 1 { "letter" } else { "letters" }
            ))?;
            if last > 0 {
                out.line(&out.paint.dim(&format!(
                    "  the newest of the oldest {LOOK_MAX}: a queue can only be looked at from its beginning"
                )))?;
            }
            out.lines(&table(&letters).lines(out.paint).into_iter().map(|l| format!("  {l}")).collect::<Vec<_>>())?;
            all.push(Value::Null);
        }
    }
    if as_json {
        out.json(&Value::Array(all))?;
    } else if all.is_empty() {
        out.line("no dead letters")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn as_value(l: &Letter) -> Value {
    json!({
        "number": l.number, "id": l.id, "type": l.event_type, "publisher": l.publisher, "code": l.code, "error": l.error,
        "at": l.at, "attempts": l.attempts.parse::<u64>().ok(),
    })
}

fn table(letters: &[Letter]) -> Table {
    let mut table = Table::new(&["N", "CODE", "TYPE", "ID", "OF", "WHEN", "WHY"]);
    for l in letters {
        table.row(vec![
            Cell::figure(l.number.to_string()),
            Cell::toned(cut(&l.code, 30), Tone::Bad),
            cut(&l.event_type, 40).into(),
            short(&l.id).into(),
            cut(&l.publisher, 40).into(),
            age(&l.at, clock::now()).into(),
            cut(&l.error, 120).into(),
        ]);
    }
    table
}

async fn show(management: &Management, bot: &str, which: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let queue = queue_of(&management.queues(keys::VHOST).await?, bot)?;
    let got = management.peek(keys::VHOST, &queue, LOOK_MAX).await?;
    let index = pick(&got, which)?;
    let message = &got[index];
    let wrong = complaint(message);
    let mut out = Out::stdout();
    if as_json {
        let body: Value =
            serde_json::from_str(&message.payload).unwrap_or_else(|_| Value::String(message.payload.clone()));
        out.json(&json!({"letter": as_value(&letter(index + 1, message)), "properties": message.properties, "body": body, "complaint": wrong}))?;
    } else {
        out.lines(&in_full(index + 1, message, wrong.as_deref(), out.paint))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn bot_of(queue: &str) -> &str {
    queue.strip_suffix(DEAD).unwrap_or(queue)
}

fn queue_of(queues: &[QueueInfo], bot: &str) -> anyhow::Result<String> {
    let wanted = keys::dead_queue(&bot.parse::<BotName>()?.slug());
    if queues.iter().any(|q| q.name == wanted) {
        return Ok(wanted);
    }
    let mut known: Vec<&str> = queues.iter().filter(|q| q.name.ends_with(DEAD)).map(|q| bot_of(&q.name)).collect();
    known.sort_unstable();
    Err(anyhow!("no bot {bot} is in this fleet (NOT_REGISTERED): expected one of {}", known.join(", ")))
}

/// By number, by id, or by the beginning of only one id.
fn pick(got: &[MessageGot], which: &str) -> anyhow::Result<usize> {
    let ids: Vec<String> = got.iter().enumerate().map(|(i, m)| letter(i + 1, m).id).collect();
    if let Some(index) = ids.iter().position(|id| id == which) {
        return Ok(index);
    }
    if let Ok(number) = which.parse::<usize>()
        && (1..=got.len()).contains(&number)
    {
        return Ok(number - 1);
    }
    let fits: Vec<usize> = (0..ids.len()).filter(|i| !which.is_empty() && ids[*i].starts_with(which)).collect();
    match fits.as_slice() {
        [only] => Ok(*only),
        [] => bail!("no letter `{which}` is among the first {}: `lota dlq list` numbers them", got.len()),
        [first, ..] => bail!(
            "`{which}` fits {} letters, such as number {} and {}: give more of the id",
            fits.len(),
            first + 1,
            fits[1] + 1
        ),
    }
}

/// What envelope or schema say is wrong with it, now and here: the bot may have had other reasons.
fn complaint(got: &MessageGot) -> Option<String> {
    if got.payload_encoding == "base64" {
        return Some("the body is no UTF-8".to_owned());
    }
    let envelope = match Envelope::decode(got.payload.as_bytes()) {
        Ok(envelope) => envelope,
        Err(e) => return Some(format!("{e} ({})", e.code.as_str())),
    };
    match catalogue::find(&envelope.event_type) {
        None => Some(format!("no message of this release has the type `{}`", envelope.event_type)),
        Some(entry) => (entry.check)(&envelope.data).err(),
    }
}

fn in_full(number: usize, got: &MessageGot, wrong: Option<&str>, paint: Paint) -> Vec<String> {
    let l = letter(number, got);
    let mut lines = vec![
        format!("letter {number}: {} {} of {}", cut(&l.event_type, 100), cut(&l.id, 128), cut(&l.publisher, 64)),
        format!("why     {}", paint.tone(Tone::Bad, &cut(&format!("{} {}", l.code, l.error), 1100))),
    ];
    lines.push(match wrong {
        Some(wrong) => format!("schema  {}", paint.tone(Tone::Warn, &cut(wrong, 1000))),
        None => "schema  the envelope and its data fit".to_owned(),
    });
    let attempts = if l.attempts.is_empty() { "?" } else { &l.attempts };
    lines
        .push(format!("tried   {attempts} times; last {}", if l.at.is_empty() { "at an unknown time" } else { &l.at }));
    lines.push(format!("came by {} with key {}", cut(&got.exchange, 128), cut(&got.routing_key, 255)));
    lines.push(String::new());
    let headers = got.properties.get("headers").and_then(Value::as_object).into_iter().flatten();
    let shown = headers.filter(|(name, _)| !HEADERS.contains(&name.as_str()));
    lines.extend(shown.map(|(name, value)| paint.dim(&cut(&format!("{name}: {value}"), 300))));
    let body = serde_json::from_str::<Value>(&got.payload).map_or_else(|_| got.payload.clone(), |v| format!("{v:#}"));
    lines.extend(body.lines().map(plain));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(id: &str, data: &Value) -> MessageGot {
        let body = json!({
            "id": id, "timestamp": "2026-11-01T12:00:00Z", "source": "ci", "destination": "*", "type": "deploy.requested", "payload": {"data": data},
        });
        let properties = json!({"message_id": id, "type": "deploy.requested", "headers": {
            "x-lota-error-code": "INVALID_FIELD", "x-lota-error-message": "no digest", "x-lota-error-attempts": 2,
            "x-lota-error-time": "2026-11-01T12:00:01.000Z", "x-lota-publisher": "ci",
        }});
        MessageGot {
            payload: body.to_string(),
            payload_encoding: "string".into(),
            properties: properties.as_object().cloned().unwrap(),
            ..MessageGot::default()
        }
    }

    #[test]
    fn the_newest_come_first_and_keep_their_numbers() {
        let all = [got("a1", &json!({})), got("a2", &json!({})), got("b1", &json!({}))];
        let letters = newest(&all, 2);
        assert_eq!(letters.iter().map(|l| (l.number, l.id.as_str())).collect::<Vec<_>>(), [(3, "b1"), (2, "a2")]);
        assert_eq!((letters[0].code.as_str(), letters[0].attempts.as_str()), ("INVALID_FIELD", "2"));
    }

    #[test]
    fn a_letter_is_found_by_number_id_or_beginning() {
        let all = [got("aa-1", &json!({})), got("aa-2", &json!({})), got("bb-1", &json!({}))];
        for (which, index) in [("2", 1), ("aa-2", 1), ("bb", 2)] {
            assert_eq!(pick(&all, which).unwrap(), index);
        }
        for (which, part) in [("aa", "fits 2"), ("9", "no letter"), ("", "no letter")] {
            assert!(pick(&all, which).unwrap_err().to_string().contains(part), "{which}");
        }
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        let wrong = complaint(&got("x", &json!({"environment": "a", "digest": "no"}))).unwrap();
        assert!(wrong.starts_with("`payload.data.digest`"), "{wrong}");
        let fits = (catalogue::find("deploy.requested").unwrap().example)();
        assert_eq!(complaint(&got("x", &fits)), None);
        let broken = MessageGot { payload: "{".into(), payload_encoding: "string".into(), ..MessageGot::default() };
        assert!(complaint(&broken).unwrap().ends_with("(INVALID_JSON)"));
        let told = in_full(1, &broken, Some("x"), Paint::NONE);
        assert_eq!(told.last().unwrap(), "{");
    }

    #[test]
    fn what_the_broker_itself_gave_up_is_told_as_that() {
        let mut message = got("x", &json!({}));
        message.properties.insert("headers".into(), json!({"x-death": [{"reason": "delivery_limit"}]}));
        let l = letter(1, &message);
        assert_eq!((l.code.as_str(), l.publisher.as_str()), ("delivery_limit", "ci"));
    }
}
