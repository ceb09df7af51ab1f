//! What a resolved compose file may say, and what is added to it. A compose file can have of the machine whatever the
//! engine can, which is everything; so of one that comes from a repository only what is known to stay within the project
//! passes, and a word that is not known here does not.
use std::{
    fs,
    path::{Path, PathBuf},
};

use bot_messages::Digest;
use serde_json::{Map, Value, json};

/// On each container: whose release it is, of how many, and whether it goes on or ends by itself.
pub(crate) const DIGEST_LABEL: &str = "lotabots.digest";
pub(crate) const COUNT_LABEL: &str = "lotabots.containers";
pub(crate) const RUNS_LABEL: &str = "lotabots.runs";

const SERVICE: &[&str] = &[
    "attach",
    "cap_drop",
    "command",
    "configs",
    "container_name",
    "cpu_count",
    "cpu_percent",
    "cpu_shares",
    "cpus",
    "depends_on",
    "deploy",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "environment",
    "expose",
    "extra_hosts",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "ipc",
    "labels",
    "logging",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "network_mode",
    "networks",
    "oom_score_adj",
    "pids_limit",
    "platform",
    "ports",
    "profiles",
    "pull_policy",
    "read_only",
    "restart",
    "scale",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "volumes",
    "working_dir",
];
const DEPLOY: &[&str] = &[
    "endpoint_mode",
    "labels",
    "mode",
    "placement",
    "replicas",
    "resources",
    "restart_policy",
    "rollback_config",
    "update_config",
];
const RESOURCES: &[&str] = &["cpus", "memory", "pids"];
const VOLUME: &[&str] = &["driver", "external", "labels", "name"];
const NETWORK: &[&str] = &["attachable", "driver", "enable_ipv6", "external", "internal", "ipam", "labels", "name"];
const GIVEN: &[&str] = &["content", "environment", "external", "file", "labels", "name", "template_driver"];
const TOP: &[&str] = &["configs", "name", "networks", "secrets", "services", "version", "volumes"];
const LOG_DRIVERS: &[&str] = &["json-file", "local", "none"];

/// Everything in a resolved file that reaches beyond the project, one sentence each. `release` is the folder that binds
/// may come from.
pub(crate) fn beyond(config: &Value, project: &str, release: &Path) -> Vec<String> {
    let mut judge = Judge { project, release: release.canonicalize().unwrap_or(release.to_owned()), found: Vec::new() };
    let Some(top) = config.as_object() else {
        return vec!["it is no compose file: expected a mapping".to_owned()];
    };
    judge.only(top, TOP, "");
    for (name, service) in entries(config, "services") {
        judge.service(&format!("services.{name}"), service);
    }
    for (name, volume) in entries(config, "volumes") {
        judge.shared(&format!("volumes.{name}"), volume, VOLUME, &["local"]);
    }
    for (name, network) in entries(config, "networks") {
        judge.shared(&format!("networks.{name}"), network, NETWORK, &["bridge"]);
    }
    for kind in ["configs", "secrets"] {
        for (name, given) in entries(config, kind) {
            judge.given(&format!("{kind}.{name}"), given);
        }
    }
    judge.found
}

fn entries<'v>(config: &'v Value, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    config.get(key).and_then(Value::as_object).into_iter().flatten()
}

struct Judge<'a> {
    project: &'a str,
    release: PathBuf,
    found: Vec<String>,
}

impl Judge<'_> {
    fn say(&mut self, place: &str, why: impl std::fmt::Display) {
        self.found.push(format!("{place}: {why}"));
    }

    /// A value that says nothing is as if it were not there.
    fn only(&mut self, fields: &Map<String, Value>, known: &[&str], place: &str) {
        for (field, value) in fields {
            let says_nothing = value.is_null() || *value == json!(false) || *value == json!({}) || *value == json!([]);
            if !known.contains(&field.as_str()) && !field.starts_with("x-") && !says_nothing {
                let place = format!("{place}.{field}");
                self.say(place.trim_start_matches('.'), "is not among what stays within the project");
            }
        }
    }

    fn service(&mut self, place: &str, service: &Value) {
        let Some(fields) = service.as_object() else {
            return self.say(place, "expected a mapping");
        };
        self.only(fields, SERVICE, place);
        let text = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default();
        let mode = text("network_mode");
        if !matches!(mode, "" | "none" | "bridge") && !mode.starts_with("service:") {
            self.say(&format!("{place}.network_mode"), format!("`{mode}` is another's network"));
        }
        let ipc = text("ipc");
        if !matches!(ipc, "" | "none" | "private" | "shareable") && !ipc.starts_with("service:") {
            self.say(&format!("{place}.ipc"), format!("`{ipc}` is another's memory"));
        }
        for option in items(fields.get("security_opt")) {
            if !option.as_str().is_some_and(|option| option.starts_with("no-new-privileges")) {
                self.say(&format!("{place}.security_opt"), format!("{option} may take a wall away"));
            }
        }
        let driver = fields.get("logging").and_then(|logging| logging.get("driver")).and_then(Value::as_str);
        if let Some(driver) = driver.filter(|driver| !LOG_DRIVERS.contains(driver)) {
            self.say(&format!("{place}.logging"), format!("`{driver}` sends what is said elsewhere"));
        }
        if fields.get("oom_score_adj").and_then(Value::as_i64).is_some_and(|score| score < 0) {
            self.say(&format!("{place}.oom_score_adj"), "others would be ended for want of memory in its place");
        }
        for volume in items(fields.get("volumes")) {
            self.mount(&format!("{place}.volumes"), volume);
        }
        if let Some(deploy) = fields.get("deploy").and_then(Value::as_object) {
            self.only(deploy, DEPLOY, &format!("{place}.deploy"));
            for kind in ["limits", "reservations"] {
                let resources = deploy.get("resources").and_then(|all| all.get(kind)).and_then(Value::as_object);
                self.only(resources.unwrap_or(&Map::new()), RESOURCES, &format!("{place}.deploy.resources.{kind}"));
            }
        }
    }

    fn mount(&mut self, place: &str, volume: &Value) {
        let source = volume.get("source").and_then(Value::as_str).unwrap_or_default();
        match volume.get("type").and_then(Value::as_str) {
            Some("bind") if !self.is_released(source) => {
                self.say(place, format!("{source} lies outside of the release"));
            }
            Some("bind") if volume.get("read_only") != Some(&json!(true)) => {
                self.say(place, format!("{source} would be writable, and a release stays as it was tested: add `:ro`"));
            }
            Some("bind" | "volume" | "tmpfs") => {}
            other => self.say(place, format!("a mount of type `{}`", other.unwrap_or_default())),
        }
    }

    /// What others could have as well.
    fn shared(&mut self, place: &str, value: &Value, known: &[&str], drivers: &[&str]) {
        let Some(fields) = value.as_object() else { return };
        self.only(fields, known, place);
        let is_external = fields.get("external").is_some_and(|external| *external != json!(false));
        let name = fields.get("name").and_then(Value::as_str).unwrap_or_default();
        if is_external || !name.starts_with(&format!("{}_", self.project)) {
            self.say(place, format!("`{name}` is not the project's own: leave out `external` and `name`"));
        }
        let driver = fields.get("driver").and_then(Value::as_str).unwrap_or_default();
        if !driver.is_empty() && !drivers.contains(&driver) {
            self.say(&format!("{place}.driver"), format!("`{driver}` is not one of {}", drivers.join(", ")));
        }
    }

    /// A file, a value or a variable that is shown to services.
    fn given(&mut self, place: &str, value: &Value) {
        let Some(fields) = value.as_object() else { return };
        self.only(fields, GIVEN, place);
        if fields.get("external").is_some_and(|external| *external != json!(false)) {
            self.say(place, "is not the project's own: leave out `external`");
        }
        if let Some(file) = fields.get("file").and_then(Value::as_str).filter(|file| !self.is_released(file)) {
            self.say(place, format!("{file} lies outside of the release"));
        }
    }

    /// Also where a link leads.
    fn is_released(&self, path: &str) -> bool {
        fs::canonicalize(path).is_ok_and(|real| real.starts_with(&self.release))
    }
}

fn items(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

/// Says on each container which release it is of, so that it can be seen what is there.
pub(crate) fn label(config: &mut Value, digest: &Digest) -> Result<(), String> {
    let ending: Vec<String> = entries(config, "services").flat_map(|(_, service)| ends_by_itself(service)).collect();
    let Some(services) = config.get_mut("services").and_then(Value::as_object_mut).filter(|all| !all.is_empty()) else {
        return Err("the compose file has no services".to_owned());
    };
    let count: u64 = services.values().map(replicas).sum();
    for (name, service) in services {
        let Some(service) = service.as_object_mut() else { return Err(format!("services.{name}: expected a mapping")) };
        let labels = service.entry("labels").or_insert_with(|| json!({}));
        let Some(labels) = labels.as_object_mut() else {
            return Err(format!("services.{name}.labels: expected a mapping"));
        };
        let runs = if ending.contains(name) { "once" } else { "on" };
        labels.insert(DIGEST_LABEL.to_owned(), digest.to_string().into());
        labels.insert(COUNT_LABEL.to_owned(), count.to_string().into());
        labels.insert(RUNS_LABEL.to_owned(), runs.into());
    }
    Ok(())
}

/// The services that this one waits for until they have ended well.
fn ends_by_itself(service: &Value) -> Vec<String> {
    let ends = |needed: &Value| needed.get("condition") == Some(&json!("service_completed_successfully"));
    entries(service, "depends_on").filter(|(_, needed)| ends(needed)).map(|(name, _)| name.clone()).collect()
}

fn replicas(service: &Value) -> u64 {
    let deploy = service.get("deploy").and_then(|deploy| deploy.get("replicas"));
    deploy.or(service.get("scale")).and_then(Value::as_u64).unwrap_or(1)
}

/// Why an archive of an image is refused: it may hold one image, and no name but `name`, as loading it gives that name to
/// what is in it on the whole engine. `index` is what newer engines read in place of `manifest`.
pub(crate) fn archive_beyond(manifest: &str, index: &str, name: &str) -> Option<String> {
    let images: Vec<Value> = match serde_json::from_str(manifest) {
        Ok(images) => images,
        Err(why) => return Some(format!("its manifest.json is none ({why}): expected what `docker save` writes")),
    };
    let index: Value = match serde_json::from_str(if index.trim().is_empty() { "{}" } else { index }) {
        Ok(index) => index,
        Err(why) => return Some(format!("its index.json cannot be read: {why}")),
    };
    let indexed = index.get("manifests");
    if images.len() != 1 || items(indexed).count() > 1 {
        return Some(format!("it holds {} images: expected one", images.len().max(items(indexed).count())));
    }
    let tags = images.iter().flat_map(|image| items(image.get("RepoTags"))).filter_map(Value::as_str);
    let annotations =
        items(indexed).filter_map(|one| one.get("annotations")?.get("io.containerd.image.name")?.as_str());
    let is_own = |tag: &str| {
        let plain = tag.strip_prefix("docker.io/library/").or(tag.strip_prefix("docker.io/")).unwrap_or(tag);
        plain.strip_prefix(name).is_some_and(|rest| rest.starts_with(':') && !rest.contains('/'))
    };
    let other = tags.chain(annotations).find(|tag| !is_own(tag))?;
    Some(format!("it would take the name {other}: target.image.name allows {name} alone"))
}

#[cfg(test)]
mod tests;
