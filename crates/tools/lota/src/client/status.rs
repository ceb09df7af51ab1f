//! `lota status` and `lota jobs`: how the fleet is, from the monitor and the broker.
use std::{collections::BTreeMap, process::ExitCode};

use bot_messages::{BotName, keys};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    clock,
    monitor::{Monitor, count, list, text},
    show::state_tone,
    table::{Cell, Table},
    terminal::{Out, Paint, Tone, bytes, cut, note, seen_enough, short, took},
};
use crate::home::Home;

/// Correlations that the overview shows.
const RECENT: usize = 5;
/// Of so many; what bots say of themselves is not among them.
const ASKED: usize = 100;

/// What `lota status` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Everything as JSON
    #[arg(long)]
    json: bool,
}

/// What `lota jobs` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct JobsArgs {
    /// At most so many, the latest first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(home: &Home, args: StatusArgs) -> anyhow::Result<ExitCode> {
    seen_enough(status(home, &args).await)
}

pub(crate) async fn jobs(home: &Home, args: JobsArgs) -> anyhow::Result<ExitCode> {
    seen_enough(recent_jobs(home, &args).await)
}

/// What the overview is made of.
#[derive(Debug, Default)]
struct Overview {
    health: Value,
    bots: Vec<Value>,
    alerts: Vec<Value>,
    applications: Vec<Value>,
    correlations: Vec<Value>,
    /// Messages by queue; absent where the broker does not tell.
    queues: Option<BTreeMap<String, u64>>,
}

async fn status(home: &Home, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    home.fleet()?;
    let queues = depths(home).await;
    let monitor = match Monitor::of(home) {
        Ok(monitor) => monitor,
        Err(e) => return without_monitor(queues.as_ref(), &e),
    };
    let health = match monitor.ask(&["health"], &[]).await {
        Ok(answer) => answer.body,
        Err(e) => return without_monitor(queues.as_ref(), &e),
    };
    let get = async |what: &str| monitor.get(&[what], &[("limit", ASKED.to_string())]).await;
    let overview = Overview {
        health,
        bots: list(&get("bots").await?, "bots").to_vec(),
        alerts: list(&get("alerts").await?, "open").to_vec(),
        applications: list(&get("applications").await?, "applications").to_vec(),
        correlations: list(&get("correlations").await?, "correlations").to_vec(),
        queues,
    };
    let mut out = Out::stdout();
    if args.json {
        let Overview { health, bots, alerts, applications, correlations, queues } = overview;
        out.json(&json!({
            "health": health, "bots": bots, "alerts": alerts, "applications": applications, "correlations": correlations, "queues": queues,
        }))?;
    } else {
        out.lines(&told(&overview, clock::now(), out.paint))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn depths(home: &Home) -> Option<BTreeMap<String, u64>> {
    let listed = async { anyhow::Ok(home.management()?.queues(keys::VHOST).await?) };
    match listed.await {
        Ok(queues) => Some(queues.into_iter().map(|q| (q.name, q.messages.unwrap_or(0))).collect()),
        Err(e) => {
            note(&format!("queue depths are unknown: {e:#}"));
            None
        }
    }
}

/// The broker alone can still say what waits.
fn without_monitor(queues: Option<&BTreeMap<String, u64>>, why: &anyhow::Error) -> anyhow::Result<ExitCode> {
    let mut out = Out::stdout();
    note(&format!("{why:#}"));
    let waiting: Vec<(&String, &u64)> = queues.into_iter().flatten().filter(|(_, n)| **n > 0).collect();
    if queues.is_some() && waiting.is_empty() {
        out.line("the broker answers, and no message waits in it")?;
    }
    for (queue, n) in waiting {
        out.line(&format!("{n:>8}  {queue}"))?;
    }
    Ok(ExitCode::FAILURE)
}

fn told(o: &Overview, now: DateTime<Utc>, paint: Paint) -> Vec<String> {
    let overall = text(&o.health, "overall");
    let mut lines = vec![
        format!("fleet {}, score {} of 100", paint.tone(state_tone(overall), overall), count(&o.health, "score")),
        String::new(),
    ];
    if o.bots.is_empty() && unheard(o).is_empty() {
        lines.push("no bot has been heard yet".to_owned());
    } else {
        lines.extend(bots(o).lines(paint));
    }
    section(&mut lines, "alerts", o.alerts.iter().map(|a| alert(a, now, paint)).collect());
    section(&mut lines, "applications", o.applications.iter().map(|a| application(a, paint)).collect());
    let about_bots =
        |c: &Value| ["bot.", "control.", "config."].iter().any(|domain| text(c, "type").starts_with(domain));
    let recent: Vec<&Value> = o.correlations.iter().filter(|c| !about_bots(c)).take(RECENT).collect();
    if !recent.is_empty() {
        lines.push(String::new());
        lines.extend(correlations(&recent, now).lines(paint));
    }
    if let Some(unrouted) = o.queues.as_ref().and_then(|q| q.get(keys::UNROUTED_QUEUE)).filter(|n| **n > 0) {
        lines.push(String::new());
        lines.push(
            paint.tone(Tone::Warn, &format!("{unrouted} messages reached nobody (queue {})", keys::UNROUTED_QUEUE)),
        );
    }
    lines
}

fn section(lines: &mut Vec<String>, title: &str, entries: Vec<String>) {
    if !entries.is_empty() {
        lines.push(String::new());
        lines.push(title.to_owned());
        lines.extend(entries.into_iter().map(|e| format!("  {e}")));
    }
}

fn bots(o: &Overview) -> Table {
    let mut table =
        Table::new(&["BOT", "STATE", "VERSION", "QUEUE", "DEAD", "RATE/S", "ERRORS", "JOBS", "MEMORY", "UP", "WHY"]);
    for bot in &o.bots {
        let slug = text(bot, "name").parse::<BotName>().map(|n| n.slug()).unwrap_or_default();
        let depth = |queue: String| match &o.queues {
            Some(queues) => queues.get(&queue).map_or_else(|| "-".to_owned(), u64::to_string),
            None => "?".to_owned(),
        };
        let dead = depth(keys::dead_queue(&slug));
        // One that was replaced is listed for a while, and its figures are not.
        let alive = list(bot, "instances").iter().filter(|i| i.get("alive").and_then(Value::as_bool).unwrap_or(true));
        let beats: Vec<&Value> = alive.filter_map(|i| i.get("heartbeat")).collect();
        let sum = |name: &str| beats.iter().map(|h| count(h, name)).sum::<u64>();
        let figures = |name: &str| beats.iter().filter_map(|h| h.get(name)?.as_f64()).collect::<Vec<_>>();
        let latest = list(bot, "instances").iter().min_by_key(|i| count(i, "age_ms")).and_then(|i| i.get("heartbeat"));
        let state = text(bot, "state");
        let replicas = if beats.len() > 1 { format!(" x{}", beats.len()) } else { String::new() };
        let mut cells: Vec<Cell> = vec![
            cut(text(bot, "name"), 40).into(),
            Cell::toned(format!("{state}{replicas}"), state_tone(state)),
            cut(latest.map_or("", |h| text(h, "version")), 20).into(),
            Cell::figure(depth(keys::work(&slug))),
            Cell::figure(dead),
        ];
        cells.extend(
            [
                format!("{:.1}", figures("rate_per_s").iter().sum::<f64>()),
                format!("{:.0} %", figures("error_rate").into_iter().fold(0.0, f64::max) * 100.0),
                // What waits is in the store that all replicas share, and each of them tells it.
                format!(
                    "{}+{}",
                    sum("jobs_running"),
                    beats.iter().map(|h| count(h, "jobs_waiting")).max().unwrap_or(0)
                ),
                bytes(sum("rss_bytes")),
                took(latest.map_or(0, |h| count(h, "uptime_s")).saturating_mul(1000)),
            ]
            .map(Cell::figure),
        );
        cells.push(cut(text(bot, "error"), 100).into());
        table.row(cells);
    }
    for slug in unheard(o) {
        let queues = o.queues.as_ref();
        let depth = |queue: String| Cell::figure(queues.and_then(|q| q.get(&queue)).copied().unwrap_or(0).to_string());
        let mut cells: Vec<Cell> = vec![
            slug.into(),
            Cell::toned("not heard", Tone::Bad),
            "".into(),
            depth(keys::work(slug)),
            depth(keys::dead_queue(slug)),
        ];
        cells.extend([""; 5].map(Cell::figure));
        cells.push("the monitor has heard no heartbeat of it: is it running?".into());
        table.row(cells);
    }
    table
}

/// Bots that have queues and were never heard.
fn unheard(o: &Overview) -> Vec<&str> {
    let heard: Vec<String> =
        o.bots.iter().filter_map(|b| text(b, "name").parse::<BotName>().ok()).map(|n| n.slug()).collect();
    let all = o.queues.iter().flat_map(BTreeMap::keys).filter_map(|q| q.strip_suffix(".control"));
    all.filter(|slug| !heard.iter().any(|h| h == slug)).collect()
}

fn alert(a: &Value, now: DateTime<Utc>, paint: Paint) -> String {
    let severity = text(a, "severity");
    let tone = if severity == "critical" { Tone::Bad } else { Tone::Warn };
    format!(
        "{} {}: {} ({})",
        paint.tone(tone, severity),
        cut(text(a, "subject"), 80),
        cut(text(a, "summary"), 200),
        age(text(a, "since"), now)
    )
}

fn application(a: &Value, paint: Paint) -> String {
    let health = text(a, "health");
    let commit: String = text(a, "commit").chars().take(8).collect();
    let what = if text(a, "repository").is_empty() {
        String::new()
    } else {
        format!("  {}@{commit}", cut(text(a, "repository"), 80))
    };
    let place = if text(a, "url").is_empty() { String::new() } else { format!("  {}", cut(text(a, "url"), 200)) };
    let error = if text(a, "error").is_empty() { String::new() } else { format!("  {}", cut(text(a, "error"), 200)) };
    format!(
        "{}  {}{what}{place}{}",
        cut(text(a, "environment"), 40),
        paint.tone(state_tone(health), health),
        paint.tone(Tone::Bad, &error)
    )
}

fn correlations(recent: &[&Value], now: DateTime<Utc>) -> Table {
    let mut table = Table::new(&["CORRELATION", "STATE", "WHEN", "MESSAGES", "BEGAN WITH", "ABOUT"]);
    for c in recent {
        let state = text(c, "state");
        table.row(vec![
            short(text(c, "id")).into(),
            Cell::toned(state, state_tone(state)),
            age(text(c, "started"), now).into(),
            Cell::figure(count(c, "count").to_string()),
            format!("{} by {}", cut(text(c, "type"), 40), cut(text(c, "source"), 40)).into(),
            cut(text(c, "summary"), 80).into(),
        ]);
    }
    table
}

async fn recent_jobs(home: &Home, args: &JobsArgs) -> anyhow::Result<ExitCode> {
    let answer = Monitor::of(home)?.get(&["jobs"], &[("limit", args.limit.to_string())]).await?;
    let mut out = Out::stdout();
    if args.json {
        out.json(&answer)?;
    } else if list(&answer, "jobs").is_empty() {
        out.line("no job has been seen yet")?;
    } else {
        out.lines(&job_table(list(&answer, "jobs"), clock::now()).lines(out.paint))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn job_table(jobs: &[Value], now: DateTime<Utc>) -> Table {
    let mut table = Table::new(&["JOB", "BOT", "STATE", "WHEN", "TOOK", "ABOUT", "WHY"]);
    for job in jobs {
        let state = text(job, "state");
        let commit: String = text(job, "commit").chars().take(8).collect();
        let about = [cut(text(job, "environment"), 40), cut(text(job, "repository"), 60), commit];
        let about: Vec<&str> = about.iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
        let why = match (text(job, "error"), text(job, "doing")) {
            ("", doing) => doing,
            (error, _) => error,
        };
        table.row(vec![
            short(text(job, "id")).into(),
            cut(text(job, "bot"), 40).into(),
            Cell::toned(state, if state == "running" { Tone::Plain } else { state_tone(state) }),
            age(text(job, "started"), now).into(),
            Cell::figure(job.get("duration_ms").and_then(Value::as_u64).map(took).unwrap_or_default()),
            about.join(" ").into(),
            cut(why, 100).into(),
        ]);
    }
    table
}

/// `12.0 s ago`; empty where there is no time.
pub(super) fn age(at: &str, now: DateTime<Utc>) -> String {
    let Ok(at) = DateTime::parse_from_rfc3339(at) else {
        return String::new();
    };
    let ms = (now - at.with_timezone(&Utc)).num_milliseconds().max(0);
    format!("{} ago", took(ms as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-01T12:00:10Z".parse().unwrap()
    }

    #[test]
    fn the_overview_shows_bots_alerts_applications_and_what_happened() {
        let beat = json!({"version": "0.1.0", "rate_per_s": 0.5, "error_rate": 0.25, "jobs_running": 1, "jobs_waiting": 2, "rss_bytes": 12_582_912, "uptime_s": 75});
        let overview = Overview {
            health: json!({"overall": "degraded", "score": 80}),
            bots: vec![
                json!({"name": "BuildBot", "state": "paused", "error": "disk", "instances": [{"age_ms": 5, "heartbeat": beat}]}),
            ],
            alerts: vec![
                json!({"severity": "critical", "subject": "bot:x", "summary": "silent", "since": "2026-11-01T12:00:00Z"}),
            ],
            applications: vec![
                json!({"environment": "local", "health": "up", "repository": "shop", "commit": "4f2d9c1e8b", "url": "http://127.0.0.1:1/"}),
            ],
            correlations: vec![
                json!({"id": "b", "type": "bot.started"}),
                json!({"id": "push-1", "state": "failed", "started": "2026-11-01T12:00:08Z", "count": 3, "type": "repository.pushed", "source": "ci", "summary": "shop"}),
            ],
            queues: Some(BTreeMap::from([
                ("build-bot.work".into(), 4),
                ("build-bot.dead".into(), 1),
                ("build-bot.control".into(), 0),
                ("test-bot.control".into(), 0),
                ("unrouted".into(), 2),
            ])),
        };
        let expected = "\
fleet degraded, score 80 of 100

BOT       STATE      VERSION  QUEUE  DEAD  RATE/S  ERRORS  JOBS    MEMORY      UP  WHY
BuildBot  paused     0.1.0        4     1     0.5    25 %   1+2  12.0 MiB  75.0 s  disk
test-bot  not heard               0     0                                          the monitor has heard no heartbeat of it: is it running?

alerts
  critical bot:x: silent (10.0 s ago)

applications
  local  up  shop@4f2d9c1e  http://127.0.0.1:1/

CORRELATION  STATE   WHEN       MESSAGES  BEGAN WITH               ABOUT
push-1       failed  2.0 s ago         3  repository.pushed by ci  shop

2 messages reached nobody (queue unrouted)";
        assert_eq!(told(&overview, now(), Paint::NONE).join("\n"), expected);
    }

    #[test]
    fn an_empty_fleet_is_told_too() {
        let overview = Overview { health: json!({"overall": "critical"}), ..Overview::default() };
        assert_eq!(
            told(&overview, now(), Paint::NONE),
            ["fleet critical, score 0 of 100", "", "no bot has been heard yet"]
        );
    }

    #[test]
    fn jobs_are_listed_with_what_they_do_or_why_they_failed() {
        let jobs = [
            json!({"id": "j1", "bot": "BuildBot", "state": "running", "started": "2026-11-01T12:00:09Z", "repository": "shop", "doing": "compile"}),
            json!({"id": "j2", "bot": "TestBot", "state": "failed", "started": "x", "duration_ms": 900, "error": "1 of 2 failed"}),
        ];
        assert_eq!(
            job_table(&jobs, now()).lines(Paint::NONE),
            [
                "JOB  BOT       STATE    WHEN         TOOK  ABOUT  WHY",
                "j1   BuildBot  running  1.0 s ago          shop   compile",
                "j2   TestBot   failed              900 ms         1 of 2 failed",
            ]
        );
    }
}
