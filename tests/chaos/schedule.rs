//! What goes wrong, when and for how long: a pure function of the seed. Nothing here touches anything.
use std::fmt;

use ::tests::{chain::Kind, proxy::Cut};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

/// Every place of the core at which WorkBot's or CountBot's process is ended. A run that reaches another one fails.
pub(crate) const PLACES: [&str; 22] = [
    "inbox: read",
    "inbox: handled",
    "inbox: committed",
    "inbox: acknowledged",
    "letter: committed",
    "suspect: marked",
    "suspect: cleared",
    "relay: taken from the outbox",
    "relay: published",
    "relay: forgotten",
    "timer: due",
    "timer: handled",
    "timer: committed",
    "job: claimed",
    "job: done",
    "job: committed",
    "step begun: done",
    "step begun: committed",
    "step put: done",
    "step put: committed",
    "step noting: done",
    "step noting: committed",
];

/// Longer than AMQP's heartbeats wait for each other.
const LONG_MS: u64 = 25_000;

/// One of the two bots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Work,
    Count,
}

impl Who {
    pub(crate) const BOTH: [Self; 2] = [Self::Work, Self::Count];

    pub(crate) fn slug(self) -> &'static str {
        match self {
            Self::Work => "work-bot",
            Self::Count => "count-bot",
        }
    }
}

/// Bindings that are gone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bindings {
    /// Those of what a bot has to try again.
    Retries,
    /// All of what the outside publisher says.
    OfOutside,
    /// All of what WorkBot says to CountBot.
    OfWork,
    /// The one of what CountBot says.
    OfCount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and started again at once.
    Kill(Who),
    /// SIGTERM, and started again after a while.
    Stop(Who),
    /// SIGSTOP, and SIGCONT.
    Freeze(Who),
    /// Its process is ended at a place between two steps.
    CrashAt(Who, &'static str),
    Cut(Who, Cut),
    Refuse(Who),
    Delay(Who),
    Throttle(Who),
    /// What the bot says (`true`) or hears (`false`) does not arrive.
    Blackhole(Who, bool),
    /// A node of it.
    KillBroker(usize),
    /// All of it, in order.
    StopBroker,
    FreezeBroker(usize),
    CloseConnections(Who),
    EndChannels(usize),
    Unbind(Bindings),
    /// A queue that is empty.
    DeleteQueue(Who),
    MemoryAlarm,
    DiskAlarm,
    FullStore(Who),
    RejectConfirms,
    Rotate(Who),
}

impl Fault {
    /// Without whom it hits.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "bot killed",
            Self::Stop(_) => "bot stopped",
            Self::Freeze(_) => "bot frozen",
            Self::CrashAt(..) => "bot ended between two steps",
            Self::Cut(_, Cut::Reset) => "connections reset",
            Self::Cut(_, Cut::Finish) => "connections finished",
            Self::Refuse(_) => "connections refused",
            Self::Delay(_) => "network delayed",
            Self::Throttle(_) => "network throttled",
            Self::Blackhole(_, true) => "network swallows what is sent",
            Self::Blackhole(_, false) => "network swallows what is received",
            Self::KillBroker(_) => "broker killed",
            Self::StopBroker => "broker stopped",
            Self::FreezeBroker(_) => "broker frozen",
            Self::CloseConnections(_) => "connections closed by the broker",
            Self::EndChannels(_) => "channels ended in the broker",
            Self::Unbind(_) => "bindings deleted",
            Self::DeleteQueue(_) => "empty queue deleted",
            Self::MemoryAlarm => "memory alarm",
            Self::DiskAlarm => "disk alarm",
            Self::FullStore(_) => "store full",
            Self::RejectConfirms => "confirms rejected",
            Self::Rotate(_) => "credentials rotated",
        }
    }
}

/// One fault, how long it lasts, and perhaps a bot that is killed in its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) fault: Fault,
    pub(crate) hold_ms: u64,
    pub(crate) also_killed: Option<Who>,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} for {} ms", self.fault, self.hold_ms)?;
        self.also_killed.map_or(Ok(()), |who| write!(f, ", {} killed meanwhile", who.slug()))
    }
}

/// Every kind of fault once in some order, then any, of which some last long.
pub(crate) fn schedule(seed: u64, rounds: usize, nodes: usize) -> Vec<Round> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut faults = every_kind(&mut dice, nodes);
    faults.shuffle(&mut dice);
    while faults.len() < rounds {
        let again = every_kind(&mut dice, nodes);
        faults.push(again[dice.random_range(0..again.len())]);
    }
    let kinds = every_kind(&mut dice, nodes).len();
    let round = |(n, fault)| {
        let is_long = n >= kinds && dice.random_bool(0.05);
        let hold_ms = if is_long { LONG_MS } else { dice.random_range(800..4000) };
        Round { fault, hold_ms, also_killed: dice.random_bool(0.2).then(|| who(&mut dice)) }
    };
    faults.into_iter().enumerate().map(round).collect()
}

/// One of each kind.
fn every_kind(dice: &mut StdRng, nodes: usize) -> Vec<Fault> {
    let place = PLACES[dice.random_range(0..PLACES.len())];
    let bindings = [Bindings::Retries, Bindings::OfOutside, Bindings::OfWork, Bindings::OfCount];
    let node = |dice: &mut StdRng| dice.random_range(0..nodes);
    vec![
        Fault::Kill(who(dice)),
        Fault::Stop(who(dice)),
        Fault::Freeze(who(dice)),
        // Only the first of the two comes to places of jobs and timers.
        Fault::CrashAt(Who::Work, place),
        Fault::Cut(who(dice), Cut::Reset),
        Fault::Cut(who(dice), Cut::Finish),
        Fault::Refuse(who(dice)),
        Fault::Delay(who(dice)),
        Fault::Throttle(who(dice)),
        Fault::Blackhole(who(dice), true),
        Fault::Blackhole(who(dice), false),
        Fault::KillBroker(node(dice)),
        Fault::StopBroker,
        Fault::FreezeBroker(node(dice)),
        Fault::CloseConnections(who(dice)),
        Fault::EndChannels(node(dice)),
        Fault::Unbind(bindings[dice.random_range(0..bindings.len())]),
        Fault::DeleteQueue(who(dice)),
        Fault::MemoryAlarm,
        Fault::DiskAlarm,
        Fault::FullStore(who(dice)),
        Fault::RejectConfirms,
        Fault::Rotate(who(dice)),
    ]
}

fn who(dice: &mut StdRng) -> Who {
    Who::BOTH[dice.random_range(0..Who::BOTH.len())]
}

/// Which way message `number` takes: of any 50 in a row, each kind has its share. `Later` is given its second when it is sent.
pub(crate) fn kind(seed: u64, number: u64) -> Kind {
    match (number * 37 + seed % 50) % 50 {
        0..25 => Kind::Say,
        25..30 => Kind::Timer,
        30..40 => Kind::Work,
        40..42 => Kind::WorkAgain,
        42..45 => Kind::Retry,
        45..48 => Kind::Later(0),
        48 => Kind::Reject,
        _ => Kind::Unreadable,
    }
}

/// WorkBot ends once at every place.
pub(crate) fn every_place() -> Vec<Round> {
    let at = |place| Round { fault: Fault::CrashAt(Who::Work, place), hold_ms: 200, also_killed: None };
    PLACES.into_iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_a_schedule_and_every_kind_of_fault_is_in_it() {
        let first = schedule(7, 40, 3);
        assert_eq!(first, schedule(7, 40, 3));
        assert_ne!(first, schedule(8, 40, 3));
        let kinds: BTreeSet<&str> = first.iter().map(|round| round.fault.kind()).collect();
        assert_eq!((first.len(), kinds.len()), (40, 23), "{kinds:#?}");
        let ways: BTreeSet<Kind> = (100..150).map(|n| kind(7, n)).collect();
        assert_eq!(ways.len(), 8, "{ways:?}");
    }
}
