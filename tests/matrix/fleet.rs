//! What the contracts grant, worked out from them alone. One more bot per type hears just that type, so that a message
//! which came further than it should is seen, also where the bot it came to hears its key anyway.
use std::collections::BTreeSet;

use bot_messages::{
    Contract, Event as _, Kind, MeantLoop, OutsidePublisher, Tap, Tier, catalogue, contract::control_types,
    message::MessageDeadLettered,
};

const CONTRACTS: &str = include_str!("../../deploy/rabbitmq/contracts.json");
/// How the names of those begin that hear one type each.
pub(crate) const EAR: &str = "ear-";

/// Bots, ears and publishers.
pub(crate) struct Fleet {
    pub(crate) bots: Vec<Contract>,
    pub(crate) outside: Vec<OutsidePublisher>,
}

/// The contracts of this release.
pub(crate) fn contracts() -> Vec<Contract> {
    serde_json::from_str(CONTRACTS).unwrap()
}

/// The publisher that a fleet ships with.
pub(crate) fn outside() -> OutsidePublisher {
    let says = ["repository.pushed", "deploy.requested"];
    OutsidePublisher { hears_all: true, ..OutsidePublisher::new("outside".parse().unwrap(), &says) }
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let mut bots = contracts();
        let controls = control_types();
        for (number, entry) in catalogue::all().iter().enumerate() {
            if controls.contains(&entry.event_type) {
                continue;
            }
            let mut ear = bots[0].clone();
            ear.name = format!("{EAR}{number}").parse().unwrap();
            ear.hears = vec![entry.event_type.to_owned()];
            (ear.says, ear.observes, ear.dependencies) = (Vec::new(), Vec::new(), Vec::new());
            // Any bot may say that it put a message aside: the ear for that could hear itself, if it said anything.
            ear.loops = if entry.event_type == MessageDeadLettered::TYPE {
                vec![MeantLoop { types: ear.hears.clone(), ends_because: "an ear says nothing".to_owned() }]
            } else {
                Vec::new()
            };
            bots.push(ear);
        }
        let outside = vec![
            outside(),
            OutsidePublisher::new("ci".parse().unwrap(), &["test.completed", "test.report_requested"]),
            OutsidePublisher::operator(),
        ];
        Self { bots, outside }
    }

    /// Everyone with a password who is tried: the ears only hear.
    pub(crate) fn publishers(&self) -> Vec<String> {
        let bots = self.bots.iter().map(|b| b.name.slug()).filter(|slug| !slug.starts_with(EAR));
        bots.chain(self.outside.iter().map(|o| o.name.slug())).collect()
    }

    pub(crate) fn bots(&self) -> Vec<String> {
        self.bots.iter().map(|b| b.name.slug()).collect()
    }

    fn bot(&self, slug: &str) -> Option<&Contract> {
        self.bots.iter().find(|b| b.name.slug() == slug)
    }

    fn is_operator(&self, slug: &str) -> bool {
        self.outside.iter().any(|o| o.operator && o.name.slug() == slug)
    }

    fn says(&self, publisher: &str) -> Vec<String> {
        let outside = self.outside.iter().find(|o| o.name.slug() == publisher).map(|o| o.says.clone());
        let own = |b: &Contract| b.all_says().iter().map(ToString::to_string).collect();
        outside.or_else(|| self.bot(publisher).map(own)).unwrap_or_default()
    }

    /// Every key that it may write with, each with the queues that it leads to.
    pub(crate) fn granted(&self, publisher: &str) -> Vec<(String, BTreeSet<String>)> {
        let mut out = Vec::new();
        for said in self.says(publisher) {
            let hearers: Vec<String> =
                self.bots.iter().filter(|b| b.hears.contains(&said)).map(|b| b.name.slug()).collect();
            if catalogue::find(&said).unwrap().kind == Kind::Command {
                out.extend(
                    hearers
                        .into_iter()
                        .map(|bot| (format!("to.{bot}.{said}"), self.with_taps(Tap::Events, [format!("{bot}.work")]))),
                );
            } else {
                out.push((said, self.with_taps(Tap::Events, hearers.into_iter().map(|bot| format!("{bot}.work")))));
            }
        }
        if self.bot(publisher).is_some() {
            out.extend(self.of_itself(publisher));
        }
        if self.is_operator(publisher) {
            for bot in self.bots().into_iter().filter(|bot| !bot.starts_with(EAR)) {
                let control =
                    |t: &str| (format!("to.{bot}.{t}"), self.with_taps(Tap::Events, [format!("{bot}.control")]));
                out.extend(control_types().map(control));
                out.push((format!("requeue.{bot}"), BTreeSet::from([format!("{bot}.work")])));
            }
        }
        out
    }

    /// What only a bot has: heartbeats, log, audit, its retry queues and its dead letters.
    fn of_itself(&self, bot: &str) -> Vec<(String, BTreeSet<String>)> {
        let depends = |b: &&Contract| b.dependencies.iter().any(|d| d.slug() == bot);
        let waiting = self.bots.iter().filter(depends).map(|b| format!("{}.health", b.name.slug()));
        let mut out = vec![
            (format!("health.{bot}.i1"), self.with_taps(Tap::Health, waiting)),
            (format!("log.{bot}.info"), self.with_taps(Tap::Logs, [])),
            (format!("audit.{bot}.done"), self.with_taps(Tap::Audit, [])),
            (format!("dead.{bot}"), BTreeSet::from([format!("{bot}.dead")])),
        ];
        let tier =
            |t: Tier| (format!("retry.{bot}.{}", t.as_str()), BTreeSet::from([format!("{bot}.retry.{}", t.as_str())]));
        out.extend(Tier::ALL.map(tier));
        out
    }

    fn with_taps(&self, tap: Tap, queues: impl IntoIterator<Item = String>) -> BTreeSet<String> {
        let bots = self.bots.iter().filter(|b| b.observes.contains(&tap)).map(|b| b.name.slug());
        let outside = self.outside.iter().filter(|o| o.hears_all && tap == Tap::Events).map(|o| o.name.slug());
        let taps = bots.chain(outside).map(|who| format!("{who}.tap.{}", tap.as_str()));
        taps.chain(queues).collect()
    }

    /// What it may read from.
    pub(crate) fn may_read(&self, publisher: &str, queue: &str) -> bool {
        if self.is_operator(publisher) {
            return queue == "unrouted" || queue.ends_with(".dead");
        }
        let own = queue.strip_prefix(&format!("{publisher}."));
        own.is_some_and(|own| matches!(own, "work" | "control" | "health") || own.starts_with("tap."))
    }

    /// What it may have copied to an exchange or queue of its own.
    pub(crate) fn may_bind_from(&self, publisher: &str, exchange: &str) -> bool {
        self.is_operator(publisher) && matches!(exchange, "lota.events" | "lota.health" | "lota.logs" | "lota.audit")
    }

    /// Every key that means something to somebody, and some that mean nothing.
    pub(crate) fn all_keys(&self) -> BTreeSet<String> {
        let types = catalogue::all();
        let mut keys: BTreeSet<String> = types.iter().map(|e| e.event_type.to_owned()).collect();
        let commands: Vec<&str> = types.iter().filter(|e| e.kind == Kind::Command).map(|e| e.event_type).collect();
        for bot in self.bots().into_iter().filter(|bot| !bot.starts_with(EAR)) {
            keys.extend(commands.iter().map(|t| format!("to.{bot}.{t}")));
            keys.extend(self.of_itself(&bot).into_iter().map(|(key, _)| key));
            keys.insert(format!("requeue.{bot}"));
        }
        keys.extend(self.publishers().iter().flat_map(|p| self.granted(p)).map(|(key, _)| key));
        keys.extend(["", "#", "*", "*.*", "no.such_type", "unrouted"].map(ToOwned::to_owned));
        keys
    }
}
