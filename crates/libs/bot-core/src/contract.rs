//! The contract of a bot as Rust types: what it hears, says and does. Saying what is not declared, or declaring
//! to hear something without a handler, does not compile.
use std::{collections::BTreeMap, future::Future, sync::Arc};

use bot_messages::{Category, Contract, Event, MeantLoop, Tap};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    effects::{Effects, Fail, Outcome},
    job::{Job, JobTable},
    meta::Meta,
    service::ServiceCx,
    tools::Tools,
};

/// What can be stored and read back.
pub trait Data: Serialize + DeserializeOwned + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Data for T {}

/// The constant part of a contract.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// As in `source`: `BuildBot`.
    pub name: &'static str,
    /// Which of the five kinds.
    pub category: Category,
    /// The one thing it does, as a sentence without its subject: `builds a pushed commit`.
    pub responsibility: &'static str,
    /// What it never does, likewise.
    pub never: &'static [&'static str],
    /// Names that `actions.command` of its configuration may choose from.
    pub actions: &'static [&'static str],
    /// Bots whose heartbeats it watches; without them it is degraded.
    pub dependencies: &'static [&'static str],
    /// Streams of everything that it observes in [`Bot::service`].
    pub observes: &'static [Tap],
}

/// A part of what a bot does that can fail by itself.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// Such as `cache`.
    pub name: &'static str,
    /// What it is for, as in `keeps what builds share`.
    pub purpose: &'static str,
    essential: bool,
}

impl Feature {
    /// Without it the bot does nothing. A [`Fail::Outside`](crate::Fail) that names it and is critical holds back its work at
    /// once, until it is there again.
    pub const fn essential(name: &'static str, purpose: &'static str) -> Self {
        Self { name, purpose, essential: true }
    }

    /// The bot goes on without it: [`Tools::optional`] switches it off for a while when it fails.
    pub const fn optional(name: &'static str, purpose: &'static str) -> Self {
        Self { name, purpose, essential: false }
    }
}

/// A bot: its contract, its configuration, its state, its handlers.
pub trait Bot: Send + Sync + Sized + 'static {
    /// The constant part of the contract.
    const ABOUT: About;
    /// Files beside its own configuration that it reads, such as `repositories.yaml`: they count for its hash.
    const CONFIG_FILES: &'static [&'static str] = &[];
    /// Parts of what it does that can fail by themselves: what it cannot work without, and what it can.
    const FEATURES: &'static [Feature] = &[];
    /// Of several instances on one store one works and the others wait to take its place: for a bot that keeps what lies outside
    /// its store in one place.
    const ALONE: bool = false;
    /// Loops of triggers through it that are meant: the types, from the first in the alphabet on, and what ends it.
    const LOOPS: &'static [(&'static [&'static str], &'static str)] = &[];
    /// Event types it hears, as a list `(A, (B, ()))`; each needs a [`Handle`].
    type Hears: Hears<Self>;
    /// Event types it says.
    type Says: Says;
    /// Its jobs.
    type Jobs: Jobs<Self>;
    /// Its own section of the configuration file.
    type Config: Data + Default + Clone + JsonSchema;
    /// What it remembers of one entity.
    type State: Data + Default;

    /// Made once at start. An error here is a mistake in the configuration or the machine: the bot does not start.
    fn new(config: Self::Config, tools: Tools) -> anyhow::Result<Self>;

    /// A timer that a handler set is due.
    fn on_timer(&self, timer: &TimerDue, state: &mut Self::State, meta: &Meta) -> Outcome<Self> {
        let _ = (state, meta);
        Ok(Effects::ignored(format!("no use for the timer {}", timer.name)))
    }

    /// The entity that a schedule of the configuration is about, from the schedule's `data`. Asked for each of them at
    /// the start; an error keeps the bot from starting.
    fn schedule_key(&self, data: &Value) -> Result<String, String> {
        let _ = data;
        Err(format!("{} does nothing on a schedule", Self::ABOUT.name))
    }

    /// A schedule's time has come.
    fn on_schedule(&self, schedule: &TimerDue, state: &mut Self::State, meta: &Meta) -> Outcome<Self> {
        let _ = (state, meta);
        Ok(Effects::ignored(format!("no use for the schedule {}", schedule.name)))
    }

    /// What the bot does besides handling: an HTTP server, a probe, an observer of taps. Ends when cancelled.
    fn service(self: Arc<Self>, cx: ServiceCx<Self>) -> impl Future<Output = anyhow::Result<()>> + Send {
        async move {
            cx.cancelled.cancelled().await;
            Ok(())
        }
    }
}

/// A timer or a schedule whose time has come.
#[derive(Clone, Debug, PartialEq)]
pub struct TimerDue {
    /// As it was set.
    pub name: String,
    /// What was given when it was set.
    pub data: Value,
}

/// How a bot handles one event type. No I/O, no clock: what has to be awaited is a [`Job`].
pub trait Handle<E: Event>: Bot {
    /// The entity the event is about; two events of one entity are never handled at the same time.
    fn key(&self, event: &E) -> String;
    /// From state and event to effects. Runs again when its commit finds the state changed.
    fn handle(&self, event: E, state: &mut Self::State, meta: &Meta) -> Outcome<Self>;
}

/// The head of a list.
pub struct Here;
/// A place further on in a list.
pub struct There<I>(std::marker::PhantomData<I>);

/// `E` is in the list.
#[diagnostic::on_unimplemented(message = "`{E}` is not declared in this bot's contract")]
pub trait Has<E, I> {}
impl<E, T> Has<E, Here> for (E, T) {}
impl<E, H, T: Has<E, I>, I> Has<E, There<I>> for (H, T) {}

/// A list of event types that may be said.
pub trait Says {
    /// Their names.
    fn types(out: &mut Vec<&'static str>);
}
impl Says for () {
    fn types(_: &mut Vec<&'static str>) {}
}
impl<E: Event, T: Says> Says for (E, T) {
    fn types(out: &mut Vec<&'static str>) {
        out.push(E::TYPE);
        T::types(out);
    }
}

/// How the runtime calls a handler without knowing its event.
pub struct Heard<B: Bot> {
    /// The newest version of the payload's schema that the handler reads.
    pub schema_version: u32,
    /// The entity, from `payload.data`.
    pub key: fn(&B, &Value) -> Result<String, String>,
    /// The handler.
    pub handle: fn(&B, &mut B::State, &Meta, Value) -> Outcome<B>,
}

/// Handlers by type.
pub type HandlerTable<B> = BTreeMap<&'static str, Heard<B>>;

/// A list of event types that are heard.
pub trait Hears<B: Bot> {
    /// Their handlers.
    fn table(out: &mut HandlerTable<B>);
}
impl<B: Bot> Hears<B> for () {
    fn table(_: &mut HandlerTable<B>) {}
}
impl<B: Handle<E>, E: Event, T: Hears<B>> Hears<B> for (E, T) {
    fn table(out: &mut HandlerTable<B>) {
        out.insert(
            E::TYPE,
            Heard {
                schema_version: E::SCHEMA_VERSION,
                key: |bot, data| decode::<E>(data).map(|e| bot.key(&e)),
                handle: |bot, state, meta, data| {
                    let event = decode::<E>(&data)
                        .map_err(|e| Fail::reject(bot_messages::Code::InvalidField, anyhow::anyhow!(e)))?;
                    bot.handle(event, state, meta)
                },
            },
        );
        T::table(out);
    }
}

/// Reads `payload.data`; the error names the field.
fn decode<E: Event>(data: &Value) -> Result<E, String> {
    serde_path_to_error::deserialize::<_, E>(data).map_err(|e| match e.path().to_string().as_str() {
        "." | "?" => format!("`payload.data`: {}", e.inner()),
        path => format!("`payload.data.{path}`: {}", e.inner()),
    })
}

/// A list of jobs.
pub trait Jobs<B: Bot> {
    /// How each is run.
    fn table(out: &mut JobTable<B>);
}
impl<B: Bot> Jobs<B> for () {
    fn table(_: &mut JobTable<B>) {}
}
impl<B: Bot, J: Job<Bot = B>, T: Jobs<B>> Jobs<B> for (J, T) {
    fn table(out: &mut JobTable<B>) {
        out.insert(J::KIND, crate::job::erased::<B, J>());
        T::table(out);
    }
}

/// The contract of `B` as data: what the topology and the documentation are generated from.
pub fn contract_of<B: Bot>() -> Contract {
    let about = B::ABOUT;
    let own = |l: &[&str]| l.iter().map(ToString::to_string).collect();
    let (mut says, mut hears, mut jobs) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    B::Says::types(&mut says);
    B::Hears::table(&mut hears);
    B::Jobs::table(&mut jobs);
    Contract {
        name: bot_name(about.name),
        category: about.category,
        responsibility: about.responsibility.to_owned(),
        never: own(about.never),
        actions: own(about.actions),
        hears: hears.keys().map(ToString::to_string).collect(),
        says: own(&says),
        jobs: jobs.keys().map(ToString::to_string).collect(),
        dependencies: about.dependencies.iter().map(|d| bot_name(d)).collect(),
        observes: about.observes.to_vec(),
        features: B::FEATURES
            .iter()
            .map(|f| bot_messages::Feature {
                name: f.name.to_owned(),
                essential: f.essential,
                purpose: f.purpose.to_owned(),
            })
            .collect(),
        loops: B::LOOPS
            .iter()
            .map(|(types, ends_because)| MeantLoop { types: own(types), ends_because: (*ends_because).to_owned() })
            .collect(),
    }
}

/// A name from a contract constant. A wrong one is a mistake in the bot's source and found by its first test.
pub(crate) fn bot_name(name: &str) -> bot_messages::BotName {
    match name.parse() {
        Ok(name) => name,
        Err(e) => unreachable!("{e}"),
    }
}

/// Made-up contracts for the core's own tests.
#[cfg(any(test, fuzzing))]
pub(crate) mod tests_support {
    use super::*;

    pub(crate) fn contract(name: &str, hears: &[&str]) -> Contract {
        Contract {
            hears: hears.iter().map(ToString::to_string).collect(),
            ..Contract::new(bot_name(name), Category::Development)
        }
    }
}
