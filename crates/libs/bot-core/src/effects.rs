//! What a handler or a job wants to happen, as data; and the few ways in which it can fail.
use std::{fmt, marker::PhantomData, time::Duration};

use bot_messages::{Code, Event, Kind, Priority};
use serde_json::Value;

use crate::{
    contract::{Bot, Has},
    job::Job,
};

/// What a handler or a job comes to.
pub type Outcome<B> = Result<Effects<B>, Fail>;

/// One thing that happens when the commit succeeds.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A message goes out.
    Say {
        /// Its type.
        event_type: &'static str,
        /// `payload.data`.
        data: Value,
        /// How urgent.
        priority: Priority,
        /// The bot that is asked, for commands.
        to: Option<String>,
        /// Version of the payload's schema.
        schema_version: u32,
    },
    /// A job begins.
    Start {
        /// Which.
        kind: &'static str,
        /// The entity it is about.
        key: String,
        /// No two with the same at a time.
        exclusive: Option<String>,
        /// How many jobs of its entity are run for one of an entity of weight 1, while both wait.
        weight: u32,
        /// What it needs to know.
        payload: Value,
    },
    /// A timer is set; one of the same name is replaced.
    SetTimer {
        /// Unique in the bot.
        name: String,
        /// The entity it is about.
        key: String,
        /// From now.
        after: Duration,
        /// What it needs to know.
        data: Value,
    },
    /// A timer is cleared.
    ClearTimer {
        /// Its name.
        name: String,
    },
    /// A timer that is set becomes due now; it keeps its data and where it comes from.
    WakeTimer {
        /// Its name.
        name: String,
    },
}

impl Effect {
    pub(crate) fn start<J: Job>(key: &str, weight: u32, job: &J) -> Self {
        Self::Start { kind: J::KIND, key: key.to_owned(), exclusive: job.exclusive(), weight, payload: json(job) }
    }
}

/// Effects, in order, with the reason for people.
pub struct Effects<B> {
    /// In order.
    pub list: Vec<Effect>,
    /// Why nothing, or something unusual, was done.
    pub note: Option<String>,
    bot: PhantomData<fn() -> B>,
}

impl<B> PartialEq for Effects<B> {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list && self.note == other.note
    }
}
impl<B> fmt::Debug for Effects<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Effects").field("list", &self.list).field("note", &self.note).finish()
    }
}
impl<B> Clone for Effects<B> {
    fn clone(&self) -> Self {
        Self { list: self.list.clone(), note: self.note.clone(), bot: PhantomData }
    }
}
impl<B: Bot> Default for Effects<B> {
    fn default() -> Self {
        Self::none()
    }
}

fn json<T: serde::Serialize>(value: &T) -> Value {
    // Every type that gets here derives Serialize with string keys, which cannot fail.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

impl<B> Effects<B> {
    /// Effects of the core itself, which is no bot.
    pub(crate) fn none_core() -> Self {
        Self { list: Vec::new(), note: None, bot: PhantomData }
    }

    /// What every bot may say of itself.
    pub(crate) fn say_core<E: Event>(self, event: &E) -> Self {
        self.push_say(event, None)
    }

    fn push_say<E: Event>(mut self, event: &E, to: Option<String>) -> Self {
        debug_assert_eq!(to.is_some(), E::KIND == Kind::Command, "commands are asked, events are said");
        self.list.push(Effect::Say {
            event_type: E::TYPE,
            data: json(event),
            priority: E::PRIORITY,
            to,
            schema_version: E::SCHEMA_VERSION,
        });
        self
    }
}

impl<B: Bot> Effects<B> {
    /// Nothing.
    pub fn none() -> Self {
        Self::none_core()
    }

    /// Nothing, and why: shown by `lota show`.
    pub fn ignored(reason: impl Into<String>) -> Self {
        Self { note: Some(reason.into()), ..Self::none() }
    }

    /// A word for people about what is done.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Says an event that the contract declares.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "what is said is given away, and reads so at the call")]
    pub fn say<E: Event, I>(self, event: E) -> Self
    where
        B::Says: Has<E, I>,
    {
        self.push_say(&event, None)
    }

    /// Asks a bot, by a command that the contract declares.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "what is asked is given away, and reads so at the call")]
    pub fn ask<E: Event, I>(self, bot: &str, command: E) -> Self
    where
        B::Says: Has<E, I>,
    {
        self.push_say(&command, Some(bot.to_owned()))
    }

    /// Begins a job about the entity `key`. Entities whose jobs wait take turns.
    #[must_use]
    pub fn start<J: Job<Bot = B>, I>(self, key: &str, job: &J) -> Self
    where
        B::Jobs: Has<J, I>,
    {
        self.start_weighted(key, job, 1)
    }

    /// The same for an entity that has `weight` turns (at least 1) for each one of others.
    #[must_use]
    pub fn start_weighted<J: Job<Bot = B>, I>(mut self, key: &str, job: &J, weight: u32) -> Self
    where
        B::Jobs: Has<J, I>,
    {
        self.list.push(Effect::start(key, weight, job));
        self
    }

    /// Sets a timer about the entity `key`.
    #[must_use]
    pub fn set_timer(mut self, name: &str, key: &str, after: Duration, data: Value) -> Self {
        self.list.push(Effect::SetTimer { name: name.to_owned(), key: key.to_owned(), after, data });
        self
    }

    /// Clears a timer.
    #[must_use]
    pub fn clear_timer(mut self, name: &str) -> Self {
        self.list.push(Effect::ClearTimer { name: name.to_owned() });
        self
    }

    /// Makes a timer due now, where one of that name is set. What follows from it still belongs to the cause it was set
    /// for, not to the one that woke it.
    #[must_use]
    pub fn wake_timer(mut self, name: &str) -> Self {
        self.list.push(Effect::WakeTimer { name: name.to_owned() });
        self
    }

    /// Both, in order.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.list.extend(other.list);
        self.note = other.note.or(self.note);
        self
    }
}

/// How a handler or a job fails. It chooses; nobody guesses from an error's type.
#[derive(Debug)]
pub enum Fail {
    /// It may work next time: counts as an attempt.
    Retry(anyhow::Error),
    /// It will never work: dead letter, or the job's failure.
    Reject {
        /// For programs.
        code: Code,
        /// For people.
        error: anyhow::Error,
    },
    /// Not now: tried again after a while, without counting.
    Later(Duration, anyhow::Error),
    /// Something outside failed. As [`Fail::Retry`]; but where most fails for the same reason, or the bot cannot work without
    /// it, what waits is held back until a probe succeeds, and then this was no attempt.
    Outside {
        /// What is outside: an essential feature of the contract, or another name such as `git:example.org`.
        dependency: String,
        /// How it failed.
        code: Code,
        /// For people.
        error: anyhow::Error,
    },
    /// The job was taken over: whatever it still wants is void.
    LeaseLost,
}

impl Fail {
    /// Will never work, because of `code`.
    pub fn reject(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Self::Reject { code, error: error.into() }
    }
    /// May work next time.
    pub fn retry(error: impl Into<anyhow::Error>) -> Self {
        Self::Retry(error.into())
    }
    /// `dependency`, which is outside, failed; how, the error's causes say.
    pub fn outside(dependency: impl Into<String>, error: impl Into<anyhow::Error>) -> Self {
        let error = error.into();
        Self::Outside { dependency: dependency.into(), code: crate::outside::code_of(&error), error }
    }
    /// For people: without the secrets of this process.
    pub fn message(&self) -> String {
        match self {
            Self::Retry(e) | Self::Reject { error: e, .. } | Self::Later(_, e) | Self::Outside { error: e, .. } => {
                crate::guard::clean(&format!("{e:#}")).into_owned()
            }
            Self::LeaseLost => "the job was taken over by another process".to_owned(),
        }
    }
}
impl PartialEq for Fail {
    /// By kind, code and text: enough to compare outcomes in tests.
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
            && self.message() == other.message()
            && match (self, other) {
                (Self::Reject { code: a, .. }, Self::Reject { code: b, .. }) => a == b,
                (Self::Outside { dependency: a, code: b, .. }, Self::Outside { dependency: c, code: d, .. }) => {
                    (a, b) == (c, d)
                }
                _ => true,
            }
    }
}
