//! How an artifact gets into an environment: into a folder of this machine, by the operator's own commands, by ssh to
//! another machine, or as a compose project. What is not a folder is three scripts, whoever wrote them.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use bot_messages::pipeline::Span;
use serde::Deserialize;

use super::{
    compose::{Compose, Project},
    fields::Fields,
    ssh::Ssh,
};

const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// What a script finds in its environment begins like this.
const OWN_PREFIX: &str = "LOTA_";

/// How an artifact gets there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Into a folder of this machine, where DeployBot serves it.
    Directory,
    /// To wherever scripts put it.
    Scripts(Box<Scripts>),
}

impl Target {
    /// The compose project that it is, if it is one.
    pub(super) fn project(&self) -> Option<&Project> {
        match self {
            Self::Directory => None,
            Self::Scripts(scripts) => scripts.project.as_ref(),
        }
    }
}

/// Shell scripts that put an artifact somewhere, see that it is there, and take it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scripts {
    pub(crate) deploy: String,
    /// Ends well only where the artifact of `LOTA_DIGEST` is what runs.
    pub(crate) verify: Option<String>,
    /// Absent: `deploy` with the artifact of before.
    pub(crate) rollback: Option<String>,
    /// Names of files in the folder of secrets, each given as a variable of that name.
    pub(crate) secrets: BTreeSet<String>,
    /// Names of files in the folder of secrets, each given as a variable that holds its path.
    pub(crate) secret_files: BTreeMap<String, String>,
    /// Files that it may read, by the variable that holds their path.
    pub(crate) files: BTreeMap<String, PathBuf>,
    pub(crate) env: BTreeMap<String, String>,
    /// Of one script.
    pub(crate) timeout: Duration,
    pub(crate) network: bool,
    /// Where what is there answers, for people.
    pub(crate) url: Option<String>,
    /// They bring up a compose project.
    pub(crate) project: Option<Project>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Written {
    Directory { path: PathBuf },
    Command(Box<Commands>),
    Ssh(Box<Ssh>),
    Compose(Box<Compose>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Commands {
    path: Option<PathBuf>,
    deploy: String,
    verify: Option<String>,
    rollback: Option<String>,
    #[serde(default)]
    secrets: BTreeSet<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default = "default_timeout")]
    timeout: Span,
    #[serde(default = "default_network")]
    network: bool,
    url: Option<String>,
}

pub(super) fn default_timeout() -> Span {
    Span(Duration::from_secs(600))
}

fn default_network() -> bool {
    true
}

/// The target, and the folder that holds the environment's journal and releases.
pub(super) fn read(from: &mut Fields<'_>, base: &Path, config_dir: &Path) -> Option<(Target, PathBuf)> {
    let written: Written = from.required("target", "{type: directory, path: environments/local}")?;
    let (target, path) = match written {
        Written::Directory { path } => (Target::Directory, path),
        Written::Command(commands) => {
            let path = commands.path.clone().unwrap_or_else(|| Path::new("environments").join(from.name));
            let scripts = Scripts {
                deploy: commands.deploy,
                verify: commands.verify,
                rollback: commands.rollback,
                secrets: commands.secrets,
                secret_files: BTreeMap::new(),
                files: BTreeMap::new(),
                env: commands.env,
                timeout: commands.timeout.0,
                network: commands.network,
                url: commands.url,
                project: None,
            };
            check_names(from, &scripts.secrets, &scripts.env);
            (Target::Scripts(Box::new(scripts)), path)
        }
        Written::Ssh(ssh) => {
            let path = Path::new("environments").join(from.name);
            (Target::Scripts(Box::new(ssh.scripts(from, config_dir)?)), path)
        }
        Written::Compose(compose) => {
            let path = Path::new("environments").join(from.name);
            (Target::Scripts(Box::new(compose.scripts(from, config_dir)?)), path)
        }
    };
    if let Target::Scripts(scripts) = &target {
        check(from, scripts);
    }
    if path.components().any(|part| part == Component::ParentDir) {
        from.wrong("target.path", "expected a path without `..`");
    }
    // By its components, which leaves out every `.`: what is served must have a plain path.
    Some((target, base.join(path).components().collect()))
}

fn check(from: &mut Fields<'_>, scripts: &Scripts) {
    for (field, script) in [
        ("deploy", Some(&scripts.deploy)),
        ("verify", scripts.verify.as_ref()),
        ("rollback", scripts.rollback.as_ref()),
    ] {
        if script.is_some_and(|script| script.trim().is_empty() || script.contains('\0')) {
            from.wrong(&format!("target.{field}"), "is empty: expected a line for the shell, or leave it out");
        }
    }
    if scripts.timeout.is_zero() || scripts.timeout > TIMEOUT_MAX {
        from.wrong("target.timeout", "expected more than zero and at most 1h, such as 10m");
    }
}

/// What the operator names is a variable, and none of those that scripts are told by.
pub(super) fn check_names(from: &mut Fields<'_>, secrets: &BTreeSet<String>, env: &BTreeMap<String, String>) {
    for name in secrets {
        if !is_variable(name) {
            let what = format!("`{name}` is no name of a variable: expected such as KUBE_TOKEN, and not {OWN_PREFIX}…");
            from.wrong("target.secrets", what);
        }
    }
    for name in env.keys().filter(|name| !is_variable(name)) {
        let what = format!("`{name}` is no name of a variable: expected such as REGION, and not {OWN_PREFIX}…");
        from.wrong("target.env", what);
    }
}

/// A name that is safe as a variable and as a file.
fn is_variable(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && !name.starts_with(OWN_PREFIX)
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
