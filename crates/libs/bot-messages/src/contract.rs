//! What a bot may hear and say, as data. A bot's Rust types make it; the topology follows from all of them.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BotName, Event,
    bot::{BotFailed, BotPaused, BotResumed, BotStarted, BotStopping},
    config::ConfigChanged,
    control::{ControlCancel, ControlPause, ControlProbe, ControlReplied, ControlRerun, ControlResume},
    message::MessageDeadLettered,
};

/// The five kinds of bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// Infrastructure, deployment, monitoring.
    Infrastructure,
    /// Code: building, testing, reviewing.
    Development,
    /// Running the platform.
    Operations,
    /// Data.
    Data,
    /// Security and compliance.
    Security,
}

/// A stream of everything of one sort, for observers. It never leads to a work queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tap {
    /// Every event and command.
    Events,
    /// Every heartbeat.
    Health,
    /// Every log record.
    Logs,
    /// Every audit record.
    Audit,
}

impl Tap {
    /// As written in queue names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Health => "health",
            Self::Logs => "logs",
            Self::Audit => "audit",
        }
    }
}

/// Everything the fleet has to know of a bot to let it in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Contract {
    /// As in `source`.
    pub name: BotName,
    /// Which of the five kinds.
    pub category: Category,
    /// The one thing it does.
    pub responsibility: String,
    /// What it never does.
    pub never: Vec<String>,
    /// Named actions that its configuration may choose from.
    pub actions: Vec<String>,
    /// Types that lead to its work queue.
    pub hears: Vec<String>,
    /// Types it may say, besides those every bot may say.
    pub says: Vec<String>,
    /// Kinds of its jobs.
    pub jobs: Vec<String>,
    /// Bots whose heartbeats it hears.
    pub dependencies: Vec<BotName>,
    /// Taps it observes.
    pub observes: Vec<Tap>,
    /// Parts of what it does that can fail by themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    /// Loops of triggers through it that are meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loops: Vec<MeantLoop>,
}

/// A part of what a bot does that can fail by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Feature {
    /// Such as `cache`.
    pub name: String,
    /// Without it the bot does nothing: it holds its work back until it is there again. Otherwise the bot goes on without.
    pub essential: bool,
    /// What it is for, as in `keeps what builds share`.
    pub purpose: String,
}

/// A message that leads, by way of bots, to another of its own type, and is meant to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeantLoop {
    /// Its types, from the first in the alphabet on.
    pub types: Vec<String>,
    /// What ends it.
    pub ends_because: String,
}

impl Contract {
    /// Of a bot that hears, says and does nothing.
    pub fn new(name: BotName, category: Category) -> Self {
        Self {
            name,
            category,
            responsibility: String::new(),
            never: Vec::new(),
            actions: Vec::new(),
            hears: Vec::new(),
            says: Vec::new(),
            jobs: Vec::new(),
            dependencies: Vec::new(),
            observes: Vec::new(),
            features: Vec::new(),
            loops: Vec::new(),
        }
    }

    /// What every bot may say of itself.
    pub fn core_says() -> [&'static str; 8] {
        [
            BotStarted::TYPE,
            BotPaused::TYPE,
            BotResumed::TYPE,
            BotStopping::TYPE,
            BotFailed::TYPE,
            MessageDeadLettered::TYPE,
            ConfigChanged::TYPE,
            ControlReplied::TYPE,
        ]
    }

    /// Everything this bot may say.
    pub fn all_says(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.says.iter().map(String::as_str).chain(Self::core_says()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Commands that every bot hears on its control queue.
pub fn control_types() -> [&'static str; 5] {
    [ControlPause::TYPE, ControlResume::TYPE, ControlCancel::TYPE, ControlRerun::TYPE, ControlProbe::TYPE]
}

/// Someone who is not a bot and may publish: another CI, a script, a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutsidePublisher {
    /// As in `source`; also the name of its RabbitMQ user.
    pub name: BotName,
    /// The types it may say.
    pub says: Vec<String>,
    /// Whether it gets a queue `<name>.tap.events` with everything that is said.
    #[serde(default)]
    pub hears_all: bool,
    /// Whether it may steer bots, replay dead letters and watch the taps. Only the operator's own user is.
    #[serde(default)]
    pub operator: bool,
    /// For which repositories it may speak: patterns over their URLs. Whoever acts on what it says holds it to them.
    #[serde(default)]
    pub repositories: Vec<String>,
    /// Connections at a time; 64 where absent.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// Channels at a time; 256 where absent.
    #[serde(default)]
    pub max_channels: Option<u32>,
}

impl OutsidePublisher {
    /// Says these types, for no repository, and hears nothing.
    pub fn new(name: BotName, says: &[&str]) -> Self {
        Self {
            name,
            says: says.iter().map(ToString::to_string).collect(),
            hears_all: false,
            operator: false,
            repositories: Vec::new(),
            max_connections: None,
            max_channels: None,
        }
    }

    /// The user behind the `lota` command.
    pub fn operator() -> Self {
        let says = [
            "repository.pushed",
            "test.report_requested",
            "deploy.requested",
            "deploy.rollback_requested",
            "deploy.freeze_requested",
            "deploy.unfreeze_requested",
            "deploy.report_requested",
            "approval.granted",
            "approval.denied",
            "config.applied",
            "message.replayed",
            "message.edited",
            "message.discarded",
        ];
        Self { operator: true, ..Self::new(operator_name(), &says) }
    }
}

/// The operator's name, `operator`.
pub fn operator_name() -> BotName {
    match "operator".parse() {
        Ok(name) => name,
        Err(_) => unreachable!("a constant that fits the rule"),
    }
}
