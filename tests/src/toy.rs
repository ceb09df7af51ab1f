//! A bot that does what each message asks of it, so that tests see what the core makes of every outcome. It hears
//! `repository.pushed`, reads the wish in `url`, and answers with `build.*` events about the same `repository`.
use std::{fs, io, path::PathBuf, time::Duration};

use bot_core::{
    About, Bot, Effects, Fail, Feature, GaveUp, Handle, Job, JobCx, Meta, Optional, Outcome, TimerDue, Tools,
};
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
    answers: Answers,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ballast: String,
}

/// A number, or what only a newer version of the bot could read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Answers {
    Number(u32),
    #[serde(skip_deserializing)]
    Newer(String),
}

impl Default for Answers {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// See the module.
pub struct ToyBot {
    dir: PathBuf,
    extras: Optional,
}

impl ToyBot {
    /// What is outside fails while the file `outage` in the bot's folder names it.
    fn reach(&self) -> Result<(), Fail> {
        match fs::read_to_string(self.dir.join("outage")) {
            Ok(missing) => Err(Fail::outside(missing.trim(), io::Error::from(io::ErrorKind::ConnectionRefused))),
            Err(_) => Ok(()),
        }
    }
}

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
    const FEATURES: &'static [Feature] =
        &[Feature::essential("source", "is fetched from"), Feature::optional("extras", "adds a word")];
    type Hears = (RepositoryPushed, ());
    type Says = (BuildStarted, (BuildCompleted, (BuildFailed, ())));
    type Jobs = (Play, (Fetch, ()));
    type Config = Config;
    type State = Count;

    fn new(_: Config, tools: Tools) -> anyhow::Result<Self> {
        Ok(Self { extras: tools.optional("extras"), dir: tools.dir })
    }

    fn on_timer(&self, timer: &TimerDue, _: &mut Count, _: &Meta) -> Outcome<Self> {
        let revision: Revision = serde_json::from_value(timer.data.clone()).map_err(Fail::retry)?;
        assert!(!revision.repository.starts_with("panics"), "a timer handler that panics");
        Ok(Effects::none().say(started(&revision, "timer")))
    }

    fn schedule_key(&self, data: &Value) -> Result<String, String> {
        Revision::deserialize(data).map(|revision| revision.repository).map_err(|e| e.to_string())
    }

    fn on_schedule(&self, schedule: &TimerDue, _: &mut Count, meta: &Meta) -> Outcome<Self> {
        let revision = Revision::deserialize(&schedule.data).map_err(Fail::retry)?;
        Ok(Effects::none().say(started(&revision, &format!("schedule {} in {}", schedule.name, meta.correlation_id))))
    }
}

impl Handle<RepositoryPushed> for ToyBot {
    fn key(&self, event: &RepositoryPushed) -> String {
        assert!(event.revision.url != "panic-key", "a key that panics");
        event.revision.repository.clone()
    }

    #[expect(clippy::print_stderr, reason = "so that tests see each call")]
    fn handle(&self, event: RepositoryPushed, state: &mut Count, meta: &Meta) -> Outcome<Self> {
        eprintln!("asked {} attempt {}", meta.id, meta.attempt);
        let revision = event.revision;
        let (wish, number) = revision.url.split_once(':').unwrap_or((revision.url.as_str(), "0"));
        let number: u32 = number.parse().unwrap_or(0);
        if wish == "ignore" {
            return Ok(Effects::ignored("asked to"));
        }
        let answers = if let Answers::Number(n) = state.answers { n + 1 } else { 1 };
        state.answers = Answers::Number(answers);
        let answer = started(&revision, &format!("attempt {} answer {answers}", meta.attempt));
        match wish {
            "retry" if meta.attempt <= number => Err(Fail::retry(anyhow::anyhow!("not before attempt {}", number + 1))),
            // Unix seconds, as a handler remembers nothing of an attempt that failed.
            "later" if meta.now.timestamp() < i64::from(number) => {
                Err(Fail::Later(Duration::from_secs(1), anyhow::anyhow!("not yet")))
            }
            "abort-later" if meta.attempt == 1 => Err(Fail::retry(anyhow::anyhow!("not at once"))),
            "abort" | "abort-later" => std::process::abort(),
            // Once: whoever comes after finds the file.
            "hang" if fs::File::create_new(self.dir.join("hung")).is_ok() => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            "newer" => {
                state.answers = Answers::Newer("many".to_owned());
                Ok(Effects::none().say(answer))
            }
            "state" => {
                state.ballast = "x".repeat(number as usize);
                Ok(Effects::none().say(answer))
            }
            "bulk" => {
                let step = StepResult { name: "x".repeat(number as usize), duration_ms: 0, exit_code: None };
                Ok(Effects::none().say(BuildCompleted { revision, steps: vec![step], ..BuildCompleted::example() }))
            }
            "timer" => {
                let data = serde_json::to_value(&revision).unwrap_or(Value::Null);
                let after = Duration::from_secs(number.into());
                Ok(Effects::none().set_timer(&revision.repository, &revision.repository, after, data).say(answer))
            }
            "untimer" => Ok(Effects::none().clear_timer(&revision.repository).say(answer)),
            "reach" => self.reach().map(|()| Effects::none().say(answer)),
            "fetch" => Ok(Effects::none().start(&revision.repository.clone(), &Fetch { revision })),
            "play" => Ok(Effects::none().start(&revision.repository.clone(), &Play { revision })),
            _ => Ok(Effects::none().say(answer)),
        }
    }
}

fn started(revision: &Revision, what: &str) -> BuildStarted {
    BuildStarted { revision: revision.clone(), job_id: what.to_owned(), ..BuildStarted::example() }
}

/// - `play:0` always wants another attempt.
/// - `play:1` waits under its first token until it is stopped, and ends under the next.
/// - `play:2` ends with more than a message holds.
/// - `play:3` takes some seconds to stop, and then ends.
/// - `play:4` fails for good, and panics when it is given up.
/// - `play:5` ends at once.
#[derive(Debug, Serialize, Deserialize)]
pub struct Play {
    revision: Revision,
}

impl Job for Play {
    type Bot = ToyBot;
    const KIND: &'static str = "play";

    #[expect(clippy::print_stderr, reason = "so that a test knows when")]
    async fn run(&self, _: &ToyBot, cx: &JobCx<ToyBot>) -> Outcome<ToyBot> {
        cx.emit("begun", Effects::none().say(started(&self.revision, &cx.id))).await?;
        if self.revision.url == "play:0" {
            return Err(Fail::retry(anyhow::anyhow!("again")));
        }
        if self.revision.url == "play:2" {
            return Ok(Effects::none().say(self.completed(cx, vec!["x".repeat(300_000)])));
        }
        if self.revision.url == "play:3" {
            cx.cancelled.cancelled().await;
            tokio::time::sleep(Duration::from_secs(4)).await;
            return Ok(Effects::none().say(self.completed(cx, Vec::new())));
        }
        if self.revision.url == "play:5" {
            return Ok(Effects::none().say(self.completed(cx, Vec::new())));
        }
        if self.revision.url == "play:4" {
            return Err(Fail::reject(Code::CommandFailed, anyhow::anyhow!("no")));
        }
        let first: Option<i64> = cx.recall("token").await?;
        cx.remember("token", &cx.token).await?;
        let Some(first) = first else {
            eprintln!("waits under token {}", cx.token);
            cx.cancelled.cancelled().await;
            return Err(Fail::Later(Duration::ZERO, anyhow::anyhow!("stopped")));
        };
        if cx.token <= first {
            return Err(Fail::reject(Code::Rejected, anyhow::anyhow!("token {} after {first}", cx.token)));
        }
        let steps = vec![format!("attempt {}", cx.attempt), format!("token {first}"), format!("token {}", cx.token)];
        Ok(Effects::none().say(self.completed(cx, steps)))
    }

    fn gave_up(&self, _: &ToyBot, end: &GaveUp) -> Effects<ToyBot> {
        assert!(self.revision.url != "play:4", "last words that panic");
        self.words(end)
    }
}

/// Reaches out, and says which attempt it was, with a word of the optional `extras` while the file `no-extras` is not there.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fetch {
    revision: Revision,
}

impl Job for Fetch {
    type Bot = ToyBot;
    const KIND: &'static str = "fetch";

    #[expect(clippy::print_stderr, reason = "so that tests see each attempt")]
    async fn run(&self, bot: &ToyBot, cx: &JobCx<ToyBot>) -> Outcome<ToyBot> {
        eprintln!("fetches {} attempt {}", self.revision.repository, cx.attempt);
        bot.reach()?;
        let extras = bot.extras.attempt(async {
            let missing = bot.dir.join("no-extras").exists();
            if missing { Err("there are none") } else { Ok("with extras".to_owned()) }
        });
        let steps = vec![format!("attempt {}", cx.attempt), extras.await.unwrap_or_else(|why| why)];
        let play = Play { revision: self.revision.clone() };
        Ok(Effects::none().say(play.completed(cx, steps)))
    }

    fn gave_up(&self, _: &ToyBot, end: &GaveUp) -> Effects<ToyBot> {
        Play { revision: self.revision.clone() }.words(end)
    }
}

impl Play {
    fn words(&self, end: &GaveUp) -> Effects<ToyBot> {
        Effects::none().say(BuildFailed {
            revision: self.revision.clone(),
            job_id: Some(end.job_id.clone()),
            reason: end.reason,
            error: end.error.clone(),
            ..BuildFailed::example()
        })
    }

    fn completed(&self, cx: &JobCx<ToyBot>, steps: Vec<String>) -> BuildCompleted {
        let step = |name| StepResult { name, duration_ms: 0, exit_code: Some(0) };
        let steps = steps.into_iter().map(step).collect();
        let revision = self.revision.clone();
        BuildCompleted { revision, job_id: cx.id.clone(), steps, ..BuildCompleted::example() }
    }
}
