//! Bots in conversation without a broker: what one says is handed to those whose contract hears it, as the topology would;
//! jobs run as soon as they are started. Everything that was said can be looked at.
use std::{collections::VecDeque, sync::Arc, time::Duration};

use bot_core::{Bot, Effect, Effects, Fail, GaveUp, JobTable, Jobs, contract_of};
use bot_messages::{BotName, Code, Contract, FailureReason, SafeError};
use chrono::Utc;
use serde_json::Value;

use crate::{Acts, JobRecord, Rehearsal};

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
    fn hear(&mut self, line: &Line) -> Result<Acts, String>;
    /// Runs a job; what it says during and at its end, and what follows from that at once.
    fn work(&mut self, kind: &str, payload: Value) -> Acts;
    /// Time passes.
    fn pass(&mut self, by: Duration) -> Acts;
}

struct Seat<B: Bot> {
    rehearsal: Rehearsal<B>,
    contract: Contract,
    jobs: JobTable<B>,
}

/// A conversation longer than this feeds itself.
const MESSAGES_MAX: usize = 200;
const CORRELATION: &str = "conversation";

impl Conversation {
    /// Lets a bot take part.
    #[must_use]
    pub fn with<B: Bot>(mut self, bot: B) -> Self {
        let mut jobs = JobTable::<B>::new();
        B::Jobs::table(&mut jobs);
        let mut rehearsal = Rehearsal::new(Arc::new(bot));
        rehearsal.now = Utc::now();
        let seat = Seat { rehearsal, contract: contract_of::<B>(), jobs };
        self.players.push(Box::new(seat));
        self
    }

    /// Says something from outside, and lets everyone talk until all is said. Blocks: jobs run on a runtime of their own.
    pub fn say(&mut self, event_type: &str, data: Value) -> &mut Self {
        self.waiting.push_back(Line { source: "outside".into(), event_type: event_type.into(), data });
        self.talk();
        self
    }

    /// Lets time pass for everyone, and lets everyone talk about it.
    pub fn pass(&mut self, by: Duration) -> &mut Self {
        for index in 0..self.players.len() {
            let acts = self.players[index].pass(by);
            self.carry_out(index, acts);
        }
        self.talk();
        self
    }

    fn talk(&mut self) {
        while let Some(line) = self.waiting.pop_front() {
            self.said.push(line.clone());
            assert!(self.said.len() < MESSAGES_MAX, "the conversation does not end: {:#?}", self.types());
            self.hand_out(&line);
        }
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
        for index in 0..self.players.len() {
            let player = &mut self.players[index];
            if !player.contract().hears.contains(&line.event_type) {
                continue;
            }
            match player.hear(line) {
                Ok(acts) => self.carry_out(index, acts),
                Err(why) => self.refused.push((line.clone(), why)),
            }
        }
    }

    /// Everything but timers, which the player keeps itself.
    fn carry_out(&mut self, index: usize, acts: Acts) {
        let source = self.players[index].contract().name.to_string();
        let mut acts: VecDeque<_> = acts.into();
        while let Some((_, effect)) = acts.pop_front() {
            match effect {
                Effect::Say { event_type, data, .. } => {
                    self.waiting.push_back(Line { source: source.clone(), event_type: event_type.into(), data });
                }
                Effect::Start { kind, payload, .. } => acts.extend(self.players[index].work(kind, payload)),
                Effect::SetTimer { .. } | Effect::ClearTimer { .. } | Effect::WakeTimer { .. } => {}
            }
        }
    }
}

impl<B: Bot> Player for Seat<B> {
    fn contract(&self) -> &Contract {
        &self.contract
    }

    fn hear(&mut self, line: &Line) -> Result<Acts, String> {
        // As the broker proves it.
        let publisher = line.source.parse::<BotName>().map_or_else(|_| line.source.clone(), |name| name.slug());
        let heard = self.rehearsal.hear_raw(CORRELATION, &publisher, &line.event_type, &line.data);
        heard.map_err(|fail| fail.message())
    }

    fn work(&mut self, kind: &str, payload: Value) -> Acts {
        let job = &self.jobs[kind];
        let bot = &self.rehearsal.bot;
        let record = JobRecord::new();
        let cx = Arc::new(record.cx::<B>());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let outcome = runtime.block_on((job.run)(bot.clone(), payload.clone(), cx));
        let last: Effects<B> = outcome.unwrap_or_else(|fail| (job.gave_up)(bot, payload, &gave_up(&fail)));
        let mut effects = record.effects();
        effects.extend(last.list);
        self.rehearsal.take(CORRELATION, effects)
    }

    fn pass(&mut self, by: Duration) -> Acts {
        self.rehearsal.pass(by)
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
