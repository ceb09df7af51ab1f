//! The pipeline file, `.lotabots.yaml`: what a repository asks of the fleet, and how a mistake in it is told.
mod check;
mod read;
mod span;
#[cfg(test)]
mod tests;
mod when;

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use read::{YamlMistake, meant, read_yaml};
pub use span::Span;
pub use when::{Judgement, Occasion, Patterns, Trigger, When};

/// The file's name at the top of a repository.
pub const FILE_NAME: &str = ".lotabots.yaml";
/// A larger file is refused.
pub const FILE_BYTES_MAX: usize = 256 * 1024;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Always 1.
    pub version: u32,
    /// How it is built.
    #[serde(default)]
    pub build: BuildStage,
    /// How it is tested.
    #[serde(default)]
    pub test: TestStage,
    /// Where it goes, by environment. Which environments exist and who may use them is the operator's to say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deploy: BTreeMap<String, DeployStage>,
}

/// How it is built.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildStage {
    /// The commands.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// The steps run once for each combination of these values, at most 32; a step finds the value of `toolchain` in
    /// `MATRIX_TOOLCHAIN`. The artifact holds the first combination's files at their paths, the others' below
    /// `matrix/<value>/…`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub matrix: BTreeMap<String, Vec<String>>,
    /// What later builds of the same repository find again, by its lock files: paths in the repository, or `~/…` below
    /// HOME. What is part of the source is left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<String>,
    /// Glob patterns of what the artifact holds, relative to the top of the repository.
    #[serde(default)]
    pub artifacts: Vec<String>,
    /// Glob patterns of what the tests need besides the source and the artifacts.
    #[serde(default)]
    pub keep: Vec<String>,
}

/// One command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Unique in its list.
    pub name: String,
    /// Run by `bash -e -o pipefail -c` (by `sh -e` where there is no bash) at the top of the repository.
    pub run: String,
    /// Whether it may use the network.
    #[serde(default)]
    pub network: bool,
    /// Ends the step; absent: what the bot is configured with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Steps above it that have to succeed first. Absent: the step before it. Empty: it starts at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Vec<String>>,
    /// Only then; otherwise it is skipped, and what needs it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// A container image to run it in, where the operator allows it and there is a container engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Secrets by name, each given as an environment variable of that name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// What runs beside it, started fresh before and ended after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
}

/// How it is tested.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestStage {
    /// By name. Several run at a time; of more than one each has a copy of the tree to itself.
    #[serde(default)]
    pub suites: BTreeMap<String, Suite>,
}

/// A command that runs tests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// The command.
    pub run: String,
    /// Reports it writes (glob patterns). Without any, its output is read.
    #[serde(default)]
    pub reports: Vec<String>,
    /// What the reports, or else the output, are written in. Absent: found by what is in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ReportFormat>,
    /// Whether it may use the network.
    #[serde(default)]
    pub network: bool,
    /// What a test means that fails and then passes without a change.
    #[serde(default, skip_serializing_if = "Flaky::is_pass")]
    pub flaky: Flaky,
    /// Ends the suite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// LCOV or Cobertura files it writes (glob patterns).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coverage: Vec<String>,
    /// Secrets by name, each given as an environment variable of that name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// What runs beside it, started fresh before and ended after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
}

/// What a test means that fails and then passes without a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Flaky {
    /// It passed, and is told as flaky.
    #[default]
    Pass,
    /// Its suite failed.
    Fail,
}

impl Flaky {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
    fn is_pass(&self) -> bool {
        *self == Self::Pass
    }
}

/// How tools tell of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReportFormat {
    /// JUnit XML; only in files.
    Junit,
    /// What Rust's own test programs print.
    Libtest,
    /// What cargo-nextest prints.
    Nextest,
    /// `go test -json`.
    GoTestJson,
    /// The Test Anything Protocol, 13 or 14: `node --test`, bats, prove.
    Tap,
}

/// What runs beside a step or a suite. Finds a free port in `PORT` and an empty folder in `DATA`; the command it is for
/// finds the port in `<NAME>_PORT`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Unique in its list.
    pub name: String,
    /// The command; it stays in the foreground.
    pub run: String,
    /// How to see that it can be used.
    pub ready: Ready,
    /// Environment variables besides `PORT` and `DATA`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Service {
    /// What the command finds its port in: that of `db-1` is in `DB_1_PORT`.
    pub fn port_variable(&self) -> String {
        let letters = self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
        let variable: String = letters.chain("_PORT".chars()).collect();
        if variable.starts_with(|c: char| c.is_ascii_digit()) { format!("_{variable}") } else { variable }
    }
}

/// Exactly one of `tcp`, `http` and `log`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// A port that takes connections: a number or `$PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// A path on `$PORT` that answers 200 to 299.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Text that it prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Not ready by then: it failed. Absent: a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// How it goes to one environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployStage {
    /// Only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// The command that serves it, for services. It finds its port in `PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serve: Option<Serve>,
    /// How to see that it is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// An application that is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// The command, at the top of the unpacked artifact.
    pub run: String,
    /// Environment variables besides `PORT`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// An HTTP health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Asked with GET; 200 to 299 is healthy.
    #[serde(default = "Health::default_path")]
    pub path: String,
    /// Not healthy by then: rolled back.
    #[serde(default = "Health::default_deadline")]
    pub deadline: Span,
}

impl Health {
    fn default_path() -> String {
        "/".into()
    }
    fn default_deadline() -> Span {
        Span(Duration::from_secs(30))
    }
}

impl Default for Health {
    fn default() -> Self {
        Self { path: Self::default_path(), deadline: Self::default_deadline() }
    }
}

/// The file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FILE_NAME}{}: {message}", .at.map(|(l, c)| format!(":{l}:{c}")).unwrap_or_default())]
pub struct PipelineError {
    /// Line and column, from 1, where known.
    pub at: Option<(u64, u64)>,
    /// What was expected, what came, what to do.
    pub message: String,
}
