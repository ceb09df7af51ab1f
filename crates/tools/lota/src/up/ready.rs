//! When a fleet is ready: the monitor answers, and has heard every bot.
use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::anyhow;

use super::{bots, say::say, supervise::Supervisor};
use crate::{exit::Exit, home::Home};

/// From the start of the bots to all of them being heard.
const READY_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const TELL_EVERY: Duration = Duration::from_secs(5);
const LOG_LINES_SHOWN: usize = 12;

/// Until the monitor has heard every bot; gives its address.
pub(super) async fn wait(home: &Home, supervisor: &mut Supervisor) -> anyhow::Result<String> {
    let http = home.http()?.timeout(Duration::from_secs(2)).build()?;
    let limit = Instant::now() + READY_LIMIT;
    let mut told = Instant::now();
    let wanted = bots::allowed(home)?;
    loop {
        supervisor.attend();
        if let Some(slug) = supervisor.refused().first() {
            let (log, end) = (home.log(slug), log_end(home, slug));
            return Err(Exit::Config.of(anyhow!("{slug} does not start; the end of {}:\n{end}", log.display())));
        }
        let heard = match home.monitor_url() {
            Ok(url) => heard(&http, &url).await.unwrap_or_default(),
            Err(_) => BTreeSet::new(),
        };
        let missing: Vec<&str> = wanted.iter().map(String::as_str).filter(|slug| !heard.contains(*slug)).collect();
        if missing.is_empty() {
            return home.monitor_url();
        }
        if Instant::now() > limit {
            let ends = missing
                .iter()
                .fold(String::new(), |all, s| all + &format!("\n{}:\n{}", home.log(s).display(), log_end(home, s)));
            let (limit, missing) = (READY_LIMIT.as_secs(), missing.join(", "));
            return Err(Exit::Internal.of(anyhow!("not heard within {limit} s: {missing}{ends}")));
        }
        if told.elapsed() > TELL_EVERY {
            say(format_args!("  bots: still waiting for {}", missing.join(", ")));
            told = Instant::now();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Slugs of the bots whose latest heartbeat says that they work.
async fn heard(http: &reqwest::Client, url: &str) -> anyhow::Result<BTreeSet<String>> {
    let body: serde_json::Value = http.get(format!("{url}/api/v1/bots")).send().await?.json().await?;
    let list = body.get("bots").unwrap_or(&body).as_array().cloned().unwrap_or_default();
    let working = list.into_iter().filter_map(|b| {
        let heartbeat = b.get("heartbeat").unwrap_or(&b).clone();
        let state = heartbeat.get("state")?.as_str()?.to_owned();
        let name: bot_messages::BotName = heartbeat.get("bot")?.as_str()?.parse().ok()?;
        (state != "starting" && state != "stopping").then(|| name.slug())
    });
    Ok(working.collect())
}

fn log_end(home: &Home, slug: &str) -> String {
    let text = fs::read_to_string(home.log(slug)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
