//! The bot's configuration file, whole and checked before a socket opens: the documented YAML, one section of the bot's
//! own, overridable by environment. All mistakes are told at once, with file and line.
mod constraints;
mod places;
#[cfg(test)]
mod tests;

pub use constraints::Constraints;
pub(crate) use constraints::{AutoPause, Rate, RetryPolicy};
pub use places::{Place, Places};

use std::{collections::BTreeMap, fmt, path::Path};

use bot_messages::{BotName, Contract};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{hash, schedule::Schedule};

/// Overrides come from variables such as `LOTA_CONFIG__CONSTRAINTS__TIMEOUT=60`.
pub(crate) const ENV_PREFIX: &str = "LOTA_CONFIG__";

/// A larger file is not read.
const FILE_BYTES_MAX: usize = 256 * 1024;
/// Of more mistakes the first are told, each cut to so much: validators quote what they refuse.
const MISTAKES_MAX: usize = 50;
const MISTAKE_CHARS_MAX: usize = 300;

/// The file of one bot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound(deserialize = "S: Deserialize<'de> + Default"))]
#[schemars(bound = "S: JsonSchema + Default + Serialize")]
pub struct BotConfig<S> {
    /// Which bot.
    pub bot: BotSection,
    /// What it reacts to, among what its contract hears; anything else is acknowledged as ignored.
    #[serde(default)]
    pub triggers: Vec<Trigger>,
    /// What it does, among the actions its contract names.
    #[serde(default)]
    pub actions: Vec<Action>,
    /// Limits.
    #[serde(default)]
    pub constraints: Constraints,
    /// Bots whose heartbeats it watches, among those its contract names.
    #[serde(default)]
    pub dependencies: Vec<BotName>,
    /// Who is meant by what it says. An output to a bot that is not installed is counted, never a failure.
    #[serde(default)]
    pub outputs: Vec<Output>,
    /// The bot's own section.
    #[serde(default)]
    pub settings: S,
}

/// Which bot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BotSection {
    /// As in `source`; has to be this bot's.
    pub name: BotName,
    /// Of this file, for people.
    pub version: String,
    /// `false`: it runs, hears control commands, and takes no work.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// What it reacts to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Trigger {
    /// A message among what its contract hears.
    Event {
        /// A type, or a pattern: `*` stands for one word, `#` for any number.
        pattern: String,
    },
    /// A time that comes again and again. One that passed while the bot was away or paused is made up for, once.
    Schedule {
        /// Unique in this file.
        name: String,
        /// Minute, hour, day of month, month, day of week.
        cron: String,
        /// Where the clock hangs, as in the time zone database: `Europe/Zurich`. Absent: UTC.
        #[serde(default = "utc")]
        timezone: String,
        /// What is to be done then, in the bot's own terms.
        #[serde(default)]
        data: Value,
    },
}

fn utc() -> String {
    "UTC".to_owned()
}

/// What it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// Always `execute`.
    #[serde(rename = "type")]
    pub kind: ActionKind,
    /// One of the bot's named actions; never a shell command.
    pub command: String,
}

/// Kinds of action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActionKind {
    /// One of the bot's named actions.
    Execute,
}

/// Who is meant by what it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Always `message`.
    #[serde(rename = "type")]
    pub kind: OutputKind,
    /// A bot, or `*`.
    pub destination: String,
}

/// Kinds of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// A message.
    Message,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Line from 1, where known.
    pub(crate) line: Option<u64>,
    /// What was expected, what came, what to do.
    pub(crate) message: String,
}

/// All mistakes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// The file.
    pub(crate) file: String,
    /// At least one.
    pub(crate) mistakes: Vec<Mistake>,
}

impl std::error::Error for ConfigError {}
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, m) in self.mistakes.iter().enumerate() {
            let line = m.line.map(|l| format!(":{l}")).unwrap_or_default();
            write!(f, "{}{}{line}: {}", if i > 0 { "\n" } else { "" }, self.file, m.message)?;
        }
        Ok(())
    }
}

/// Of the bot's own configuration with what other files of the same folder it reads; one that is missing counts as such.
pub(crate) fn whole_hash(own: &str, dir: &Path, files: &[&str]) -> String {
    let read = |name: &&str| {
        std::fs::read(dir.join(name)).map_or_else(|_| Vec::new(), |bytes| [b"+", bytes.as_slice()].concat())
    };
    let contents: Vec<Vec<u8>> = files.iter().map(read).collect();
    let parts: Vec<&[u8]> = [own.as_bytes()].into_iter().chain(contents.iter().map(Vec::as_slice)).collect();
    hash::short(&parts)
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub(crate) struct Loaded<S> {
    /// It.
    pub(crate) config: BotConfig<S>,
    /// Of everything that decides behaviour, 16 hex digits.
    pub(crate) hash: String,
}

/// Reads and checks a file. `overrides` are the variables that begin with [`ENV_PREFIX`].
pub(crate) fn load<S: DeserializeOwned + Serialize + Default + JsonSchema>(
    path: &Path,
    overrides: &BTreeMap<String, String>,
    contract: &Contract,
) -> Result<Loaded<S>, ConfigError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError {
        file: file.clone(),
        mistakes: vec![Mistake { line: None, message: format!("cannot be read: {e}") }],
    })?;
    read(&file, &text, overrides, contract)
}

/// Reads the text of a file. What it may stand for is limited before anything is built from it.
pub(crate) fn read<S: DeserializeOwned + Serialize + Default + JsonSchema>(
    file: &str,
    text: &str,
    overrides: &BTreeMap<String, String>,
    contract: &Contract,
) -> Result<Loaded<S>, ConfigError> {
    let file = file.to_owned();
    let one = |message: String| ConfigError { file: file.clone(), mistakes: vec![Mistake { line: None, message }] };
    if text.len() > FILE_BYTES_MAX {
        return Err(one(format!("it has {} bytes: at most {FILE_BYTES_MAX} are read", text.len())));
    }
    let places = Places::read(text).map_err(|(place, message)| ConfigError {
        file: file.clone(),
        mistakes: vec![Mistake { line: place.map(|(line, _)| line), message }],
    })?;
    let value = merged(text, overrides).map_err(|e| one(e.to_string()))?;
    let mut mistakes = schema_mistakes::<S>(&value);
    let parsed = serde_path_to_error::deserialize::<_, BotConfig<S>>(&value);
    match &parsed {
        Ok(config) => mistakes.extend(contract_mistakes(config, contract)),
        // The schema says most of it better; what it cannot see (names, lengths of time) is said here.
        Err(e) if mistakes.is_empty() => mistakes.push((pointer(&e.path().to_string()), e.inner().to_string())),
        Err(_) => {}
    }
    match parsed {
        Ok(config) if mistakes.is_empty() => {
            let hash = hash::short(&[value.to_string().as_bytes()]);
            Ok(Loaded { config, hash })
        }
        _ => Err(ConfigError {
            file,
            mistakes: mistakes
                .into_iter()
                .take(MISTAKES_MAX)
                .map(|(at, message)| Mistake {
                    line: Some(places.of(&at).0),
                    message: message.chars().take(MISTAKE_CHARS_MAX).collect(),
                })
                .collect(),
        }),
    }
}

fn merged(text: &str, overrides: &BTreeMap<String, String>) -> Result<Value, config::ConfigError> {
    let variables = overrides.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let environment = config::Environment::with_prefix(ENV_PREFIX.trim_end_matches('_'))
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true)
        .source(Some(variables));
    config::Config::builder()
        .add_source(config::File::from_str(text, config::FileFormat::Yaml))
        .add_source(environment)
        .build()?
        .try_deserialize()
}

/// The schema of a bot's file.
pub fn schema<S: JsonSchema + Default + Serialize>() -> schemars::Schema {
    bot_messages::catalogue::schema_of::<BotConfig<S>>()
}

fn schema_mistakes<S: JsonSchema + Default + Serialize>(value: &Value) -> Vec<(String, String)> {
    let schema = serde_json::to_value(schema::<S>()).unwrap_or(Value::Bool(true));
    let Ok(validator) = jsonschema::draft202012::new(&schema) else {
        return Vec::new();
    };
    validator
        .iter_errors(value)
        .map(|e| {
            let at = e.instance_path().to_string();
            let what = if at.is_empty() {
                String::new()
            } else {
                format!("`{}`: ", at.trim_start_matches('/').replace('/', "."))
            };
            // Of several forms the validator only says that none fits.
            let of_trigger = at.starts_with("/triggers/").then(|| Trigger::deserialize(e.instance().as_ref()).err());
            match of_trigger.flatten() {
                Some(why) => (at, format!("{what}{why}")),
                None => (at, format!("{what}{e}")),
            }
        })
        .collect()
}

fn contract_mistakes<S>(config: &BotConfig<S>, contract: &Contract) -> Vec<(String, String)> {
    let mut out = Vec::new();
    if config.bot.name != contract.name {
        let message = format!("`bot.name` is {}: this file is read by {}", config.bot.name, contract.name);
        out.push(("/bot/name".to_owned(), message));
    }
    for (i, trigger) in config.triggers.iter().enumerate() {
        match trigger {
            Trigger::Event { pattern } if !contract.hears.iter().any(|h| pattern_fits(pattern, h)) => {
                let message = format!(
                    "`triggers.{i}.pattern`: {} hears nothing that fits `{pattern}`: it hears {}",
                    contract.name,
                    listed(&contract.hears)
                );
                out.push((format!("/triggers/{i}/pattern"), message));
            }
            Trigger::Event { .. } => {}
            Trigger::Schedule { name, cron, timezone, data } => {
                if let Err((field, why)) = Schedule::new(name, cron, timezone, data) {
                    out.push((format!("/triggers/{i}/{field}"), format!("`triggers.{i}.{field}`: {why}")));
                }
                let is_name = |t: &Trigger| matches!(t, Trigger::Schedule { name: other, .. } if other == name);
                if config.triggers[..i].iter().any(is_name) {
                    let message = format!("`triggers.{i}.name`: another schedule has the name `{name}` already");
                    out.push((format!("/triggers/{i}/name"), message));
                }
            }
        }
    }
    for (i, a) in config.actions.iter().enumerate() {
        if !contract.actions.contains(&a.command) {
            let message = format!(
                "`actions.{i}.command`: `{}` is no action of {}: it has {}",
                a.command,
                contract.name,
                listed(&contract.actions)
            );
            out.push((format!("/actions/{i}/command"), message));
        }
    }
    for (i, d) in config.dependencies.iter().enumerate() {
        if !contract.dependencies.contains(d) {
            let names: Vec<String> = contract.dependencies.iter().map(ToString::to_string).collect();
            let message =
                format!("`dependencies.{i}`: {} does not watch {d}: it may watch {}", contract.name, listed(&names));
            out.push((format!("/dependencies/{i}"), message));
        }
    }
    out
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// `bot.name` or `triggers[0].pattern` as a JSON pointer.
fn pointer(path: &str) -> String {
    path.replace('[', ".")
        .replace(']', "")
        .split('.')
        .filter(|p| !p.is_empty())
        .fold(String::new(), |all, p| all + "/" + p)
}

/// Whether a message of this type is one to react to. A file that names no event leaves nothing out.
pub(crate) fn is_triggered(triggers: &[Trigger], event_type: &str) -> bool {
    let mut patterns = triggers.iter().filter_map(|trigger| match trigger {
        Trigger::Event { pattern } => Some(pattern),
        Trigger::Schedule { .. } => None,
    });
    patterns.clone().next().is_none() || patterns.any(|pattern| pattern_fits(pattern, event_type))
}

/// Whether a trigger's pattern fits a type: `*` is one word, `#` any number.
pub(crate) fn pattern_fits(pattern: &str, event_type: &str) -> bool {
    fn fits(p: &[&str], t: &[&str]) -> bool {
        match (p.first(), t.first()) {
            (None, None) => true,
            (Some(&"#"), _) => fits(&p[1..], t) || (!t.is_empty() && fits(p, &t[1..])),
            (Some(&"*"), Some(_)) => fits(&p[1..], &t[1..]),
            (Some(a), Some(b)) => a == b && fits(&p[1..], &t[1..]),
            _ => false,
        }
    }
    fits(&pattern.split('.').collect::<Vec<_>>(), &event_type.split('.').collect::<Vec<_>>())
}
