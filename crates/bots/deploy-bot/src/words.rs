//! What the parts of the bot say to each other. A state key is read and written alone, so what one has to tell another
//! travels as a durable timer of no length: it is committed with what led to it, and handled once.
use std::time::Duration;

use bot_core::Effects;
use bot_messages::{
    Digest,
    deploy::{AttemptState, AttemptStep},
};
use serde::{Deserialize, Serialize};

use crate::{DeployBot, job::Want, proofs};

/// What is said to the desk of an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Word {
    pub(crate) environment: String,
    pub(crate) what: What,
}

/// By whom it is said stands beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// The shelf of proofs: this may go there.
    Offer(Box<Offer>),
    /// An attempt to itself: look whether its gate is open.
    Turn { number: u64 },
    /// Another desk, `asker`: is this healthy at yours?
    Ask { asker: String, number: u64, digest: Digest },
    /// The desk that was asked.
    Answer { number: u64, healthy: bool },
    /// The desk from which this one takes its artifacts: this is healthy now.
    Promoted { digest: Digest },
    /// A job: this was done.
    Step { number: u64, job_id: String, step: AttemptStep },
    /// A job: so it ended.
    Ended { number: u64, end: End },
}

/// Something that is to be put into an environment, or taken back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) want: Want,
    /// Who or what asks, for the history.
    pub(crate) by: String,
    /// Someone asked for just this: it goes over what is newer.
    pub(crate) by_hand: bool,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) job_id: String,
    pub(crate) state: AttemptState,
    pub(crate) why: String,
    /// What the attempt was about, as a rollback learns it late.
    pub(crate) digest: Option<Digest>,
    /// What is there now, as far as the journal says.
    pub(crate) current: Option<Digest>,
}

/// The state key of an environment's desk.
pub(crate) fn desk(environment: &str) -> String {
    format!("environment:{environment}")
}

/// Says it to an environment's desk, at once. A word of the same name that was not handled yet is replaced.
pub(crate) fn say(environment: &str, name: &str, what: What) -> Effects<DeployBot> {
    later(environment, name, Duration::ZERO, what)
}

/// Says it after a while.
pub(crate) fn later(environment: &str, name: &str, after: Duration, what: What) -> Effects<DeployBot> {
    let word = Word { environment: environment.to_owned(), what };
    // Words have string keys alone, so that this cannot fail.
    let data = serde_json::to_value(word).unwrap_or_default();
    Effects::none().set_timer(name, &desk(environment), after, data)
}

/// A job that is to be done once more asks the shelf of proofs: may this go there still?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Again {
    pub(crate) environment: String,
    pub(crate) digest: Digest,
    pub(crate) by: String,
}

/// How its timers begin.
pub(crate) const AGAIN: &str = "again:";

impl Again {
    pub(crate) fn say(&self, id: &str) -> Effects<DeployBot> {
        let data = serde_json::to_value(self).unwrap_or_default();
        Effects::none().set_timer(&format!("{AGAIN}{id}"), &proofs::key(&self.digest), Duration::ZERO, data)
    }
}

/// The name of the timer that is an attempt's turn.
pub(crate) fn turn(environment: &str, number: u64) -> String {
    format!("turn:{environment}:{number}")
}
