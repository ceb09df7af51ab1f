//! Bots in conversation without a broker: what one says is handed to those whose contract hears it, as the topology would;
//! jobs run as soon as they are started. Everything that was said can be looked at.
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bot_core::{Bot, Effect, Effects, Fail, GaveUp, HandlerTable, Hears, JobTable, Jobs, Meta, contract_of};
use bot_messages::{Code, Contract, FailureReason, Priority, SafeError};
use chrono::Utc;
use serde_json::Value;

use crate::JobRecord;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The bot's name; `outside` for what the test says.
    pub source: String,
    /// The type.
    pub event_type: String,
    /// `payload.data`.
    pub data: Value,
}

/// Bots that talk. Ends when nobody has anything more to say.
#[derive(Default)]
pub struct Conversation {
    players: Vec<Box<dyn Player>>,
    waiting: VecDeque<Line>,
    /// Everything that was said, in order.
    pub said: Vec<Line>,
    /// Messages that no bot hears, or that a handler refused, with the reason.
    pub refused: Vec<(Line, String)>,
}

/// A bot without its type.
trait Player {
    fn contract(&self) -> &Contract;
    fn hear(&mut self, line: &Line) -> Result<Vec<Effect>, String>;
    /// Runs a job; what it says during and at its end.
    fn work(&mut self, kind: &str, payload: Value) -> Vec<Effect>;
}

struct Seat<B: Bot> {
    bot: Arc<B>,
    contract: Contract,
    handlers: HandlerTable<B>,
    jobs: JobTable<B>,
    states: BTreeMap<String, Value>,
}

/// A conversation longer than this feeds itself.
const MESSAGES_MAX: usize = 200;

impl Conversation {
    /// Lets a bot take part.
    #[must_use]
    pub fn with<B: Bot>(mut self, bot: B) -> Self {
        let (mut handlers, mut jobs) = (HandlerTable::<B>::new(), JobTable::<B>::new());
        B::Hears::table(&mut handlers);
        B::Jobs::table(&mut jobs);
        let seat = Seat { bot: Arc::new(bot), contract: contract_of::<B>(), handlers, jobs, states: BTreeMap::new() };
        self.players.push(Box::new(seat));
        self
    }

    /// Says something from outside, and lets everyone talk until all is said. Blocks: jobs run on a runtime of their own.
    pub fn say(&mut self, event_type: &str, data: Value) -> &mut Self {
        self.waiting.push_back(Line { source: "outside".into(), event_type: event_type.into(), data });
        while let Some(line) = self.waiting.pop_front() {
            self.said.push(line.clone());
            assert!(self.said.len() < MESSAGES_MAX, "the conversation does not end: {:#?}", self.types());
            self.hand_out(&line);
        }
        self
    }

    /// The types that were said, in order.
    pub fn types(&self) -> Vec<&str> {
        self.said.iter().map(|l| l.event_type.as_str()).collect()
    }

    /// The data of the only message of a type.
    pub fn only(&self, event_type: &str) -> &Value {
        let found: Vec<&Line> = self.said.iter().filter(|l| l.event_type == event_type).collect();
        assert_eq!(found.len(), 1, "{event_type} among {:#?}", self.said);
        &found[0].data
    }

    fn hand_out(&mut self, line: &Line) {
        for player in &mut self.players {
            if !player.contract().hears.contains(&line.event_type) {
                continue;
            }
            let source = player.contract().name.to_string();
            let mut effects: VecDeque<Effect> = match player.hear(line) {
                Ok(effects) => effects.into(),
                Err(why) => {
                    self.refused.push((line.clone(), why));
                    continue;
                }
            };
            while let Some(effect) = effects.pop_front() {
                match effect {
                    Effect::Say { event_type, data, .. } => {
                        self.waiting.push_back(Line { source: source.clone(), event_type: event_type.into(), data });
                    }
                    Effect::Start { kind, payload, .. } => effects.extend(player.work(kind, payload)),
                    Effect::SetTimer { .. } | Effect::ClearTimer { .. } => {}
                }
            }
        }
    }
}

impl<B: Bot> Player for Seat<B> {
    fn contract(&self) -> &Contract {
        &self.contract
    }

    fn hear(&mut self, line: &Line) -> Result<Vec<Effect>, String> {
        let heard = &self.handlers[line.event_type.as_str()];
        let key = (heard.key)(&self.bot, &line.data)?;
        let stored = self.states.get(&key).cloned();
        let mut state: B::State = stored.map(serde_json::from_value).transpose().unwrap().unwrap_or_default();
        let meta = Meta {
            id: uuid::Uuid::now_v7().to_string(),
            publisher: line.source.clone(),
            correlation_id: "conversation".into(),
            priority: Priority::default(),
            attempt: 1,
            now: Utc::now(),
        };
        let effects = (heard.handle)(&self.bot, &mut state, &meta, line.data.clone()).map_err(|f| f.message())?;
        self.states.insert(key, serde_json::to_value(&state).unwrap());
        Ok(effects.list)
    }

    fn work(&mut self, kind: &str, payload: Value) -> Vec<Effect> {
        let job = &self.jobs[kind];
        let record = JobRecord::new();
        let cx = Arc::new(record.cx::<B>());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let outcome = runtime.block_on((job.run)(self.bot.clone(), payload.clone(), cx));
        let last: Effects<B> = outcome.unwrap_or_else(|fail| (job.gave_up)(&self.bot, payload, &gave_up(&fail)));
        let mut effects = record.effects();
        effects.extend(last.list);
        effects
    }
}

/// As the runtime ends a job that failed for good.
fn gave_up(fail: &Fail) -> GaveUp {
    let code = match fail {
        Fail::Reject { code, .. } => *code,
        _ => Code::AttemptsExhausted,
    };
    let error = SafeError::new(code, fail.message(), Utc::now());
    let reason = match code {
        Code::CommandFailed | Code::TestsFailed | Code::NoTests | Code::HealthCheckFailed => FailureReason::Failed,
        _ => FailureReason::Error,
    };
    GaveUp { job_id: "job-1".into(), reason, error, attempts: 1, duration_ms: 1 }
}
