//! `lota dlq list` and `show`: what there is, and what is wrong with it.
use std::{collections::BTreeMap, process::ExitCode};

use serde_json::{Value, json};

use super::{
    super::{
        clock,
        status::age,
        table::{Cell, Table},
        terminal::{Out, Paint, Tone, cut, note, plain, short},
    },
    difference,
    fingerprint::PREFIX,
    found::{Found, Hand},
};
use crate::home::Home;

/// Letters of a group that `show` names.
const NAMED_MAX: usize = 20;

pub(super) async fn list(home: &Home, bot: Option<&str>, as_json: bool) -> anyhow::Result<ExitCode> {
    let hand = Hand::take(home, bot).await?;
    let mut out = Out::stdout();
    let bots = by_bot(&hand.letters);
    if as_json {
        let value: Vec<Value> = bots.iter().map(|(bot, letters)| as_value(bot, letters, &hand)).collect();
        out.json(&Value::Array(value))?;
    } else if bots.is_empty() {
        out.line("no dead letters")?;
    } else {
        for (bot, letters) in &bots {
            let total = letters.len() + unseen(&hand, bot);
            out.line(&format!("{bot}: {total} dead {}", if total == 1 { "letter" } else { "letters" }))?;
            let lines = table(letters).lines(out.paint);
            out.lines(&lines.into_iter().map(|line| format!("  {line}")).collect::<Vec<_>>())?;
        }
        out.line(&out.paint.dim("  lota dlq show fp-… shows a group; edit, retry and discard deal with it"))?;
    }
    tell_unseen(&hand);
    hand.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn by_bot(letters: &[Found]) -> BTreeMap<&str, Vec<&Found>> {
    let mut bots: BTreeMap<&str, Vec<&Found>> = BTreeMap::new();
    for found in letters {
        bots.entry(&found.about.bot).or_default().push(found);
    }
    bots
}

/// Groups, the largest first.
fn groups<'a>(letters: &[&'a Found]) -> Vec<Vec<&'a Found>> {
    let mut groups: BTreeMap<&str, Vec<&Found>> = BTreeMap::new();
    for found in letters {
        groups.entry(&found.about.fingerprint).or_default().push(found);
    }
    let mut groups: Vec<Vec<&Found>> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    groups
}

fn unseen(hand: &Hand, bot: &str) -> usize {
    hand.unseen.iter().filter(|(of, _)| of == bot).map(|(_, n)| *n as usize).sum()
}

pub(super) fn tell_unseen(hand: &Hand) {
    for (bot, n) in &hand.unseen {
        note(&format!("{n} more letters of {bot} were not looked at: deal with these first, or name one bot"));
    }
}

/// What members of a group have in common, or the first of them and how many others.
fn common<'a>(group: &[&'a Found], of: impl Fn(&'a Found) -> &'a str) -> String {
    let mut all: Vec<&str> = group.iter().map(|found| of(found)).collect();
    all.sort_unstable();
    all.dedup();
    match all.as_slice() {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    }
}

fn publisher(found: &Found) -> &str {
    found.about.publisher.as_deref().unwrap_or("unproven")
}

/// The times of the first and the last.
fn span<'a>(group: &[&'a Found]) -> (&'a str, &'a str) {
    let times = || group.iter().map(|found| found.why.at.as_str()).filter(|at| !at.is_empty());
    (times().min().unwrap_or_default(), times().max().unwrap_or_default())
}

fn table(letters: &[&Found]) -> Table {
    let mut table = Table::new(&["GROUP", "N", "CODE", "TYPE", "OF", "FIRST", "LAST", "WHY"]);
    for group in groups(letters) {
        let (Some(any), (first, last)) = (group.first(), span(&group)) else { continue };
        let of = common(&group, publisher);
        let tone = if group.iter().all(|found| found.is_proven()) { Tone::Plain } else { Tone::Warn };
        table.row(vec![
            any.about.fingerprint.as_str().into(),
            Cell::figure(group.len().to_string()),
            Cell::toned(cut(&any.about.code, 30), Tone::Bad),
            cut(&common(&group, |found| found.about.message_type.as_deref().unwrap_or("-")), 40).into(),
            Cell::toned(cut(&of, 40), tone),
            age(first, clock::now()).into(),
            age(last, clock::now()).into(),
            cut(&any.normalised, 120).into(),
        ]);
    }
    table
}

fn as_value(bot: &str, letters: &[&Found], hand: &Hand) -> Value {
    let group = |group: &Vec<&Found>| {
        let (first, last) = span(group);
        let of = group.first();
        json!({
            "fingerprint": of.map(|f| &f.about.fingerprint), "count": group.len(), "code": of.map(|f| &f.about.code),
            "error": of.map(|f| &f.normalised), "first": first, "last": last,
            "letters": group.iter().map(|found| found.json()).collect::<Vec<_>>(),
        })
    };
    let groups: Vec<Value> = groups(letters).iter().map(group).collect();
    let unseen = unseen(hand, bot);
    json!({"bot": bot, "count": letters.len() + unseen, "not_looked_at": unseen, "groups": groups})
}

pub(super) async fn show(home: &Home, which: &str, bot: Option<&str>, as_json: bool) -> anyhow::Result<ExitCode> {
    let hand = Hand::take(home, bot).await?;
    let chosen: Vec<&Found> = hand.choose(&[which.to_owned()])?.into_iter().map(|i| &hand.letters[i]).collect();
    let mut out = Out::stdout();
    if as_json {
        out.json(&Value::Array(chosen.iter().map(|found| in_full_json(found)).collect()))?;
    } else {
        if chosen.len() > 1 {
            out.line(&format!("{} letters: {}", chosen.len(), cut(&chosen[0].normalised, 300)))?;
            for found in chosen.iter().take(NAMED_MAX) {
                let of = format!("{} of {}", found.about.bot, publisher(found));
                out.line(&format!("  {}  {}  {of}", cut(found.name(), 128), age(&found.why.at, clock::now())))?;
            }
            if chosen.len() > NAMED_MAX {
                out.line(&format!("  and {} more", chosen.len() - NAMED_MAX))?;
            }
            out.line("")?;
        }
        // Of a group the newest stands for all; others may be of another making, and are shown one by one.
        let shown = if which.starts_with(PREFIX) { &chosen[chosen.len() - 1..] } else { &chosen[..] };
        for found in shown {
            out.lines(&in_full(found, out.paint))?;
        }
    }
    hand.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn in_full_json(found: &Found) -> Value {
    let body: Value = serde_json::from_slice(&found.letter.body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&found.letter.body).into_owned()));
    let differences = difference::of_body(&found.letter.body, &found.about.bot);
    let mut value = found.json();
    value["headers"] = json!(found.letter.properties.headers);
    value["body"] = body;
    value["differences"] = differences.iter().map(difference::Difference::json).collect();
    value
}

fn in_full(found: &Found, paint: Paint) -> Vec<String> {
    let (about, why) = (&found.about, &found.why);
    let event_type = about.message_type.as_deref().unwrap_or("a message");
    let mut lines = vec![
        format!("{} {}", cut(event_type, 100), cut(found.name(), 128)),
        format!("bot     {}  group {}", about.bot, about.fingerprint),
        format!("why     {}", paint.tone(Tone::Bad, &cut(&format!("{} {}", why.code, why.error), 1100))),
    ];
    lines.push(match &found.letter.given_up {
        None => format!("of      {}", cut(publisher(found), 64)),
        Some(broker) => {
            let source = found.envelope().map_or_else(|| "nobody".to_owned(), |e| e.source.to_string());
            let told = format!(
                "unproven: the broker gave it up, and its headers are the publisher's own. It says to be of {}, and to have \
                 come by {}; `lota dlq retry --as` vouches for one",
                cut(&source, 64),
                if broker.exchange.is_empty() { "an unknown exchange".to_owned() } else { cut(&broker.exchange, 128) },
            );
            format!("of      {}", paint.tone(Tone::Warn, &told))
        }
    });
    let attempts = why.attempts.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let last = if why.at.is_empty() { "at an unknown time" } else { &why.at };
    lines.push(format!("tried   {attempts} times; last {}", plain(last)));
    let differences = difference::of_body(&found.letter.body, &about.bot);
    if differences.is_empty() {
        lines.push("schema  the envelope and its data fit".to_owned());
    }
    lines.extend(differences.iter().map(|d| format!("schema  {}", paint.tone(Tone::Warn, &cut(&d.line(), 1000)))));
    lines.push(String::new());
    let headers = found.letter.properties.headers.iter().filter(|(name, _)| !name.starts_with("x-lota-error"));
    lines.extend(headers.map(|(name, value)| paint.dim(&cut(&format!("{name}: {value}"), 300))));
    let text = String::from_utf8_lossy(&found.letter.body);
    let body =
        serde_json::from_slice::<Value>(&found.letter.body).map_or_else(|_| text.into_owned(), |v| format!("{v:#}"));
    lines.extend(body.lines().map(plain));
    lines.push(paint.dim(&format!("{} ({} bytes, {})", about.digest.as_str(), about.bytes, short(found.name()))));
    lines
}
