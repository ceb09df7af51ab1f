//! The operator's `environments.yaml`: which environments there are, who may use them, and within which limits.
//! What an environment holds is not here but in its journal.
mod compose;
mod fields;
mod freeze;
mod ssh;
mod target;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bot_core::Places;
use bot_messages::{
    Event, Revision,
    build::BuildCompleted,
    pipeline::{Span, YamlMistake, read_yaml},
    test::TestCompleted,
};
use bot_sandbox::ServeLimits;
use chrono::{DateTime, Utc};
pub(crate) use compose::{INDEX, MANIFEST, Project, RESOLVED};
use fields::{Fields, Mistake, Patterns, suggestion};
pub(crate) use freeze::{Frozen, Window};
use globset::{Glob, GlobBuilder};
use serde::Deserialize;
use serde_json::{Map, Value};
pub(crate) use target::{Scripts, Target};
use tokio::sync::Mutex;

const FILE_BYTES_MAX: usize = 256 * 1024;
/// Of more mistakes the first are told, each cut to so much.
const MISTAKES_MAX: usize = 50;
const MISTAKE_CHARS_MAX: usize = 300;
const KEEP_MAX: usize = 50;
/// Thirty days.
const APPROVAL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const MIB: u64 = 1024 * 1024;
/// What can vouch for an artifact.
pub(crate) const VOUCHERS: [&str; 2] = [BuildCompleted::TYPE, TestCompleted::TYPE];
const FIELDS: [&str; 12] = [
    "repositories",
    "refs",
    "requires",
    "promote_from",
    "approval",
    "freeze",
    "target",
    "serve",
    "port",
    "health",
    "keep",
    "limits",
];

/// Environments by name.
pub(crate) type Environments = BTreeMap<String, Environment>;

/// A place where artifacts go.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) name: String,
    repositories: Patterns,
    refs: Patterns,
    /// Types of events that must have vouched for an artifact and its commit.
    pub(crate) requires: Vec<String>,
    /// Only what is healthy in that environment comes here.
    pub(crate) promote_from: Option<String>,
    /// A person says yes to each deployment, within this time.
    pub(crate) approval: Option<Duration>,
    freeze: Vec<Window>,
    /// The folder that holds its releases, its journal and its application; absolute.
    pub(crate) root: PathBuf,
    /// How an artifact gets there.
    pub(crate) target: Target,
    /// Whether applications are started here, where the pipeline asks for it.
    pub(crate) serves: bool,
    /// The operator's port; otherwise one is picked once and kept.
    pub(crate) port: Option<u16>,
    /// No health check may take longer.
    pub(crate) health_deadline_max: Duration,
    /// How many releases stay on disk.
    pub(crate) keep: usize,
    pub(crate) limits: ServeLimits,
    /// Held by whoever touches the folder or the application: a job, or the keeper of applications.
    pub(crate) busy: Mutex<()>,
}

impl Environment {
    /// Whether a revision may go here; otherwise the reason, as the end of a sentence about the environment.
    pub(crate) fn admits(&self, revision: &Revision) -> Result<(), String> {
        if !self.repositories.fit(&revision.repository) && !self.repositories.fit(&revision.url) {
            return Err(format!(
                "takes nothing from the repository {}: only from {}",
                revision.repository, self.repositories.text
            ));
        }
        if !self.refs.fit(&revision.git_ref) {
            return Err(format!("takes nothing from {}: only from {}", revision.git_ref, self.refs.text));
        }
        Ok(())
    }

    /// Whether the configuration lets nothing in at that time.
    pub(crate) fn frozen(&self, now: DateTime<Utc>) -> Option<Frozen> {
        freeze::frozen(&self.freeze, now)
    }
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be used:{}", .path.display(), listed(.path, .mistakes))]
pub(crate) struct EnvironmentsError {
    path: PathBuf,
    mistakes: Vec<Told>,
}

/// What is wrong, and in which line and column.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) at: Option<(u64, u64)>,
    pub(crate) what: String,
}

impl From<String> for Told {
    fn from(what: String) -> Self {
        Self { at: None, what }
    }
}

fn listed(path: &Path, mistakes: &[Told]) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let line = |told: &Told| match told.at {
        Some((line, column)) => format!("\n  - {file}:{line}:{column}: {}", told.what),
        None => format!("\n  - {}", told.what),
    };
    mistakes.iter().map(line).collect()
}

/// Where relative paths of targets start.
#[derive(Clone, Copy)]
pub(crate) struct Base<'a> {
    /// The bot's own folder, for releases and journals.
    pub(crate) bot: &'a Path,
    /// The configuration folder, for the operator's files.
    pub(crate) config: &'a Path,
}

/// Reads the file. No file is no environments.
pub(crate) fn read(path: &Path, base: Base<'_>) -> Result<Environments, EnvironmentsError> {
    let broken = |mistakes| EnvironmentsError { path: path.to_owned(), mistakes };
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, base).map_err(broken),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Environments::new()),
        Err(error) => {
            Err(broken(vec![format!("it cannot be read: {error}; give the bot's user leave to read it").into()]))
        }
    }
}

/// All mistakes together, each with its place.
pub(crate) fn parse(text: &str, base: Base<'_>) -> Result<Environments, Vec<Told>> {
    if text.len() > FILE_BYTES_MAX {
        return Err(vec![format!("it has {} bytes: at most {FILE_BYTES_MAX} are read", text.len()).into()]);
    }
    let broken = |at, what: String| vec![Told { at, what }];
    let file: Option<Value> = read_yaml(text).map_err(|YamlMistake { at, message }| broken(at, message))?;
    let Some(file) = file.filter(|file| !file.is_null()) else {
        return Ok(Environments::new());
    };
    let places = Places::read(text).map_err(|(at, what)| broken(at, what))?;
    let mut mistakes = Vec::new();
    let environments = environments(file, base, &mut mistakes);
    if mistakes.is_empty() {
        return Ok(environments);
    }
    let mut told: Vec<Told> =
        mistakes.into_iter().map(|m| Told { at: Some(places.of(&m.pointer)), what: m.message }).collect();
    told.sort_by_key(|told| told.at);
    told.truncate(MISTAKES_MAX);
    for Told { what, .. } in &mut told {
        *what = what.chars().take(MISTAKE_CHARS_MAX).collect();
    }
    Err(told)
}

fn environments(file: Value, base: Base<'_>, mistakes: &mut Vec<Mistake>) -> Environments {
    let expected = "expected environments by name, such as `staging: {repositories: [\"shop/*\"], …}`";
    let mut environments = Environments::new();
    let Value::Object(file) = file else {
        mistakes.push(Mistake { pointer: String::new(), message: expected.to_owned() });
        return environments;
    };
    let names: Vec<String> = file.keys().cloned().collect();
    for (name, fields) in file {
        match fields {
            Value::Object(fields) => {
                let environment = environment(&name, fields, &names, base, mistakes);
                environments.extend(environment.map(|environment| (name, environment)));
            }
            _ => mistakes.push(Mistake { pointer: format!("/{name}"), message: format!("{name}: {expected}") }),
        }
    }
    shared(&environments, mistakes);
    circles(&environments, mistakes);
    environments
}

/// Two environments in one folder, behind one port or of one compose project would take each other's releases away.
fn shared(environments: &Environments, mistakes: &mut Vec<Mistake>) {
    let mut roots: BTreeMap<&Path, &str> = BTreeMap::new();
    let mut ports: BTreeMap<u16, &str> = BTreeMap::new();
    let mut projects: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, environment) in environments {
        if let Some(other) = roots.insert(&environment.root, name) {
            let message = format!("{name}.target.path: {other} has the same folder: give each its own");
            mistakes.push(Mistake { pointer: format!("/{name}/target/path"), message });
        }
        if let Some(other) = environment.port.and_then(|port| ports.insert(port, name)) {
            let message = format!("{name}.port: {other} has the same port: give each its own, or say auto");
            mistakes.push(Mistake { pointer: format!("/{name}/port"), message });
        }
        let project = environment.target.project().map(|project| project.name.as_str());
        if let Some(other) = project.and_then(|project| projects.insert(project, name)) {
            let message = format!("{name}.target.project: {other} has the same project: give each its own");
            mistakes.push(Mistake { pointer: format!("/{name}/target/project"), message });
        }
    }
}

/// What waits for itself never gets anything.
fn circles(environments: &Environments, mistakes: &mut Vec<Mistake>) {
    for name in environments.keys() {
        let from = |at: &str| environments.get(at).and_then(|environment| environment.promote_from.as_deref());
        let way: Vec<&str> = std::iter::successors(from(name), |at| from(at)).take(environments.len()).collect();
        if let Some(end) = way.iter().position(|at| at == name) {
            let way = way[..=end].join(" from ");
            let message =
                format!("{name}.promote_from: {name} would take from {way}: no environment may wait for itself");
            mistakes.push(Mistake { pointer: format!("/{name}/promote_from"), message });
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ServeMode {
    Auto,
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approval {
    required: bool,
    #[serde(default = "Approval::default_expires")]
    expires: Span,
}

impl Approval {
    fn default_expires() -> Span {
        Span(Duration::from_secs(24 * 3600))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthMax {
    deadline: Span,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsMax {
    memory_mib: u64,
    processes: u32,
    log_mib: u64,
}

impl Default for LimitsMax {
    fn default() -> Self {
        Self { memory_mib: 512, processes: 256, log_mib: 10 }
    }
}

/// In a repository's name or address `*` stays within one part; alone it is everything.
fn repository_glob(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(if pattern == "*" { "**" } else { pattern }).literal_separator(true).build()
}

/// As in git's refspecs: `refs/heads/*` is every branch, `refs/heads/feature/x` too.
fn ref_glob(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(pattern).literal_separator(false).build()
}

fn environment(
    name: &str,
    fields: Map<String, Value>,
    names: &[String],
    base: Base<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Environment> {
    let mistakes_before = mistakes.len();
    if !is_name(name) {
        let message = format!("`{name}` is no name: expected 1 to 60 letters, digits, `-`, `_` or `.`");
        mistakes.push(Mistake { pointer: format!("/{name}"), message });
    }
    let mut from = Fields::new(name, fields, &FIELDS, mistakes);
    let repositories = from.patterns("repositories", "[\"shop/*\"]", repository_glob);
    let refs = from.patterns("refs", "[refs/heads/main]", ref_glob);
    let requires = requires(&mut from);
    let promote_from = promote_from(&mut from, names);
    let approval = approval(&mut from);
    let freeze = windows(&mut from);
    let target = target::read(&mut from, base.bot, base.config);
    let serve = from.optional("serve").unwrap_or(ServeMode::Auto);
    let port = port(&mut from);
    let health = from.optional("health").unwrap_or(HealthMax { deadline: Span(Duration::from_secs(60)) });
    if health.deadline.0.is_zero() {
        from.wrong("health.deadline", "is zero, so nothing could become healthy: expected such as 60s");
    }
    let keep: usize = from.optional("keep").unwrap_or(5);
    if !(2..=KEEP_MAX).contains(&keep) {
        from.wrong("keep", format!("expected 2 (the current and the one before) to {KEEP_MAX} releases, got {keep}"));
    }
    let limits: LimitsMax = from.optional("limits").unwrap_or_default();
    if limits.memory_mib == 0 || limits.processes == 0 || limits.log_mib == 0 {
        from.wrong("limits", "expected every limit above zero");
    }
    let (target, root) = target?;
    let (repositories, refs) = (repositories?, refs?);
    (mistakes.len() == mistakes_before).then(|| Environment {
        name: name.to_owned(),
        repositories,
        refs,
        requires,
        promote_from,
        approval,
        freeze,
        root,
        target,
        serves: matches!(serve, ServeMode::Auto),
        port,
        health_deadline_max: health.deadline.0,
        keep,
        limits: ServeLimits {
            memory_bytes: limits.memory_mib.saturating_mul(MIB),
            processes: limits.processes,
            log_bytes: limits.log_mib.saturating_mul(MIB),
        },
        busy: Mutex::new(()),
    })
}

fn port(from: &mut Fields<'_>) -> Option<u16> {
    let port = from.optional("port").unwrap_or_else(|| Value::from("auto"));
    match (port.as_str(), port.as_u64().and_then(|number| u16::try_from(number).ok())) {
        (Some("auto"), _) => None,
        (_, Some(number)) if number > 0 => Some(number),
        _ => {
            from.wrong("port", format!("expected auto or a number from 1 to 65535, got {port}"));
            None
        }
    }
}

fn requires(from: &mut Fields<'_>) -> Vec<String> {
    let tested = TestCompleted::TYPE.to_owned();
    let requires = from.optional("requires").unwrap_or_else(|| vec![tested.clone()]);
    for (index, event_type) in requires.iter().enumerate() {
        if !VOUCHERS.contains(&event_type.as_str()) {
            let suggestion = suggestion(event_type, VOUCHERS.into_iter());
            let expected = VOUCHERS.join(" or ");
            from.wrong(
                &format!("requires.{index}"),
                format!("`{event_type}` vouches for no artifact: expected {expected}{suggestion}"),
            );
        }
    }
    if !requires.contains(&tested) {
        from.wrong("requires", format!("leaves out {tested}: nothing is deployed that was not tested"));
    }
    requires
}

fn promote_from(from: &mut Fields<'_>, names: &[String]) -> Option<String> {
    let source: String = from.optional("promote_from")?;
    if !names.contains(&source) {
        let suggestion = suggestion(&source, names.iter().map(String::as_str));
        let expected = names.join(", ");
        from.wrong(
            "promote_from",
            format!("there is no environment `{source}`: expected one of {expected}{suggestion}"),
        );
    }
    Some(source)
}

fn approval(from: &mut Fields<'_>) -> Option<Duration> {
    let approval: Approval = from.optional("approval")?;
    if approval.expires.0.is_zero() || approval.expires.0 > APPROVAL_MAX {
        from.wrong("approval.expires", "expected more than zero and at most 720h, such as 24h");
    }
    approval.required.then_some(approval.expires.0)
}

fn windows(from: &mut Fields<'_>) -> Vec<Window> {
    let written: Vec<freeze::Written> = from.optional("freeze").unwrap_or_default();
    let mut windows = Vec::new();
    for (index, written) in written.into_iter().enumerate() {
        match Window::read(written) {
            Ok(window) => windows.push(window),
            Err((field, why)) => from.wrong(format!("freeze.{index}.{field}").trim_end_matches('.'), why),
        }
    }
    windows
}

/// The rule of the pipeline file: a name is a part of application ids and of file names.
fn is_name(name: &str) -> bool {
    (1..=60).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests;
