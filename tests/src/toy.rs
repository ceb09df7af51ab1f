//! A bot that does what each message asks of it, so that tests see what the core makes of every outcome. It hears
//! `repository.pushed`, reads the wish in `url`, and answers with `build.*` events about the same `repository`.
use std::time::Duration;

use bot_core::{About, Bot, Effects, Fail, GaveUp, Handle, Job, JobCx, Meta, Outcome, TimerDue, Tools};
use bot_messages::{
    Category, Code, Event as _, Revision,
    build::{BuildCompleted, BuildFailed, BuildStarted, StepResult},
    repository::RepositoryPushed,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Has no settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// How often an entity was answered.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Count {
    answers: u32,
}

/// See the module.
pub struct ToyBot;

impl Bot for ToyBot {
    const ABOUT: About = About {
        name: "ToyBot",
        category: Category::Development,
        responsibility: "does what a test asks",
        never: &["runs outside of tests"],
        actions: &["play"],
        dependencies: &[],
        observes: &[],
    };
    type Hears = (RepositoryPushed, ());
    type Says = (BuildStarted, (BuildCompleted, (BuildFailed, ())));
    type Jobs = (Play, ());
    type Config = Config;
    type State = Count;

    fn new(_: Config, _: Tools) -> anyhow::Result<Self> {
        Ok(Self)
    }

    fn on_timer(&self, timer: &TimerDue, _: &mut Count, _: &Meta) -> Outcome<Self> {
        let revision: Revision = serde_json::from_value(timer.data.clone()).map_err(Fail::retry)?;
        Ok(Effects::none().say(started(&revision, "timer")))
    }
}

impl Handle<RepositoryPushed> for ToyBot {
    fn key(&self, event: &RepositoryPushed) -> String {
        event.revision.repository.clone()
    }

    fn handle(&self, event: RepositoryPushed, state: &mut Count, meta: &Meta) -> Outcome<Self> {
        let revision = event.revision;
        let (wish, number) = revision.url.split_once(':').unwrap_or((revision.url.as_str(), "0"));
        let number: u32 = number.parse().unwrap_or(0);
        state.answers += 1;
        let answer = started(&revision, &format!("attempt {} answer {}", meta.attempt, state.answers));
        match wish {
            "retry" if meta.attempt <= number => Err(Fail::retry(anyhow::anyhow!("not before attempt {}", number + 1))),
            // Unix seconds, as a handler remembers nothing of an attempt that failed.
            "later" if meta.now.timestamp() < i64::from(number) => {
                Err(Fail::Later(Duration::from_secs(1), anyhow::anyhow!("not yet")))
            }
            "abort" => std::process::abort(),
            "timer" => {
                let data = serde_json::to_value(&revision).unwrap_or(Value::Null);
                let after = Duration::from_secs(number.into());
                Ok(Effects::none().set_timer(&revision.repository, &revision.repository, after, data).say(answer))
            }
            "untimer" => Ok(Effects::none().clear_timer(&revision.repository).say(answer)),
            "play" => Ok(Effects::none().start(&revision.repository.clone(), &Play { revision })),
            _ => Ok(Effects::none().say(answer)),
        }
    }
}

fn started(revision: &Revision, what: &str) -> BuildStarted {
    BuildStarted { revision: revision.clone(), job_id: what.to_owned(), ..BuildStarted::example() }
}

/// `play:0` always wants another attempt; `play:2` ends with more than a message holds; `play:1` waits under its first token until it is stopped, and ends under
/// the next.
#[derive(Debug, Serialize, Deserialize)]
pub struct Play {
    revision: Revision,
}

impl Job for Play {
    type Bot = ToyBot;
    const KIND: &'static str = "play";

    async fn run(&self, _: &ToyBot, cx: &JobCx<ToyBot>) -> Outcome<ToyBot> {
        cx.emit("begun", Effects::none().say(started(&self.revision, &cx.id))).await?;
        if self.revision.url == "play:0" {
            return Err(Fail::retry(anyhow::anyhow!("again")));
        }
        if self.revision.url == "play:2" {
            let step = StepResult { name: "x".repeat(300_000), duration_ms: 0, exit_code: None };
            let completed = BuildCompleted { steps: vec![step], ..BuildCompleted::example() };
            return Ok(Effects::none().say(completed));
        }
        let first: Option<i64> = cx.recall("token").await?;
        cx.remember("token", &cx.token).await?;
        let Some(first) = first else {
            cx.cancelled.cancelled().await;
            return Err(Fail::Later(Duration::ZERO, anyhow::anyhow!("stopped")));
        };
        if cx.token <= first {
            return Err(Fail::reject(Code::Rejected, anyhow::anyhow!("token {} after {first}", cx.token)));
        }
        let step = StepResult { name: format!("attempt {}", cx.attempt), duration_ms: 0, exit_code: Some(0) };
        let revision = self.revision.clone();
        let completed =
            BuildCompleted { revision, job_id: cx.id.clone(), steps: vec![step], ..BuildCompleted::example() };
        Ok(Effects::none().say(completed))
    }

    fn gave_up(&self, _: &ToyBot, end: &GaveUp) -> Effects<ToyBot> {
        Effects::none().say(BuildFailed {
            revision: self.revision.clone(),
            job_id: Some(end.job_id.clone()),
            reason: end.reason,
            error: end.error.clone(),
            ..BuildFailed::example()
        })
    }
}
