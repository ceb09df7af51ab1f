//! The pipeline file, `.lotabots.yaml`: what a repository asks of the fleet, and how a mistake in it is told.
use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

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
    /// Run one after the other.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Glob patterns of what the artifact holds, relative to the top of the repository.
    #[serde(default)]
    pub artifacts: Vec<String>,
    /// Glob patterns of what the tests need besides the source and the artifacts.
    #[serde(default)]
    pub keep: Vec<String>,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
}

/// How it is tested.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestStage {
    /// By name; run one after the other.
    #[serde(default)]
    pub suites: BTreeMap<String, Suite>,
}

/// A command that runs tests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// The command.
    pub run: String,
    /// JUnit XML files it writes (glob patterns). Without any, its output is read as Rust's libtest prints it.
    #[serde(default)]
    pub reports: Vec<String>,
    /// Whether it may use the network.
    #[serde(default)]
    pub network: bool,
    /// Ends the suite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
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

/// A condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Only this branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
}

/// A service.
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

/// A length of time, written as `90s`, `15m`, `2h` or `500ms`; a bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let s = s.trim();
        let digits = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let expected = || format!("`{s}` is not a length of time: expected such as 90s, 15m, 2h or 500ms");
        let n: u64 = s[..digits].parse().map_err(|_| expected())?;
        let ms = match s[digits..].trim() {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(expected()),
        };
        n.checked_mul(ms).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(expected)
    }
}
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match ms {
            _ if !ms.is_multiple_of(1000) => write!(f, "{ms}ms"),
            _ if ms.is_multiple_of(3_600_000) && ms > 0 => write!(f, "{}h", ms / 3_600_000),
            _ if ms.is_multiple_of(60_000) && ms > 0 => write!(f, "{}m", ms / 60_000),
            _ => write!(f, "{}s", ms / 1000),
        }
    }
}
impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl serde::de::Visitor<'_> for V {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time such as 90s, 15m or 2h")
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Span, E> {
                v.to_string().parse().map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Span, E> {
                v.to_string().parse().map_err(E::custom)
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Span, E> {
                v.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(V)
    }
}
impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A length of time: 90s, 15m, 2h, 500ms; a bare number is seconds.",
            "type": ["string", "integer"],
            "pattern": "^[0-9]+(ms|s|m|h)?$",
            "minimum": 0,
        })
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

impl Pipeline {
    /// Reads the file. All limits hold before anything is built from it.
    pub fn parse(text: &str) -> Result<Self, PipelineError> {
        let broken = |message: String| PipelineError { at: None, message };
        if text.len() > FILE_BYTES_MAX {
            let message = format!("the file has {} bytes: at most {FILE_BYTES_MAX} are read", text.len());
            return Err(broken(message));
        }
        let pipeline: Self = serde_saphyr::from_str(text).map_err(|e| PipelineError {
            at: e.location().map(|l| (l.line(), l.column())),
            message: first_line(&e.without_snippet().to_string()),
        })?;
        pipeline.validate().map_err(broken)?;
        Ok(pipeline)
    }

    fn validate(&self) -> Result<(), String> {
        if self.version != 1 {
            return Err(format!("`version` is {}: this fleet reads version 1", self.version));
        }
        let mut seen = std::collections::BTreeSet::new();
        for (i, step) in self.build.steps.iter().enumerate() {
            let place = format!("build.steps[{i}]");
            name_fits(&step.name).map_err(|e| format!("{place}.name: {e}"))?;
            if !seen.insert(&step.name) {
                return Err(format!("{place}.name: `{}` is used twice: give each step its own name", step.name));
            }
            command_fits(&step.run).map_err(|e| format!("{place}.run: {e}"))?;
            env_fits(&step.env).map_err(|e| format!("{place}.env: {e}"))?;
        }
        for (name, suite) in &self.test.suites {
            name_fits(name).map_err(|e| format!("test.suites: {e}"))?;
            command_fits(&suite.run).map_err(|e| format!("test.suites.{name}.run: {e}"))?;
            env_fits(&suite.env).map_err(|e| format!("test.suites.{name}.env: {e}"))?;
        }
        for (name, stage) in &self.deploy {
            name_fits(name).map_err(|e| format!("deploy: {e}"))?;
            if let Some(serve) = &stage.serve {
                command_fits(&serve.run).map_err(|e| format!("deploy.{name}.serve.run: {e}"))?;
                env_fits(&serve.env).map_err(|e| format!("deploy.{name}.serve.env: {e}"))?;
            }
        }
        let patterns = self.build.artifacts.iter().chain(&self.build.keep);
        for p in patterns.chain(self.test.suites.values().flat_map(|s| &s.reports)) {
            pattern_fits(p)?;
        }
        Ok(())
    }
}

fn first_line(s: &str) -> String {
    s.lines().next().unwrap_or_default().to_owned()
}

fn name_fits(name: &str) -> Result<(), String> {
    let fits = (1..=60).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if fits { Ok(()) } else { Err(format!("`{name}` is no name: expected 1 to 60 letters, digits, `-`, `_` or `.`")) }
}

fn command_fits(run: &str) -> Result<(), String> {
    if run.trim().is_empty() { Err("the command is empty: expected a shell command".into()) } else { Ok(()) }
}

fn env_fits(env: &BTreeMap<String, String>) -> Result<(), String> {
    for (k, v) in env {
        let fits = !k.is_empty()
            && !k.starts_with(|c: char| c.is_ascii_digit())
            && k.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !v.contains('\0');
        if !fits {
            return Err(format!("`{k}` is no variable: expected letters, digits and `_`, and a value without NUL"));
        }
        if k.starts_with("LOTA_") || k.starts_with("LD_") {
            return Err(format!("`{k}` cannot be set: names beginning with LOTA_ or LD_ are the fleet's"));
        }
    }
    Ok(())
}

fn pattern_fits(p: &str) -> Result<(), String> {
    let outside = p.starts_with('/') || p.split('/').any(|part| part == "..");
    if p.is_empty() || outside {
        return Err(format!("the pattern `{p}` leaves the repository: expected a path inside it, without `..`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "version: 1\nbuild:\n  steps:\n    - {name: compile, run: cargo build --offline, timeout: 15m, env: {RUSTFLAGS: \"-D warnings\"}}\n  artifacts: [target/debug/app]\ntest:\n  suites:\n    unit: {run: cargo test --offline}\ndeploy:\n  staging: {when: {branch: main}, serve: {run: ./target/debug/app}, health: {path: /health, deadline: 10}}\n";

    #[test]
    fn a_whole_file_is_read() {
        let p = Pipeline::parse(GOOD).unwrap();
        assert_eq!(p.build.steps[0].timeout, Some(Span(Duration::from_secs(900))));
        assert_eq!(p.build.steps[0].env["RUSTFLAGS"], "-D warnings");
        assert_eq!(p.deploy["staging"].health.as_ref().unwrap().deadline.0, Duration::from_secs(10));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, want) in [
            ("version: 2\n", "reads version 1"),
            ("version: 1\nbiuld: {}\n", "biuld"),
            ("version: 1\nbuild:\n  steps:\n    - {name: a}\n", "run"),
            ("version: 1\nbuild: {artifacts: [../x]}\n", "leaves the repository"),
            ("version: 1\nbuild: {steps: [{name: a, run: x}, {name: a, run: y}]}\n", "used twice"),
            ("version: 1\nbuild: {steps: [{name: a, run: x, timeout: soon}]}\n", "length of time"),
            ("version: 1\nbuild: {steps: [{name: a, run: x, env: {LD_PRELOAD: x}}]}\n", "LD_"),
            ("", ""),
        ] {
            let e = Pipeline::parse(text).unwrap_err().to_string();
            assert!(e.starts_with(".lotabots.yaml") && e.contains(want), "{e}");
        }
        let e = Pipeline::parse("version: 1\nbuild:\n  stepz: []\n").unwrap_err();
        assert_eq!(e.at.map(|a| a.0), Some(3), "{e}");
    }

    #[test]
    fn a_bomb_and_a_huge_file_are_refused() {
        let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
        for (i, c) in ('b'..'j').enumerate() {
            let p = char::from(b'a' + i as u8);
            bomb.push_str(&format!("{c}: &{c} [{}]\n", vec![format!("*{p}"); 9].join(",")));
        }
        assert!(Pipeline::parse(&bomb).is_err());
        assert!(Pipeline::parse(&"#".repeat(FILE_BYTES_MAX + 1)).unwrap_err().to_string().contains("at most"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,300}") {
            let _ = Pipeline::parse(&text);
        }

        #[test]
        fn a_span_reads_back(ms in 0u64..100_000_000) {
            let span = Span(Duration::from_millis(ms));
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
    }
}
