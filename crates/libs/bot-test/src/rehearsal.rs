//! One bot's handlers, states and timers on a clock of the test's own. Jobs are not run: the test sees that they are
//! started, and says how they end.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bot_core::{Bot, Effect, Fail, HandlerTable, Hears, Meta, TimerDue};
use bot_messages::{Event, Priority};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

/// What a bot says and starts, each with the correlation it belongs to.
pub type Acts = Vec<(String, Effect)>;

/// Timers at once that lead to further ones, more often than this, feed each other.
const TIMERS_MAX: usize = 1000;

/// A bot that is handed messages and time.
pub struct Rehearsal<B: Bot> {
    /// The bot.
    pub bot: Arc<B>,
    /// Its clock.
    pub now: DateTime<Utc>,
    /// Why messages and timers did nothing, or something unusual; the newest last.
    pub notes: Vec<String>,
    handlers: HandlerTable<B>,
    states: BTreeMap<String, Value>,
    timers: BTreeMap<String, Timer>,
    messages: u64,
}

struct Timer {
    key: String,
    due: DateTime<Utc>,
    set: u64,
    data: Value,
    correlation: String,
}

impl<B: Bot> Rehearsal<B> {
    /// At noon of 1 November 2026.
    pub fn new(bot: Arc<B>) -> Self {
        let mut handlers = HandlerTable::<B>::new();
        B::Hears::table(&mut handlers);
        let now = DateTime::from_timestamp(1_793_534_400, 0).unwrap();
        Self { bot, now, notes: Vec::new(), handlers, states: BTreeMap::new(), timers: BTreeMap::new(), messages: 0 }
    }

    /// Hands it a message of a correlation, and whatever timers that makes due.
    pub fn hear<E: Event>(&mut self, correlation: &str, publisher: &str, event: &E) -> Result<Acts, Fail> {
        self.hear_raw(correlation, publisher, E::TYPE, &serde_json::to_value(event).unwrap())
    }

    pub(crate) fn hear_raw(
        &mut self,
        correlation: &str,
        publisher: &str,
        event_type: &str,
        data: &Value,
    ) -> Result<Acts, Fail> {
        self.messages += 1;
        let heard = &self.handlers[event_type];
        // What cannot be read has no key; the handler says what is wrong with it.
        let key = (heard.key)(&self.bot, data).unwrap_or_default();
        let meta = self.meta(correlation, publisher);
        let mut state = self.state(&key);
        let effects = (heard.handle)(&self.bot, &mut state, &meta, data.clone())?;
        self.states.insert(key, serde_json::to_value(&state).unwrap());
        self.notes.extend(effects.note);
        let mut acts = self.apply(correlation, effects.list);
        acts.extend(self.fire_due());
        Ok(acts)
    }

    /// The effects of a job, in the correlation it belongs to.
    pub fn take(&mut self, correlation: &str, effects: Vec<Effect>) -> Acts {
        let mut acts = self.apply(correlation, effects);
        acts.extend(self.fire_due());
        acts
    }

    /// Lets time pass.
    pub fn pass(&mut self, by: Duration) -> Acts {
        self.now += TimeDelta::from_std(by).unwrap();
        self.fire_due()
    }

    /// What it remembers of an entity.
    pub fn state(&self, key: &str) -> B::State {
        self.states.get(key).map(|state| serde_json::from_value(state.clone()).unwrap()).unwrap_or_default()
    }

    /// The names of the timers that are set.
    pub fn timers(&self) -> Vec<&str> {
        self.timers.keys().map(String::as_str).collect()
    }

    fn meta(&self, correlation: &str, publisher: &str) -> Meta {
        Meta {
            id: format!("message-{}", self.messages),
            publisher: publisher.to_owned(),
            correlation_id: correlation.to_owned(),
            priority: Priority::default(),
            attempt: 1,
            now: self.now,
        }
    }

    /// Keeps timers; gives back everything else.
    fn apply(&mut self, correlation: &str, effects: Vec<Effect>) -> Acts {
        let mut acts = Acts::new();
        for effect in effects {
            match effect {
                Effect::SetTimer { name, key, after, data } => {
                    self.messages += 1;
                    let due = self.now + TimeDelta::from_std(after).unwrap();
                    let timer = Timer { key, due, set: self.messages, data, correlation: correlation.to_owned() };
                    self.timers.insert(name, timer);
                }
                Effect::ClearTimer { name } => drop(self.timers.remove(&name)),
                Effect::WakeTimer { name } => {
                    if let Some(timer) = self.timers.get_mut(&name) {
                        timer.due = timer.due.min(self.now);
                    }
                }
                other => acts.push((correlation.to_owned(), other)),
            }
        }
        acts
    }

    fn fire_due(&mut self) -> Acts {
        let mut acts = Acts::new();
        for _ in 0..TIMERS_MAX {
            let due = self.timers.iter().filter(|(_, timer)| timer.due <= self.now);
            let Some(name) = due.min_by_key(|(_, timer)| (timer.due, timer.set)).map(|(name, _)| name.clone()) else {
                return acts;
            };
            let Timer { key, data, correlation, .. } = self.timers.remove(&name).unwrap();
            let meta = self.meta(&correlation, "self");
            let mut state = self.state(&key);
            let effects = self.bot.on_timer(&TimerDue { name, data }, &mut state, &meta);
            let effects = effects.unwrap_or_else(|fail| panic!("a timer failed: {}", fail.message()));
            self.states.insert(key, serde_json::to_value(&state).unwrap());
            self.notes.extend(effects.note);
            acts.extend(self.apply(&correlation, effects.list));
        }
        panic!("timers feed each other: {:?}", self.timers.keys())
    }
}
