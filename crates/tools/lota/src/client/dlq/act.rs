//! `lota dlq retry` and `discard`: letters leave the queue, each after what is done with it was confirmed and put on record.
use std::{
    fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, process::ExitCode, time::Duration,
};

use anyhow::{Context, anyhow};
use bot_core::crash_point;
use bot_messages::{
    BotName, Event,
    contract::operator_name,
    message::{DeadLetterRef, MessageDiscarded, MessageReplayed},
};
use serde_json::{Value, json};

use super::{
    super::{
        operator::{Operator, Saying},
        table::{Cell, Table},
        terminal::{Out, Tone, cut, note},
    },
    Choice, DiscardArgs, RetryArgs,
    found::{Found, Hand, hex_of},
    look::tell_unseen,
};
use crate::{
    exit::{Exit, OrExit},
    home::Home,
};

/// After half an hour the broker takes back what somebody holds.
const HELD_MAX: Duration = Duration::from_secs(25 * 60);

/// The letters that were chosen.
async fn take(home: &Home, choice: &Choice) -> anyhow::Result<(Hand, Vec<usize>)> {
    let hand = Hand::take(home, choice.bot.as_deref()).await?;
    let chosen = if choice.all { (0..hand.letters.len()).collect() } else { hand.choose(&choice.which)? };
    tell_unseen(&hand);
    Ok((hand, chosen))
}

pub(super) async fn retry(home: &Home, args: RetryArgs) -> anyhow::Result<ExitCode> {
    let vouched = args.vouched.as_deref().map(str::parse::<BotName>).transpose().or_exit(Exit::Usage)?;
    let (hand, chosen) = take(home, &args.choice).await?;
    let mut out = Out::stdout();
    let planned: Vec<(&Found, Result<String, String>)> =
        chosen.iter().map(|i| &hand.letters[*i]).map(|found| (found, publisher(found, vouched.as_ref()))).collect();
    if args.choice.dry_run {
        let rows = planned.iter().map(|(found, of)| (*found, of.clone().unwrap_or_else(|why| format!("not: {why}"))));
        would(&mut out, "retry", rows.collect())?;
        hand.close().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let operator = Operator::connect(home).await.or_exit(Exit::Unavailable)?;
    let (begun, mut done, mut kept) = (tokio::time::Instant::now(), 0, 0);
    for (found, of) in &planned {
        let of = match of {
            Ok(of) => of,
            Err(why) => {
                note(&format!("{} stays: {why}", cut(found.name(), 128)));
                kept += 1;
                continue;
            }
        };
        if let Some(pause) = args.rate.filter(|_| done > 0) {
            tokio::time::sleep(pause).await;
        }
        if begun.elapsed() > HELD_MAX {
            kept += 1;
            continue;
        }
        let sent = replay(&operator, found, of, &args).await;
        sent.with_context(|| format!("{done} letters were retried; {} was not: it stays", cut(found.name(), 128)))?;
        done += 1;
    }
    operator.close().await;
    finish(&mut out, hand, "retried", done, kept).await
}

/// As whom a letter is sent again; why not, where it is not.
fn publisher(found: &Found, vouched: Option<&BotName>) -> Result<String, String> {
    if let Some(proven) = found.letter.publisher() {
        return Ok(proven.to_owned());
    }
    let source = found.envelope().map(|e| e.source.slug());
    match (vouched.map(BotName::slug), source) {
        (None, _) => {
            Err("nothing proves who said it: `lota dlq show` it, then vouch for its publisher with --as".to_owned())
        }
        (Some(_), None) => Err("it names no publisher that anyone could vouch for; edit it".to_owned()),
        (Some(vouched), Some(source)) if vouched == source => Ok(vouched),
        (Some(vouched), Some(source)) => Err(format!("it says to be of {source}, and you vouch for {vouched}")),
    }
}

/// The copy, the record, and only then the letter. A crash in between sends the same copy again, with the same number.
async fn replay(operator: &Operator, found: &Found, publisher: &str, args: &RetryArgs) -> anyhow::Result<()> {
    operator.send(&found.letter.replay(&operator_name(), publisher)).await?;
    crash_point("dlq: copy confirmed");
    let replayed = MessageReplayed {
        letter: DeadLetterRef { publisher: Some(publisher.to_owned()), ..found.about.clone() },
        replay: found.letter.next_replay(),
        vouched_for: !found.is_proven(),
        by: args.by.name.clone(),
        reason: args.reason.clone(),
    };
    record(operator, found, &replayed).await?;
    settle(found).await
}

/// Says what is done with a letter; the same record has the same id.
pub(super) async fn record<E: Event>(operator: &Operator, found: &Found, event: &E) -> anyhow::Result<()> {
    let envelope = found.envelope();
    let names = json!([
        E::TYPE,
        found.about.bot,
        found.about.message_id,
        found.about.digest,
        found.letter.next_replay(),
        found.why.at,
    ]);
    let saying = Saying {
        event_type: E::TYPE.to_owned(),
        data: serde_json::to_value(event)?,
        id: Some(format!("record-{}", &hex_of(names.to_string().as_bytes())[..32])),
        correlation_id: envelope.as_ref().map(|e| e.correlation_id.clone().unwrap_or_else(|| e.id.clone())),
        to: None,
        caused_by: envelope.map(|e| e.id),
    };
    operator.say(saying).await?;
    crash_point("dlq: record confirmed");
    Ok(())
}

pub(super) async fn settle(found: &Found) -> anyhow::Result<()> {
    let settled = found.letter.settle().await;
    settled
        .map_err(|why| anyhow!("the letter is still there ({why}): give the command again, it has no second effect"))?;
    crash_point("dlq: settled");
    Ok(())
}

pub(super) async fn discard(home: &Home, args: DiscardArgs) -> anyhow::Result<ExitCode> {
    if args.reason.trim().is_empty() {
        return Err(Exit::Usage.of(anyhow!("--reason is empty: expected why the letters can go, for the record")));
    }
    let (hand, chosen) = take(home, &args.choice).await?;
    let mut out = Out::stdout();
    let letters: Vec<&Found> = chosen.iter().map(|i| &hand.letters[*i]).collect();
    if args.choice.dry_run {
        would(&mut out, "discard", letters.iter().map(|found| (*found, String::new())).collect())?;
        hand.close().await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &args.export {
        export(file, &letters).with_context(|| format!("nothing was discarded: cannot write {}", file.display()))?;
    }
    let operator = Operator::connect(home).await.or_exit(Exit::Unavailable)?;
    let mut done = 0;
    for found in &letters {
        let discarded = MessageDiscarded {
            letter: found.about.clone(),
            exported: args.export.is_some(),
            by: args.by.name.clone(),
            reason: args.reason.clone(),
        };
        let gone = async {
            record(&operator, found, &discarded).await?;
            settle(found).await
        };
        gone.await.with_context(|| format!("{done} letters were discarded; {} was not", cut(found.name(), 128)))?;
        done += 1;
    }
    operator.close().await;
    finish(&mut out, hand, "discarded", done, 0).await
}

/// A line of JSON for each, on the disk when this returns.
fn export(file: &Path, letters: &[&Found]) -> anyhow::Result<()> {
    let mut open = OpenOptions::new().create(true).append(true).mode(0o600).open(file)?;
    for found in letters {
        let mut value = found.json();
        value["properties"] = serde_json::to_value(&found.letter.properties)?;
        match std::str::from_utf8(&found.letter.body) {
            Ok(text) => value["body"] = text.into(),
            Err(_) => {
                let hex: Vec<String> = found.letter.body.iter().map(|byte| format!("{byte:02x}")).collect();
                value["body_hex"] = Value::String(hex.concat());
            }
        }
        writeln!(open, "{value}")?;
    }
    open.sync_all()?;
    Ok(())
}

fn would(out: &mut Out, what: &str, rows: Vec<(&Found, String)>) -> anyhow::Result<()> {
    out.line(&format!("would {what} {}:", letters(rows.len())))?;
    let mut table = Table::new(&["BOT", "GROUP", "ID", "CODE", "AS"]);
    for (found, of) in rows {
        table.row(vec![
            found.about.bot.as_str().into(),
            found.about.fingerprint.as_str().into(),
            cut(found.name(), 128).into(),
            Cell::toned(cut(&found.about.code, 30), Tone::Bad),
            cut(&of, 200).into(),
        ]);
    }
    Ok(out.lines(&table.lines(out.paint).into_iter().map(|line| format!("  {line}")).collect::<Vec<_>>())?)
}

fn letters(n: usize) -> String {
    format!("{n} {}", if n == 1 { "letter" } else { "letters" })
}

async fn finish(out: &mut Out, hand: Hand, what: &str, done: usize, kept: usize) -> anyhow::Result<ExitCode> {
    // Before the report: what was settled is gone once the session ended in order.
    hand.close().await?;
    out.line(&format!("{what} {}", letters(done)))?;
    if kept > 0 {
        note(&format!(
            "{} still there",
            if kept == 1 { "1 letter is".to_owned() } else { format!("{kept} letters are") }
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
