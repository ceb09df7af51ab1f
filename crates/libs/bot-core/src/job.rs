//! Jobs: whatever awaits. A job is a durable row with a lease; its context is all it knows of the runtime.
use std::{collections::BTreeMap, future::Future, marker::PhantomData, pin::Pin, sync::Arc};

use bot_messages::{FailureReason, SafeError};
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    contract::{Bot, Data},
    effects::{Effect, Effects, Fail, Outcome},
    meta::Cause,
};

/// Long work of a bot. It may run several times (after a crash, after `Fail::Retry`): what must happen once goes
/// through [`JobCx::emit`] and [`JobCx::remember`].
pub trait Job: Data {
    /// Whose job it is.
    type Bot: Bot;
    /// Its name in the store and in the contract.
    const KIND: &'static str;

    /// No two jobs with the same exclusive key run at a time; they run in the order in which they were started.
    fn exclusive(&self) -> Option<String> {
        None
    }

    /// Runs it. The effects are committed together with its end. Children must be gone when it returns.
    fn run(&self, bot: &Self::Bot, cx: &JobCx<Self::Bot>) -> impl Future<Output = Outcome<Self::Bot>> + Send;

    /// What is said when it will not be run again without having succeeded: rejected, out of attempts, cancelled or
    /// out of time. This is where the one terminal event of a failed job comes from.
    fn gave_up(&self, bot: &Self::Bot, end: &GaveUp) -> Effects<Self::Bot>;

    /// What begins when someone asks, after it has ended, to have it done once more. `Err`: why that cannot be.
    fn again(self, asked: &Asked) -> Result<Again<Self>, String> {
        let _ = asked;
        Ok(Again::Start(self))
    }
}

/// Someone asks to have a job done once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Of the command, by which nothing is done twice.
    pub id: String,
    /// Who asks: what they say, and the publisher that the exchange proves.
    pub by: String,
}

/// How a job is done once more.
#[derive(Debug)]
pub enum Again<J: Job> {
    /// As this job, about the same entity.
    Start(J),
    /// By what leads to a job where it may begin.
    Effects(Effects<J::Bot>),
}

/// Why a job will not be run again.
#[derive(Clone, Debug)]
pub struct GaveUp {
    /// The job.
    pub job_id: String,
    /// In one word.
    pub reason: FailureReason,
    /// In a sentence, with a code.
    pub error: SafeError,
    /// How often it was tried.
    pub attempts: u32,
    /// Milliseconds since it was started.
    pub duration_ms: u64,
}

/// Why a running job has to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Someone asked, with a reason.
    Asked(String),
    /// `constraints.timeout` is over.
    TimedOut,
    /// The bot goes down in order; the job will be run again.
    BotStopping,
    /// Another process has it.
    LeaseLost,
}

pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a job's context does outside the job. The runtime's is durable; tests have their own.
pub trait JobPort: Send + Sync {
    /// Commits effects once per step, or records a value for it.
    fn commit<'a>(&'a self, step: &'a str, effects: Vec<Effect>, value: Value) -> Boxed<'a, Result<(), Fail>>;
    /// What was recorded for a step.
    fn recall<'a>(&'a self, step: &'a str) -> Boxed<'a, Result<Option<Value>, Fail>>;
    /// A line of output. Best effort.
    fn line(&self, line: &str);
    /// Progress. Best effort.
    fn progress(&self, percent: u8, what: &str);
    /// The time.
    fn now(&self) -> DateTime<Utc>;
    /// Why it has to stop, once it has to.
    fn stop(&self) -> Option<Stop>;
}

/// How this process came to run a job.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// 1 for the first.
    pub attempt: u32,
    /// Rises with every claim of any job of the bot.
    pub token: i64,
    /// Nobody has claimed the job before.
    pub is_first: bool,
}

/// What a job knows of the runtime.
pub struct JobCx<B> {
    /// The job.
    pub id: String,
    /// 1 for the first.
    pub attempt: u32,
    /// Fencing token, above those of all jobs that the bot has claimed before: hand it to whatever outside can refuse an
    /// older one.
    pub token: i64,
    is_first_claim: bool,
    /// Common to all that follows from one cause.
    pub cause: Cause,
    /// When the job was started.
    pub started_at: DateTime<Utc>,
    /// Set when it has to stop; [`JobCx::stop`] says why.
    pub cancelled: CancellationToken,
    port: Arc<dyn JobPort>,
    bot: PhantomData<fn() -> B>,
}

impl<B: Bot> JobCx<B> {
    /// For the runtime and for tests.
    pub fn new(
        id: String,
        claim: Claim,
        cause: Cause,
        started_at: DateTime<Utc>,
        cancelled: CancellationToken,
        port: Arc<dyn JobPort>,
    ) -> Self {
        let Claim { attempt, token, is_first: is_first_claim } = claim;
        Self { id, attempt, token, is_first_claim, cause, started_at, cancelled, port, bot: PhantomData }
    }

    /// Commits effects before the job ends, once over all attempts for each step name.
    pub async fn emit(&self, step: &str, effects: Effects<B>) -> Result<(), Fail> {
        self.port.commit(step, effects.list, Value::Null).await
    }

    /// Records a value durably before something outside is done (intent) or after (result). The first one stays.
    pub async fn remember<T: serde::Serialize + Sync>(&self, step: &str, value: &T) -> Result<(), Fail> {
        let value = serde_json::to_value(value).map_err(Fail::retry)?;
        self.port.commit(step, Vec::new(), value).await
    }

    /// What this or an earlier attempt recorded; `None` if nothing was, or nothing that reads as a `T`.
    pub async fn recall<T: serde::de::DeserializeOwned>(&self, step: &str) -> Result<Option<T>, Fail> {
        Ok(self.port.recall(step).await?.and_then(|v| serde_json::from_value(v).ok()))
    }

    /// A line of output, for `lota logs -f`. Best effort: the full log is the job's to store.
    pub fn line(&self, line: &str) {
        self.port.line(line);
    }

    /// How far it is, for people. Best effort.
    pub fn progress(&self, percent: u8, what: &str) {
        self.port.progress(percent, what);
    }

    /// The time; jobs have no other clock.
    pub fn now(&self) -> DateTime<Utc> {
        self.port.now()
    }

    /// Milliseconds since the job was started, earlier attempts included.
    pub fn duration_ms(&self) -> u64 {
        (self.now() - self.started_at).num_milliseconds().try_into().unwrap_or(0)
    }

    /// Whether nobody ran it before, not even in vain: then nothing of it can be left anywhere.
    pub fn is_first_claim(&self) -> bool {
        self.is_first_claim
    }

    /// Why it has to stop, once it has to.
    pub fn stop(&self) -> Option<Stop> {
        self.port.stop()
    }
}

/// A job's `run` without its type.
pub type RunJob<B> = fn(Arc<B>, Value, Arc<JobCx<B>>) -> Boxed<'static, Outcome<B>>;

/// A job's `again` without its type.
pub type DoAgain = fn(&str, u32, Value, &Asked) -> Result<Vec<Effect>, String>;

/// How the runtime runs a job without knowing its type.
pub struct ErasedJob<B: Bot> {
    /// Runs it.
    pub run: RunJob<B>,
    /// What is said when it is given up.
    pub gave_up: fn(&B, Value, &GaveUp) -> Effects<B>,
    /// What begins when it is to be done once more: from its entity, its weight and its payload.
    pub again: DoAgain,
}

/// Jobs by kind.
pub type JobTable<B> = BTreeMap<&'static str, ErasedJob<B>>;

pub(crate) fn erased<B: Bot, J: Job<Bot = B>>() -> ErasedJob<B> {
    ErasedJob {
        run: |bot, payload, cx| {
            Box::pin(async move {
                let job: J = serde_json::from_value(payload)
                    .map_err(|e| Fail::reject(bot_messages::Code::UnsupportedSchema, e))?;
                job.run(&bot, &cx).await
            })
        },
        gave_up: |bot, payload, end| match serde_json::from_value::<J>(payload) {
            Ok(job) => job.gave_up(bot, end),
            Err(e) => Effects::ignored(format!("job {} cannot be read: {e}", end.job_id)),
        },
        again: |key, weight, payload, asked| {
            let job: J = serde_json::from_value(payload)
                .map_err(|e| format!("it is of another version of the bot, and cannot be read: {e}"))?;
            Ok(match job.again(asked)? {
                Again::Start(job) => vec![Effect::start(key, weight, &job)],
                Again::Effects(effects) => effects.list,
            })
        },
    }
}
