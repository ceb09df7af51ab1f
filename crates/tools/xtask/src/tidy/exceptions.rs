//! The exceptions from tidy's rules, each with its reason. One that covers nothing any more is itself a finding.

/// This file, as the report names it.
pub(super) const HOME: &str = "crates/tools/xtask/src/tidy/exceptions.rs";

/// One place that one rule leaves alone.
pub(super) struct Exception {
    /// The rule's name, as printed in brackets behind a finding.
    pub(super) rule: &'static str,
    /// The file, or `file::function`, or `manifest::dependency`.
    pub(super) place: &'static str,
    /// Why the rule is worse than its breach here.
    pub(super) reason: &'static str,
}

const CHILD: &str = "a child process of the test beside it, started by name; it proves nothing when run alone";
const ENGINE: &str = "needs a container engine, which not every machine has; `make test-containers` runs it";
const ROOT: &str = "needs root, who makes another user's threads and a control group; `make test-containers` runs it";
const SERIES: &str = "needs two series of RabbitMQ; `make test-brokers` runs it";

pub(super) const EXCEPTIONS: &[Exception] = &[
    Exception { rule: "unfinished", place: "crates/bots/build-bot/tests/images.rs", reason: ENGINE },
    Exception { rule: "unfinished", place: "crates/bots/deploy-bot/tests/deploy-bot/compose.rs", reason: ENGINE },
    Exception { rule: "unfinished", place: "crates/libs/bot-provision/src/node/process.rs", reason: CHILD },
    Exception { rule: "unfinished", place: "crates/libs/bot-provision/tests/container.rs", reason: ENGINE },
    Exception { rule: "unfinished", place: "crates/libs/bot-provision/tests/node/upgrade.rs", reason: SERIES },
    Exception { rule: "unfinished", place: "crates/libs/bot-sandbox/tests/container.rs", reason: ENGINE },
    Exception { rule: "unfinished", place: "crates/libs/bot-sandbox/tests/crowd.rs", reason: ROOT },
    Exception { rule: "unfinished", place: "crates/libs/bot-sandbox/tests/escape.rs", reason: CHILD },
    Exception { rule: "unfinished", place: "crates/libs/bot-sandbox/tests/serve.rs", reason: CHILD },
    Exception { rule: "unfinished", place: "crates/libs/bot-store/tests/store/crash.rs", reason: CHILD },
    Exception { rule: "unfinished", place: "tests/journeys/container.rs", reason: ENGINE },
    Exception { rule: "unfinished", place: "tests/local/container.rs", reason: ENGINE },
    Exception {
        rule: "unfinished",
        place: "tests/upgrade/record.rs",
        reason: "it writes what others read, when a version is made",
    },
];
