//! The life of a bot.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Code, Event, Priority, SafeError, failure::example_error};

macro_rules! about_a_bot {
    ($(#[$doc:meta])* $name:ident, $type:literal, $summary:literal, { $($(#[$fdoc:meta])* $field:ident: $ty:ty = $example:expr),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        pub struct $name {
            /// The bot, as in `source`.
            pub bot: String,
            /// Which of its processes: host and process number.
            pub instance: String,
            $($(#[$fdoc])* pub $field: $ty,)*
        }
        impl Event for $name {
            const TYPE: &'static str = $type;
            const SUMMARY: &'static str = $summary;
            const PRIORITY: Priority = Priority::Medium;
            fn example() -> Self {
                Self { bot: "BuildBot".into(), instance: "host-4711".into(), $($field: $example,)* }
            }
        }
    };
}

about_a_bot!(
    /// A bot is ready to work.
    BotStarted, "bot.started", "A bot is ready to work.", {
        /// Of its binary.
        version: String = "0.1.0".into(),
        /// SHA-256 of the configuration it runs with, hex, 16 digits.
        config_hash: String = "9f86d081884c7d65".into(),
    }
);
about_a_bot!(
    /// A bot stopped taking work, and says why.
    BotPaused, "bot.paused", "A bot stopped taking work.", {
        /// Why.
        reason: String = "maintenance".into(),
        /// Who asked; the bot's own name where it decided itself.
        by: String = "operator".into(),
        /// What of the bot does nothing: `messages`, or `job <kind>`. Absent: all of it.
        #[serde(default, skip_serializing_if = "Option::is_none")] what: Option<String> = None,
        /// What it could not do without, where it decided itself.
        #[serde(default, skip_serializing_if = "Option::is_none")] dependency: Option<String> = None,
        /// How that failed; the code says how bad it is.
        #[serde(default, skip_serializing_if = "Option::is_none")] error: Option<SafeError> = None,
    }
);
about_a_bot!(
    /// A bot takes work again.
    BotResumed, "bot.resumed", "A bot takes work again.", {
        /// Who asked; the bot's own name where it decided itself.
        by: String = "operator".into(),
        /// As in `bot.paused`.
        #[serde(default, skip_serializing_if = "Option::is_none")] what: Option<String> = None,
        /// As in `bot.paused`.
        #[serde(default, skip_serializing_if = "Option::is_none")] dependency: Option<String> = None,
    }
);
about_a_bot!(
    /// A bot is going down in order.
    BotStopping, "bot.stopping", "A bot is going down in order.", {
        /// Why, such as `SIGTERM`.
        reason: String = "SIGTERM".into(),
    }
);
about_a_bot!(
    /// A bot cannot go on.
    BotFailed, "bot.failed", "A bot cannot go on.", {
        /// What went wrong.
        error: SafeError = example_error(Code::UnknownError, "the store is full: free space in its directory"),
    }
);
