//! Two bots one after the other: WorkBot hears `repository.pushed` and says `build.completed`, CountBot hears that and says
//! `test.completed`. Each counts in its state how often it acted on each message, and every way through the core is used.
//!
//! A message is told by its number, which travels as `revision.sequence`; its [`Kind`] by `revision.url`.
use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use bot_core::{About, Bot, Effects, Fail, GaveUp, Handle, Job, JobCx, Meta, Outcome, TimerDue, Tools};
use bot_messages::{
    Category, Code, Event as _, Revision,
    build::{BuildCompleted, BuildFailed, BuildStarted},
    repository::RepositoryPushed,
    test::TestCompleted,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const TIMER_LENGTH: Duration = Duration::from_secs(1);
const TARGET_LIMIT: Duration = Duration::from_secs(10);

/// Which way a message takes through WorkBot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The handler says it.
    Say,
    /// A timer says it.
    Timer,
    /// A job with steps and outside effects says it.
    Work,
    /// The same, and its first attempt fails.
    WorkAgain,
    /// The first attempt to handle it fails.
    Retry,
    /// It is put off until the Unix second given.
    Later(i64),
    /// It is rejected: a dead letter.
    Reject,
    /// It lacks what it is about: a dead letter before any handler.
    Unreadable,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Say => f.write_str("say"),
            Self::Timer => f.write_str("timer"),
            Self::Work => f.write_str("work"),
            Self::WorkAgain => f.write_str("work-again"),
            Self::Retry => f.write_str("retry"),
            Self::Later(second) => write!(f, "later:{second}"),
            Self::Reject => f.write_str("reject"),
            Self::Unreadable => f.write_str("unreadable"),
        }
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text.split_once(':').unwrap_or((text, "")) {
            ("say", _) => Self::Say,
            ("timer", _) => Self::Timer,
            ("work", _) => Self::Work,
            ("work-again", _) => Self::WorkAgain,
            ("retry", _) => Self::Retry,
            ("later", second) => Self::Later(second.parse()?),
            ("reject", _) => Self::Reject,
            _ => anyhow::bail!("`{text}` is no kind of message"),
        })
    }
}

/// How often an entity's messages were acted on, by number.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// By a handler.
    #[serde(default)]
    pub handled: BTreeMap<u64, u32>,
    /// By a timer.
    #[serde(default)]
    pub fired: BTreeMap<u64, u32>,
}

/// Has no settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// The first of the chain.
pub struct WorkBot {
    /// The target of its jobs, from `LOTA_SETTING_TARGET`.
    target: String,
    http: reqwest::Client,
}

/// The second of the chain.
pub struct CountBot;

fn number(revision: &Revision) -> u64 {
    revision.sequence.unwrap_or_default()
}

fn completed(revision: &Revision, how: &str) -> BuildCompleted {
    BuildCompleted { revision: revision.clone(), job_id: how.to_owned(), ..BuildCompleted::example() }
}

impl Bot for WorkBot {
    const ABOUT: About = About {
        name: "WorkBot",
        category: Category::Development,
        responsibility: "does what each message says, by every way there is",
        never: &["runs outside of tests"],
        actions: &["play"],
        dependencies: &[],
        observes: &[],
    };
    type Hears = (RepositoryPushed, ());
    type Says = (BuildStarted, (BuildCompleted, (BuildFailed, ())));
    type Jobs = (Work, ());
    type Config = Config;
    type State = Tally;

    fn new(_: Config, tools: Tools) -> anyhow::Result<Self> {
        let target = tools.settings.get("target").cloned().unwrap_or_default();
        let http = reqwest::Client::builder().timeout(TARGET_LIMIT).no_proxy().build()?;
        Ok(Self { target, http })
    }

    fn on_timer(&self, timer: &TimerDue, state: &mut Tally, _: &Meta) -> Outcome<Self> {
        let revision = Revision::deserialize(&timer.data).map_err(Fail::retry)?;
        *state.fired.entry(number(&revision)).or_default() += 1;
        Ok(Effects::none().say(completed(&revision, "timer")))
    }
}

impl Handle<RepositoryPushed> for WorkBot {
    fn key(&self, event: &RepositoryPushed) -> String {
        event.revision.repository.clone()
    }

    fn handle(&self, event: RepositoryPushed, state: &mut Tally, meta: &Meta) -> Outcome<Self> {
        let revision = event.revision;
        let number = number(&revision);
        *state.handled.entry(number).or_default() += 1;
        let say = |how| Ok(Effects::none().say(completed(&revision, how)));
        match revision.url.parse::<Kind>().map_err(|e| Fail::reject(Code::InvalidField, e))? {
            Kind::Say => say("handler"),
            Kind::Retry if meta.attempt == 1 => Err(Fail::retry(anyhow::anyhow!("not at once"))),
            Kind::Retry => say("second attempt"),
            Kind::Later(second) if meta.now.timestamp() < second => {
                Err(Fail::Later(Duration::from_secs(1), anyhow::anyhow!("not yet")))
            }
            Kind::Later(_) => say("later"),
            Kind::Timer => {
                let data = serde_json::to_value(&revision).unwrap_or(Value::Null);
                Ok(Effects::none().set_timer(&format!("of {number}"), &revision.repository, TIMER_LENGTH, data))
            }
            kind @ (Kind::Work | Kind::WorkAgain) => {
                let fails_first = kind == Kind::WorkAgain;
                Ok(Effects::none().start(&revision.repository.clone(), &Work { revision, fails_first }))
            }
            Kind::Reject | Kind::Unreadable => Err(Fail::reject(Code::Rejected, anyhow::anyhow!("as it asks"))),
        }
    }
}

/// Says that it began, does something outside with a key and something without, and says that it is done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    revision: Revision,
    fails_first: bool,
}

impl Work {
    async fn ask(&self, bot: &WorkBot, path: String) -> Result<(), Fail> {
        let url = format!("{}/{path}", bot.target);
        let answer = bot.http.put(url).send().await.and_then(reqwest::Response::error_for_status);
        answer.map(drop).map_err(Fail::retry)
    }
}

impl Job for Work {
    type Bot = WorkBot;
    const KIND: &'static str = "work";

    async fn run(&self, bot: &WorkBot, cx: &JobCx<WorkBot>) -> Outcome<WorkBot> {
        let number = number(&self.revision);
        let begun = BuildStarted { revision: self.revision.clone(), job_id: cx.id.clone(), ..BuildStarted::example() };
        cx.emit("begun", Effects::none().say(begun)).await?;
        cx.line("at work");
        // The key is the job and the step: an attempt that repeats it is known by the target.
        self.ask(bot, format!("keyed/{number}/{}-put", cx.id)).await?;
        cx.remember("put", &true).await?;
        // Without a key a crash in between leaves two ways: twice, or perhaps not at all. This one errs by not at all.
        if cx.recall::<bool>("noting").await?.is_none() {
            cx.remember("noting", &true).await?;
            self.ask(bot, format!("unkeyed/{number}")).await?;
        }
        if self.fails_first && cx.attempt == 1 {
            return Err(Fail::retry(anyhow::anyhow!("not at once")));
        }
        cx.progress(100, "done");
        Ok(Effects::none().say(completed(&self.revision, &cx.id)))
    }

    fn gave_up(&self, _: &WorkBot, end: &GaveUp) -> Effects<WorkBot> {
        Effects::none().say(BuildFailed {
            revision: self.revision.clone(),
            job_id: Some(end.job_id.clone()),
            reason: end.reason,
            error: end.error.clone(),
            ..BuildFailed::example()
        })
    }
}

impl Bot for CountBot {
    const ABOUT: About = About {
        name: "CountBot",
        category: Category::Development,
        responsibility: "counts what comes to its end",
        never: &["runs outside of tests"],
        actions: &["play"],
        dependencies: &[],
        observes: &[],
    };
    type Hears = (BuildCompleted, ());
    type Says = (TestCompleted, ());
    type Jobs = ();
    type Config = Config;
    type State = Tally;

    fn new(_: Config, _: Tools) -> anyhow::Result<Self> {
        Ok(Self)
    }
}

impl Handle<BuildCompleted> for CountBot {
    fn key(&self, event: &BuildCompleted) -> String {
        event.revision.repository.clone()
    }

    fn handle(&self, event: BuildCompleted, state: &mut Tally, _: &Meta) -> Outcome<Self> {
        *state.handled.entry(number(&event.revision)).or_default() += 1;
        Ok(Effects::none().say(TestCompleted {
            revision: event.revision,
            job_id: event.job_id,
            ..TestCompleted::example()
        }))
    }
}
