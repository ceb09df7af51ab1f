//! `lota logs`: what a job printed, from the monitor's memory.
use std::{process::ExitCode, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    monitor::{Monitor, count, list, text},
    terminal::{Out, note, plain, seen_enough, short, took},
};
use crate::home::Home;

const POLL_EVERY: Duration = Duration::from_millis(500);
/// A monitor that is restarted is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `lota logs` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// A job, or at least six characters of its beginning; `lota jobs` lists them
    job: String,
    /// Go on until the job has ended
    #[arg(long, short)]
    follow: bool,
}

pub(crate) async fn run(home: &Home, args: LogsArgs) -> anyhow::Result<ExitCode> {
    seen_enough(logs(home, &args).await)
}

async fn logs(home: &Home, args: &LogsArgs) -> anyhow::Result<ExitCode> {
    let monitor = Monitor::of(home)?;
    let mut out = Out::stdout();
    let mut page = ask(&monitor, &args.job, 0).await?;
    // The whole id from now on: a beginning may fit a second job soon.
    let job = match text(&page, "job") {
        "" => args.job.clone(),
        id => id.to_owned(),
    };
    let dropped = count(&page, "dropped");
    if dropped > 0 {
        note(&format!(
            "{dropped} lines of this job are not kept; the whole log is an object: {}",
            whole_log(&monitor, &job).await
        ));
    }
    let mut answered = Instant::now();
    loop {
        for line in list(&page, "lines") {
            out.line(&plain(text(line, "text")))?;
        }
        let (more, ended) = (flag(&page, "more"), flag(&page, "ended"));
        if !more && (ended || !args.follow) {
            break;
        }
        if !more {
            tokio::time::sleep(POLL_EVERY).await;
        }
        let next = count(&page, "next");
        page = match ask(&monitor, &job, next).await {
            Ok(page) => {
                answered = Instant::now();
                page
            }
            Err(e) if args.follow && answered.elapsed() < PATIENCE => {
                tracing::debug!("the monitor did not answer: {e:#}");
                serde_json::json!({"next": next})
            }
            Err(e) => return Err(e),
        };
    }
    if args.follow {
        note(&ending(&monitor.get(&["jobs", &job], &[]).await.unwrap_or_default(), &job));
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(monitor: &Monitor, job: &str, after: u64) -> anyhow::Result<Value> {
    monitor.get(&["jobs", job, "log"], &[("after", after.to_string())]).await
}

fn flag(page: &Value, name: &str) -> bool {
    page.get(name).and_then(Value::as_bool).unwrap_or_default()
}

async fn whole_log(monitor: &Monitor, job: &str) -> String {
    let job = monitor.get(&["jobs", job], &[]).await.unwrap_or_default();
    match job.pointer("/log/digest").and_then(Value::as_str) {
        Some(digest) => plain(digest),
        None => "its terminal event names it".to_owned(),
    }
}

fn ending(job: &Value, id: &str) -> String {
    let state = match text(job, "state") {
        "" => "ended",
        state => state,
    };
    let after =
        job.get("duration_ms").and_then(Value::as_u64).map(|ms| format!(" after {}", took(ms))).unwrap_or_default();
    let why = match text(job, "error") {
        "" => String::new(),
        error => format!(": {}", plain(error)),
    };
    format!("job {} {state}{after}{why}", short(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_end_of_a_job_is_one_line() {
        let job = json!({"state": "failed", "duration_ms": 2310, "error": "exit code 101"});
        assert_eq!(ending(&job, "j1"), "job j1 failed after 2.3 s: exit code 101");
        assert_eq!(ending(&Value::Null, "j1"), "job j1 ended");
    }
}
