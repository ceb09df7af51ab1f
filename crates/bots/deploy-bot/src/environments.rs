//! The operator's `environments.yaml`: which environments there are, who may use them, and within which limits.
//! What an environment holds is not here but in its journal.
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use bot_messages::{Revision, pipeline::Span};
use bot_sandbox::ServeLimits;
use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

const FILE_BYTES_MAX: usize = 256 * 1024;
const KEEP_MAX: usize = 50;
const MIB: u64 = 1024 * 1024;
const FIELDS: [&str; 8] = ["repositories", "refs", "target", "serve", "port", "health", "keep", "limits"];

/// Environments by name.
pub(crate) type Environments = BTreeMap<String, Environment>;

/// A place where artifacts go.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) name: String,
    repositories: Patterns,
    refs: Patterns,
    /// The folder that holds its releases, its journal and its application; absolute.
    pub(crate) root: PathBuf,
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
}

/// Glob patterns, and how the operator wrote them.
#[derive(Debug)]
struct Patterns {
    set: GlobSet,
    text: String,
}

impl Patterns {
    fn fit(&self, text: &str) -> bool {
        self.set.is_match(text)
    }
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be used:{}", .path.display(), listed(.mistakes))]
pub(crate) struct EnvironmentsError {
    path: PathBuf,
    mistakes: Vec<String>,
}

fn listed(mistakes: &[String]) -> String {
    mistakes.iter().flat_map(|mistake| ["\n  - ", mistake]).collect()
}

/// Reads the file. Relative target paths start from `base`. No file is no environments.
pub(crate) fn read(path: &Path, base: &Path) -> Result<Environments, EnvironmentsError> {
    let broken = |mistakes| EnvironmentsError { path: path.to_owned(), mistakes };
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, base).map_err(broken),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Environments::new()),
        Err(error) => Err(broken(vec![format!("it cannot be read: {error}; give the bot's user leave to read it")])),
    }
}

/// All mistakes together, each with its place.
fn parse(text: &str, base: &Path) -> Result<Environments, Vec<String>> {
    if text.len() > FILE_BYTES_MAX {
        return Err(vec![format!("it has {} bytes: at most {FILE_BYTES_MAX} are read", text.len())]);
    }
    let file: Option<BTreeMap<String, Map<String, Value>>> = serde_saphyr::from_str(text).map_err(|error| {
        let at = error.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
        let what = error.without_snippet().to_string();
        vec![format!("{at}{}", what.lines().next().unwrap_or_default())]
    })?;
    let mut mistakes = Vec::new();
    let mut environments = Environments::new();
    for (name, fields) in file.unwrap_or_default() {
        let environment = environment(&name, fields, base, &mut mistakes);
        environments.extend(environment.map(|environment| (name, environment)));
    }
    shared(&environments, &mut mistakes);
    if mistakes.is_empty() { Ok(environments) } else { Err(mistakes) }
}

/// Two environments in one folder, or behind one port, would take each other's releases away.
fn shared(environments: &Environments, mistakes: &mut Vec<String>) {
    let mut roots: BTreeMap<&Path, &str> = BTreeMap::new();
    let mut ports: BTreeMap<u16, &str> = BTreeMap::new();
    for (name, environment) in environments {
        if let Some(other) = roots.insert(&environment.root, name) {
            mistakes.push(format!("{name}.target.path: {other} has the same folder: give each its own"));
        }
        if let Some(other) = environment.port.and_then(|port| ports.insert(port, name)) {
            mistakes.push(format!("{name}.port: {other} has the same port: give each its own, or say auto"));
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    #[serde(rename = "type")]
    kind: TargetKind,
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum TargetKind {
    Directory,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ServeMode {
    Auto,
    None,
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

/// One environment's fields, taken one by one so that a mistake in one does not hide the next.
struct Fields<'a> {
    name: &'a str,
    left: Map<String, Value>,
    mistakes: &'a mut Vec<String>,
}

impl Fields<'_> {
    fn wrong(&mut self, field: &str, what: impl std::fmt::Display) {
        self.mistakes.push(format!("{}.{field}: {what}", self.name));
    }

    fn optional<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        let value = self.left.remove(field)?;
        serde_json::from_value(value).map_err(|error| self.wrong(field, error)).ok()
    }

    fn required<T: DeserializeOwned>(&mut self, field: &str, example: &str) -> Option<T> {
        if !self.left.contains_key(field) {
            self.wrong(field, format!("is missing: expected such as {example}"));
        }
        self.optional(field)
    }

    fn patterns(
        &mut self,
        field: &str,
        example: &str,
        glob: fn(&str) -> Result<Glob, globset::Error>,
    ) -> Option<Patterns> {
        let written: Vec<String> = self.required(field, example)?;
        if written.is_empty() {
            self.wrong(field, format!("is empty, so nothing could ever go there: expected such as {example}"));
        }
        let mut set = GlobSetBuilder::new();
        for pattern in &written {
            match glob(pattern) {
                Ok(glob) => drop(set.add(glob)),
                Err(error) => self.wrong(field, error),
            }
        }
        let set = set.build().map_err(|error| self.wrong(field, error)).ok()?;
        Some(Patterns { set, text: written.join(", ") })
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

fn environment(name: &str, fields: Map<String, Value>, base: &Path, mistakes: &mut Vec<String>) -> Option<Environment> {
    let mistakes_before = mistakes.len();
    if !is_name(name) {
        mistakes.push(format!("`{name}` is no name: expected 1 to 60 letters, digits, `-`, `_` or `.`"));
    }
    let unknown: Vec<String> = fields.keys().filter(|field| !FIELDS.contains(&field.as_str())).cloned().collect();
    let mut from = Fields { name, left: fields, mistakes };
    for field in unknown {
        from.wrong(&field, format!("is not known: expected one of {}", FIELDS.join(", ")));
    }
    let repositories = from.patterns("repositories", "[\"shop/*\"]", repository_glob);
    let refs = from.patterns("refs", "[refs/heads/main]", ref_glob);
    let target: Option<Target> = from.required("target", "{type: directory, path: environments/local}");
    let serve = from.optional("serve").unwrap_or(ServeMode::Auto);
    let port = from.optional("port").unwrap_or_else(|| Value::from("auto"));
    let port = match (port.as_str(), port.as_u64().and_then(|number| u16::try_from(number).ok())) {
        (Some("auto"), _) => None,
        (_, Some(number)) if number > 0 => Some(number),
        _ => {
            from.wrong("port", format!("expected auto or a number from 1 to 65535, got {port}"));
            None
        }
    };
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
    if target.as_ref().is_some_and(|target| target.path.components().any(|part| part == Component::ParentDir)) {
        from.wrong("target.path", "expected a path without `..`");
    }
    let Target { kind: TargetKind::Directory, path } = target?;
    let (repositories, refs) = (repositories?, refs?);
    (mistakes.len() == mistakes_before).then(|| Environment {
        name: name.to_owned(),
        repositories,
        refs,
        // By its components, which leaves out every `.`: what is served must have a plain path.
        root: base.join(path).components().collect(),
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

/// The rule of the pipeline file: a name is a part of application ids and of file names.
fn is_name(name: &str) -> bool {
    (1..=60).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "local:\n  repositories: [\"*\"]\n  refs: [\"refs/heads/*\"]\n  target: {type: directory, path: environments/local}\n";

    fn local(more: &str) -> Result<Environment, Vec<String>> {
        Ok(parse(&format!("{LOCAL}{more}"), Path::new("/bot"))?.remove("local").unwrap())
    }

    fn revision(repository: &str, git_ref: &str) -> Revision {
        let url = format!("https://git.example.org/{repository}.git");
        Revision { repository: repository.into(), url, git_ref: git_ref.into(), ..Revision::example() }
    }

    #[test]
    fn a_short_entry_has_sensible_limits() {
        let local = local("").unwrap();
        assert_eq!(local.root, Path::new("/bot/environments/local"));
        assert!(local.serves && local.port.is_none() && local.keep == 5);
        assert_eq!(local.health_deadline_max, Duration::from_secs(60));
        assert_eq!(local.limits, ServeLimits { memory_bytes: 512 * MIB, processes: 256, log_bytes: 10 * MIB });
        assert_eq!(local.admits(&revision("shop/api", "refs/heads/feature/x")), Ok(()));
        let refused = local.admits(&revision("shop/api", "refs/tags/v1")).unwrap_err();
        assert_eq!(refused, "takes nothing from refs/tags/v1: only from refs/heads/*");
    }

    #[test]
    fn a_repository_fits_by_name_or_address_and_a_star_stays_in_its_part() {
        let text = LOCAL.replace("\"*\"", "\"shop/*\", \"https://git.example.org/tools/**\"");
        let local = parse(&text, Path::new("/bot")).unwrap().remove("local").unwrap();
        assert!(local.admits(&revision("shop/api", "refs/heads/main")).is_ok());
        assert!(local.admits(&revision("tools/a/b", "refs/heads/main")).is_ok());
        let refused = local.admits(&revision("shop/evil/api", "refs/heads/main")).unwrap_err();
        assert!(refused.starts_with("takes nothing from the repository shop/evil/api"), "{refused}");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = format!(
            "{LOCAL}  keep: 1\n  port: none\n  helth: {{}}\nother:\n  refs: []\n  target: {{type: ftp, path: x}}\n  limits: {{memory: 3}}\n\"a b\": {{}}\n"
        );
        let told = parse(&text, Path::new("/bot")).unwrap_err().join("\n");
        for mistake in [
            "local.keep: expected 2",
            "local.port: expected auto or a number",
            "local.helth: is not known",
            "other.repositories: is missing",
            "other.refs: is empty",
            "other.target: unknown variant `ftp`",
            "other.limits: unknown field `memory`",
            "`a b` is no name",
        ] {
            assert!(told.contains(mistake), "{mistake} is not in\n{told}");
        }
    }

    #[test]
    fn two_environments_never_share_a_folder_or_a_port() {
        let text = format!("{LOCAL}  port: 8600\n{}  port: 8600\n", LOCAL.replace("local:", "twin:"));
        let told = parse(&text, Path::new("/bot")).unwrap_err();
        assert_eq!(told.len(), 2, "{told:?}");
    }

    #[test]
    fn no_file_and_an_empty_file_are_no_environments() {
        assert!(read(Path::new("/nowhere/environments.yaml"), Path::new("/bot")).unwrap().is_empty());
        assert!(parse("# nothing yet\n", Path::new("/bot")).unwrap().is_empty());
    }

    #[test]
    fn a_broken_file_says_where() {
        let told = parse("local:\n  refs: [\n", Path::new("/bot")).unwrap_err();
        assert!(told[0].starts_with("line "), "{told:?}");
        let error = EnvironmentsError { path: "environments.yaml".into(), mistakes: told };
        assert!(error.to_string().starts_with("environments.yaml cannot be used:\n  - line "), "{error}");
    }
}
