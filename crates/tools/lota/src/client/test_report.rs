//! `lota tests`: how a repository's tests went so far. TestBot is asked, and answers.
use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use bot_core::Envelope;
use bot_messages::{
    Event, keys,
    test::{TestHistory, TestReportKind, TestReportRequested, TestReported},
};
use tokio::time::Instant;

use super::{
    operator::{self, Operator, Said, Saying},
    table::{Cell, Table},
    terminal::{Out, Paint, Tone, plain, seen_enough, took},
};
use crate::home::Home;

const TEST_BOT: &str = "TestBot";
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// A test that takes this much longer than before is pointed out.
const SLOWER_PERCENT: u64 = 150;

/// What `lota tests` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TestsArgs {
    /// As in `lota push`, such as `shop/api`
    repository: String,
    /// Those that failed and then passed without a change, the most often flaky first
    #[arg(long, conflicts_with = "slow")]
    flaky: bool,
    /// The slowest first
    #[arg(long)]
    slow: bool,
    /// How many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// The whole answer as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(home: &Home, args: TestsArgs) -> anyhow::Result<ExitCode> {
    let kind = match (args.flaky, args.slow) {
        (true, _) => TestReportKind::Flaky,
        (_, true) => TestReportKind::Slow,
        _ => TestReportKind::All,
    };
    let ask = TestReportRequested { repository: args.repository, kind, limit: Some(args.limit) };
    let reported = ask_for(home, &ask).await?;
    seen_enough(show(&reported, args.json).map_err(Into::into))
}

async fn ask_for(home: &Home, ask: &TestReportRequested) -> anyhow::Result<TestReported> {
    let mut answers = operator::watch(home, keys::EVENTS, &[TestReported::TYPE]).await?;
    let operator = Operator::connect(home).await?;
    let saying = Saying {
        event_type: TestReportRequested::TYPE.to_owned(),
        data: serde_json::to_value(ask)?,
        to: Some(TEST_BOT.parse()?),
        ..Saying::default()
    };
    let said = operator.say(saying).await;
    operator.close().await;
    let said = said?;
    let until = Instant::now() + REPLY_LIMIT;
    while let Ok(Some(seen)) = tokio::time::timeout_at(until, answers.recv()).await {
        if let Some(answer) = answer_to(&seen.body, &said) {
            return Ok(answer);
        }
    }
    bail!("{TEST_BOT} did not answer within {} s: is it running? `lota status` tells", REPLY_LIMIT.as_secs())
}

fn answer_to(body: &[u8], said: &Said) -> Option<TestReported> {
    let envelope = Envelope::decode(body).ok()?;
    let is_answer = envelope.source.as_str() == TEST_BOT
        && envelope.event_type == TestReported::TYPE
        && envelope.correlation_id.as_deref() == Some(said.correlation_id.as_str());
    is_answer.then(|| serde_json::from_value(envelope.data).ok())?
}

fn show(reported: &TestReported, as_json: bool) -> std::io::Result<ExitCode> {
    let mut out = Out::stdout();
    if as_json {
        out.json(&serde_json::to_value(reported).unwrap_or_default())?;
    } else {
        out.lines(&told(reported, out.paint))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn told(reported: &TestReported, paint: Paint) -> Vec<String> {
    let repository = plain(&reported.repository);
    if reported.tests.is_empty() {
        let which = match reported.kind {
            _ if reported.known == 0 => {
                return vec![format!("no test of {repository} is known: none ran since TestBot remembers")];
            }
            TestReportKind::Flaky => "none was flaky",
            TestReportKind::Slow => "no report says how long one took",
            TestReportKind::All => "none is told",
        };
        return vec![format!("{} tests of {repository} are known, {which}", reported.known)];
    }
    let mut table = Table::new(&["runs", "failed", "flaky", "takes", "before", "test"]);
    for test in &reported.tests {
        table.row(row(test));
    }
    table.lines(paint)
}

fn row(test: &TestHistory) -> Vec<Cell> {
    let time = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), took);
    let is_slower = |(recent, earlier): (u64, u64)| recent * 100 > earlier.max(1) * SLOWER_PERCENT;
    let tone = if test.failed > 0 {
        Tone::Bad
    } else if test.flaky > 0 || test.recent_ms.zip(test.earlier_ms).is_some_and(is_slower) {
        Tone::Warn
    } else {
        Tone::Plain
    };
    vec![
        Cell::figure(test.runs.to_string()),
        Cell::figure(test.failed.to_string()),
        Cell::figure(if test.flaky == 0 {
            "-".to_owned()
        } else {
            format!("{} ({:.1} %)", test.flaky, test.flaky_percent)
        }),
        Cell::figure(time(test.recent_ms)),
        Cell::figure(time(test.earlier_ms)),
        Cell::toned(format!("{}::{}", plain(&test.suite), plain(&test.name)), tone),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_reads_well() {
        let mut reported = TestReported::example();
        let lines = told(&reported, Paint::NONE);
        assert_eq!(lines.len(), 2);
        for word in ["40", "3 (7.5 %)", "310 ms", "120 ms", "unit::tests::once"] {
            assert!(lines[1].contains(word), "{lines:?}");
        }
        reported.tests.clear();
        assert_eq!(told(&reported, Paint::NONE), ["214 tests of shop/api are known, none was flaky"]);
        reported.known = 0;
        assert!(told(&reported, Paint::NONE)[0].starts_with("no test of shop/api is known"));
    }

    #[test]
    fn only_test_bots_answer_to_this_question_counts() {
        let said = Said { id: "m".into(), correlation_id: "m".into() };
        let body = |source: &str, correlation: &str| {
            json!({
                "id": "r", "timestamp": "2026-11-01T12:00:00Z", "source": source, "destination": "*",
                "type": "test.reported", "correlation_id": correlation,
                "payload": {"data": TestReported::example()},
            })
            .to_string()
        };
        assert_eq!(answer_to(body("TestBot", "m").as_bytes(), &said), Some(TestReported::example()));
        assert_eq!(answer_to(body("BuildBot", "m").as_bytes(), &said), None);
        assert_eq!(answer_to(body("TestBot", "x").as_bytes(), &said), None);
    }
}
