//! What types cannot say: names, needs, paths, numbers. The first mistake is told, with the way to it.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    DeployStage, Pipeline, ReportFormat, Service, Step, Suite,
    read::{Part, meant},
    when::{Patterns, When},
};

/// So that what is said about a build fits into a message.
const STEPS_MAX: usize = 200;
const SUITES_MAX: usize = 100;
const SERVICES_MAX: usize = 10;
const IMAGE_BYTES_MAX: usize = 300;
const COMBINATIONS_MAX: usize = 32;
const MATRIX_VARIABLES_MAX: usize = 5;
/// Steps times combinations: each is named in `build.completed`.
const RUNS_MAX: usize = 300;

/// What is wrong, and where.
pub(super) struct Mistake {
    pub(super) path: Vec<Part>,
    /// The way to another place that has a part in it.
    pub(super) other: Option<Vec<Part>>,
    why: String,
}

impl Mistake {
    /// Puts a part before the way.
    fn under(mut self, part: Part) -> Self {
        if let Some(other) = &mut self.other {
            other.insert(0, part.clone());
        }
        self.path.insert(0, part);
        self
    }
}

type Checked = Result<(), Mistake>;

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.path.iter().enumerate() {
            match part {
                Part::Key(key) if i == 0 => write!(f, "{key}")?,
                Part::Key(key) => write!(f, ".{key}")?,
                Part::Index(index) => write!(f, "[{index}]")?,
            }
        }
        write!(f, ": {}", self.why)
    }
}

fn wrong(why: impl Into<String>) -> Mistake {
    Mistake { path: Vec::new(), other: None, why: why.into() }
}

/// Puts a key before the way to a mistake.
fn under(key: &str, checked: Checked) -> Checked {
    checked.map_err(|mistake| mistake.under(Part::Key(key.to_owned())))
}

fn each<T>(all: &[T], mut check: impl FnMut(usize, &T) -> Checked) -> Checked {
    all.iter().enumerate().try_for_each(|(i, item)| check(i, item).map_err(|mistake| mistake.under(Part::Index(i))))
}

impl Pipeline {
    pub(super) fn validate(&self) -> Checked {
        if self.version != 1 {
            return under("version", Err(wrong(format!("it is {}: this fleet reads version 1", self.version))));
        }
        under("build", self.check_build())?;
        under("test", under("suites", check_suites(&self.test.suites)))?;
        let environments = self.deploy.iter();
        let mut checked = environments.map(|(name, stage)| under(name, name_fits(name).and(check_deploy(stage))));
        under("deploy", checked.try_for_each(|one| one))
    }

    fn check_build(&self) -> Checked {
        let build = &self.build;
        let steps = if build.steps.len() > STEPS_MAX {
            Err(wrong(format!("{} steps: at most {STEPS_MAX} are run", build.steps.len())))
        } else {
            each(&build.steps, |i, step| check_step(step, &build.steps[..i], &build.steps))
        };
        under("steps", steps)?;
        under("matrix", check_matrix(&build.matrix, build.steps.len()))?;
        under("cache", each(&build.cache, |_, path| path_fits(path.strip_prefix("~/").unwrap_or(path))))?;
        under("artifacts", each(&build.artifacts, |_, p| path_fits(p)))?;
        under("keep", each(&build.keep, |_, p| path_fits(p)))
    }
}

fn check_step(step: &Step, above: &[Step], all: &[Step]) -> Checked {
    under("name", name_fits(&step.name))?;
    if above.iter().any(|other| other.name == step.name) {
        return under("name", Err(wrong(format!("`{}` is used twice: give each step its own name", step.name))));
    }
    under("run", command_fits(&step.run))?;
    under("env", env_fits(&step.env))?;
    let known: Vec<&str> = above.iter().map(|s| s.name.as_str()).collect();
    let needs = each(step.needs.as_deref().unwrap_or_default(), |_, need| {
        if known.contains(&need.as_str()) {
            Ok(())
        } else if all.iter().any(|s| s.name == *need) {
            Err(wrong(format!("`{need}` is not above `{}`: a step needs only steps above it; move one", step.name)))
        } else {
            Err(wrong(format!("there is no step `{need}`{}", meant(need, &known))))
        }
    });
    under("needs", needs)?;
    under("when", step.when.as_ref().map_or(Ok(()), check_when))?;
    under("image", step.image.as_deref().map_or(Ok(()), image_fits))?;
    under("secrets", check_secrets(&step.secrets))?;
    under("services", check_services(&step.services))
}

/// No engine takes it for an option, and no two read it differently.
fn image_fits(image: &str) -> Checked {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:/@".contains(c);
    let begins = image.starts_with(|first: char| first.is_ascii_alphanumeric());
    if !begins || image.len() > IMAGE_BYTES_MAX || !image.chars().all(is_plain) {
        return Err(wrong(format!("`{image}` is no image: expected such as debian:12 or registry.example.org/app:1")));
    }
    Ok(())
}

fn check_suites(suites: &BTreeMap<String, Suite>) -> Checked {
    if suites.len() > SUITES_MAX {
        return Err(wrong(format!("{} suites: at most {SUITES_MAX} are run", suites.len())));
    }
    let mut checked = suites.iter().map(|(name, suite)| {
        let inside = || {
            name_fits(name)?;
            under("run", command_fits(&suite.run))?;
            under("env", env_fits(&suite.env))?;
            under("reports", each(&suite.reports, |_, p| path_fits(p)))?;
            if suite.format == Some(ReportFormat::Junit) && suite.reports.is_empty() {
                let why = "JUnit XML is read from files: name those that the suite writes under `reports`";
                return under("format", Err(wrong(why)));
            }
            under("coverage", each(&suite.coverage, |_, p| path_fits(p)))?;
            under("secrets", check_secrets(&suite.secrets))?;
            under("services", check_services(&suite.services))
        };
        under(name, inside())
    });
    checked.try_for_each(|one| one)
}

fn check_deploy(stage: &DeployStage) -> Checked {
    under("when", stage.when.as_ref().map_or(Ok(()), check_when))?;
    let Some(serve) = &stage.serve else { return Ok(()) };
    under("serve", under("run", command_fits(&serve.run)).and_then(|()| under("env", env_fits(&serve.env))))
}

fn check_when(when: &When) -> Checked {
    let fits = |patterns: &Patterns| patterns.wrong().map_or(Ok(()), |why| Err(wrong(why)));
    under("branch", fits(&when.branch))?;
    under("tag", fits(&when.tag))?;
    under("path", fits(&when.path).and_then(|()| each(&when.path.0, |_, p| path_fits(p))))
}

fn check_services(services: &[Service]) -> Checked {
    if services.len() > SERVICES_MAX {
        return Err(wrong(format!("{} services: at most {SERVICES_MAX} are started", services.len())));
    }
    let mut seen = BTreeSet::new();
    each(services, |_, service| {
        under("name", name_fits(&service.name))?;
        if !seen.insert(service.name.clone()) {
            return under("name", Err(wrong(format!("`{}` is used twice: give each its own name", service.name))));
        }
        under("run", command_fits(&service.run))?;
        under("env", env_fits(&service.env))?;
        let ready = &service.ready;
        let ways = [&ready.tcp, &ready.http, &ready.log].into_iter().flatten().count();
        if ways != 1 {
            return under("ready", Err(wrong("expected exactly one of tcp, http and log")));
        }
        let port_fits = |port: &String| port == "$PORT" || port.parse::<u16>().is_ok_and(|port| port > 0);
        if ready.tcp.as_ref().is_some_and(|port| !port_fits(port)) {
            return under("ready", under("tcp", Err(wrong("expected a port: $PORT, or a number from 1 to 65535"))));
        }
        if ready.http.as_ref().is_some_and(|path| !path.starts_with('/') || path.contains(char::is_whitespace)) {
            return under("ready", under("http", Err(wrong("expected a path such as /health"))));
        }
        Ok(())
    })?;
    let mut ports: BTreeMap<String, usize> = BTreeMap::new();
    for (i, service) in services.iter().enumerate() {
        let variable = service.port_variable();
        if let Some(first) = ports.get(&variable) {
            let why = format!(
                "the command would find the ports of `{}` and `{}` in the same variable, {variable}: rename one",
                services[*first].name, service.name
            );
            let name_of = |i: usize| vec![Part::Index(i), Part::Key("name".to_owned())];
            return Err(Mistake { path: name_of(i), other: Some(name_of(*first)), why });
        }
        ports.insert(variable, i);
    }
    Ok(())
}

fn check_matrix(matrix: &BTreeMap<String, Vec<String>>, steps: usize) -> Checked {
    if matrix.len() > MATRIX_VARIABLES_MAX {
        return Err(wrong(format!("{} variables: at most {MATRIX_VARIABLES_MAX} are combined", matrix.len())));
    }
    let mut combinations = 1_usize;
    for (name, values) in matrix {
        let variable_fits = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !variable_fits || name.len() > 60 {
            return under(name, Err(wrong("expected a name of lower-case letters, digits and `_`")));
        }
        let distinct: BTreeSet<&String> = values.iter().collect();
        if values.is_empty() || distinct.len() != values.len() {
            return under(name, Err(wrong("expected a list of values, none of them twice")));
        }
        under(name, each(values, |_, value| name_fits(value)))?;
        combinations = combinations.saturating_mul(values.len());
    }
    if combinations > COMBINATIONS_MAX {
        return Err(wrong(format!("{combinations} combinations: at most {COMBINATIONS_MAX} are built")));
    }
    let runs = combinations * steps;
    if runs > RUNS_MAX {
        let why = format!("{combinations} combinations of {steps} steps are {runs} runs: at most {RUNS_MAX} are made");
        return Err(wrong(why));
    }
    Ok(())
}

fn check_secrets(names: &[String]) -> Checked {
    each(names, |_, name| variable_fits(name))
}

fn name_fits(name: &str) -> Checked {
    let fits = (1..=60).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let why = || wrong(format!("`{name}` is no name: expected 1 to 60 letters, digits, `-`, `_` or `.`"));
    if fits { Ok(()) } else { Err(why()) }
}

fn command_fits(run: &str) -> Checked {
    if run.trim().is_empty() { Err(wrong("the command is empty: expected a shell command")) } else { Ok(()) }
}

fn variable_fits(name: &str) -> Checked {
    let fits = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !fits {
        return Err(wrong(format!("`{name}` is no variable: expected letters, digits and `_`")));
    }
    if name.starts_with("LOTA_") || name.starts_with("LD_") {
        let why = format!("`{name}` cannot be set: names beginning with LOTA_ or LD_ are the fleet's");
        return Err(wrong(why));
    }
    Ok(())
}

fn env_fits(env: &BTreeMap<String, String>) -> Checked {
    env.iter().try_for_each(|(name, value)| {
        variable_fits(name)?;
        if value.contains('\0') { under(name, Err(wrong("expected a value without NUL"))) } else { Ok(()) }
    })
}

fn path_fits(p: &str) -> Checked {
    let outside = p.starts_with(['/', '~']) || p.split('/').any(|part| part == "..");
    if p.is_empty() || outside {
        let why = format!("`{p}` leaves the repository: expected a path inside it, without `..`");
        return Err(wrong(why));
    }
    Ok(())
}
