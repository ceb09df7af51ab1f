//! What is held back by itself (`relief`), between the parts that run: each outcome goes in, intake and claims follow from
//! it, and it is written down and told.
use std::sync::{Arc, PoisonError};

use bot_messages::{
    SafeError,
    bot::{BotPaused, BotResumed},
};
use bot_store::StoreError;
use chrono::TimeDelta;

use super::{
    relief::{Leave, MESSAGES, News, Outside, Relief, what_of},
    shared::Shared,
};
use crate::{bus::Intake, clock, contract::Bot, effects::Fail, meta::Cause};

const HELD_ROW: &str = "auto.held";

/// Kinds of jobs, by whether they may be claimed.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// None of these.
    pub(crate) held: Vec<String>,
    /// One of these, and then it is a probe.
    pub(crate) probes: Vec<String>,
}

impl<B: Bot> Shared<B> {
    pub(crate) fn relief<T>(&self, f: impl FnOnce(&mut Relief) -> T) -> T {
        f(&mut self.relief.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what came of a message or a job. `Some`: something outside failed, so it is held back for so long, and this was
    /// no attempt.
    pub(crate) fn note_outcome(&self, what: &str, failed: Option<&Fail>) -> Option<TimeDelta> {
        let now = clock::now();
        let wait = self.relief(|r| match failed {
            None | Some(Fail::Retry(_) | Fail::Reject { .. }) => {
                r.worked(what, now);
                None
            }
            Some(fail @ Fail::Outside { dependency, code, .. }) => {
                r.failed(what, &Outside::new(dependency, *code, &fail.message()), now)
            }
            Some(Fail::Later(..) | Fail::LeaseLost) => {
                r.unknown(what);
                None
            }
        });
        self.adjust(|_| ());
        wait
    }

    /// Whether messages are taken, as far as this goes.
    pub(crate) fn held_intake(&self) -> Intake {
        let now = clock::now();
        self.relief(|r| match r.leave(MESSAGES, now) {
            Leave::All => Intake::Open,
            Leave::None => Intake::Closed,
            Leave::One => Intake::One,
        })
    }

    pub(crate) fn claims(&self) -> Claims {
        let now = clock::now();
        let mut claims = Claims::default();
        self.relief(|r| {
            for kind in self.jobs.keys().copied() {
                match r.leave(&what_of(kind), now) {
                    Leave::All => {}
                    Leave::One => claims.probes.push(kind.to_owned()),
                    Leave::None => claims.held.push(kind.to_owned()),
                }
            }
        });
        claims
    }

    /// Why less is done than could be, and whether that is nothing at all.
    pub(crate) fn held_why(&self) -> (bool, Vec<String>) {
        self.relief(|r| {
            let held = r.held();
            let all_jobs = !self.jobs.is_empty() && self.jobs.keys().all(|kind| held.contains_key(&what_of(kind)));
            let nothing = held.contains_key(MESSAGES) || all_jobs;
            (nothing, held.iter().map(|(what, hold)| hold.why(what)).collect())
        })
    }
}

/// Goes on from what the store keeps.
pub(crate) async fn recall<B: Bot>(shared: &Arc<Shared<B>>) -> Result<(), StoreError> {
    if let Some(row) = shared.store.meta(HELD_ROW).await? {
        shared.relief(|r| r.recall(&row));
        shared.adjust(|_| ());
    }
    Ok(())
}

/// Tells what began and ended, and writes down what is held. Called again where the store failed.
pub(crate) async fn tell<B: Bot>(shared: &Arc<Shared<B>>) -> Result<(), StoreError> {
    let news = shared.relief(|r| r.news().to_vec());
    for one in &news {
        match one {
            News::Began { what, hold } => tracing::error!("held back: {}", hold.why(what)),
            News::Ended { what, hold } => tracing::info!("{what}: {} is there again", hold.outside.dependency),
        }
        shared.announce(said(shared, one)).await?;
        shared.relief(|r| r.told(1));
    }
    if let Some(row) = shared.relief(Relief::take_row) {
        shared.store.set_meta(HELD_ROW, &row).await?;
    }
    Ok(())
}

fn said<B: Bot>(shared: &Arc<Shared<B>>, news: &News) -> Option<bot_store::Outgoing> {
    let (bot, instance, now) = (shared.contract.name.to_string(), shared.tools.instance.clone(), clock::now());
    let by = bot.clone();
    match news {
        News::Began { what, hold } => {
            let error = SafeError::new(hold.outside.code, hold.outside.error.clone(), hold.since);
            let (reason, what) = (hold.why(what), Some(what.clone()));
            let dependency = Some(hold.outside.dependency.clone());
            let paused = BotPaused { bot, instance, reason, by, what, dependency, error: Some(error) };
            shared.speaker.say_core(&paused, &Cause::default(), now)
        }
        News::Ended { what, hold } => {
            let dependency = Some(hold.outside.dependency.clone());
            let resumed = BotResumed { bot, instance, by, what: Some(what.clone()), dependency };
            shared.speaker.say_core(&resumed, &Cause::default(), now)
        }
    }
}
