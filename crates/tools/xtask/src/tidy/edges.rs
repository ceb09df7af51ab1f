//! Who may depend on whom: the direction between our own crates, and the fences around crates with one user.
use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeTable;

use super::Report;
use super::manifest::{self, Manifest};
use super::tree::Tree;

/// The libraries below the bots, and all of our own crates that each may use.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("bot-clients", &["bot-messages", "bot-secrets"]),
    ("bot-core", &["bot-messages", "bot-secrets", "bot-store"]),
    ("bot-messages", &[]),
    ("bot-pipeline", &["bot-clients", "bot-messages", "bot-sandbox", "bot-secrets"]),
    ("bot-provision", &["bot-messages", "bot-sandbox", "bot-secrets"]),
    ("bot-sandbox", &["bot-messages", "bot-secrets"]),
    ("bot-secrets", &[]),
    ("bot-store", &["bot-messages", "bot-secrets"]),
    ("bot-test", &["bot-clients", "bot-core", "bot-messages", "bot-provision", "bot-sandbox", "bot-store"]),
];

/// The one library that is for tests alone.
const FOR_TESTS: &str = "bot-test";

/// Crates with one user among ours, and why. `everywhere` also keeps other people's crates from bringing them along;
/// `in_tests` names a package whose tests may have it too.
const FENCES: &[Fence] = &[
    Fence {
        package: "backoff",
        home: "bot-core",
        everywhere: false,
        in_tests: None,
        why: "retry delays are computed in one module",
    },
    Fence {
        package: "config",
        home: "bot-core",
        everywhere: false,
        in_tests: None,
        why: "configuration is read in one place",
    },
    Fence {
        package: "lapin",
        home: "bot-core",
        everywhere: true,
        in_tests: Some("tests"),
        why: "the bus is the one way to the broker",
    },
    Fence {
        package: "sqlx",
        home: "bot-store",
        everywhere: true,
        in_tests: None,
        why: "the store is the one owner of the database",
    },
];

struct Fence {
    package: &'static str,
    home: &'static str,
    everywhere: bool,
    /// The bus is held against a client that is not ours, or its mistakes would agree with themselves.
    in_tests: Option<&'static str>,
    why: &'static str,
}

/// Dependencies point one way: messages, core, bots and services, tools and tests.
pub(super) fn direction(tree: &Tree, report: &mut Report) {
    let manifests = manifest::all(tree);
    let shelves: BTreeMap<&str, &str> = manifests.iter().map(|m| (m.name.as_str(), shelf(m))).collect();
    for manifest in &manifests {
        if shelf(manifest) == "libs" && allowed(&manifest.name).is_none() {
            let wrong = format!("the library {} has no place in the direction of dependencies", manifest.name);
            let remedy = "say in tidy/edges.rs what it may use";
            report.add("direction", &manifest.path, manifest.name_line, wrong, remedy);
            continue;
        }
        for dependency in &manifest.dependencies {
            let Some(target_shelf) = shelves.get(dependency.package.as_str()) else {
                continue;
            };
            if let Err(remedy) = may_use(manifest, &dependency.package, target_shelf, dependency.is_dev) {
                let wrong = format!("{} depends on {}", manifest.name, dependency.package);
                report.add("direction", &manifest.path, dependency.line, wrong, remedy);
                report.of(&dependency.key);
            }
        }
    }
}

/// Each fenced crate has its one user, also where a rename hides it or another crate brings it.
pub(super) fn fences(tree: &Tree, report: &mut Report) {
    let renamed = renames(tree);
    let manifests = manifest::all(tree);
    for manifest in &manifests {
        for dependency in &manifest.dependencies {
            let package = renamed.get(&dependency.key).unwrap_or(&dependency.package);
            let fence = FENCES
                .iter()
                .find(|fence| fence.package == package && fence.home != manifest.name)
                .filter(|fence| !(dependency.is_dev && fence.in_tests == Some(manifest.name.as_str())));
            if let Some(Fence { package, home, why, .. }) = fence {
                let wrong = format!("{} depends on {package}", manifest.name);
                report.add("fences", &manifest.path, dependency.line, wrong, format!("use {home}, for {why}"));
                report.of(&dependency.key);
            }
        }
    }
    let own: BTreeSet<&str> = manifests.iter().map(|manifest| manifest.name.as_str()).collect();
    for (user, package, line) in locked_edges(tree) {
        let fence = FENCES.iter().find(|fence| fence.everywhere && fence.package == package);
        if let Some(Fence { why, .. }) = fence.filter(|_| !own.contains(user.as_str())) {
            let wrong = format!("{user} brings {package} along");
            report.add("fences", "Cargo.lock", line, wrong, format!("do without {user}, for {why}"));
            report.of(&user);
        }
    }
}

fn shelf(manifest: &Manifest) -> &str {
    manifest.folder.strip_prefix("crates/").and_then(|rest| rest.split('/').next()).unwrap_or("tests")
}

fn allowed(library: &str) -> Option<&'static [&'static str]> {
    LIBRARIES.iter().find(|(name, _)| *name == library).map(|(_, allowed)| *allowed)
}

/// What to do instead, if this one may not use that one.
fn may_use(user: &Manifest, used: &str, used_shelf: &str, is_dev: bool) -> Result<(), String> {
    let user_shelf = shelf(user);
    if used == FOR_TESTS && user_shelf != "tests" && !is_dev {
        return Err("it is for tests: make it a dev-dependency".to_owned());
    }
    if used_shelf == "tools" || used_shelf == "tests" {
        return Err(format!("nothing stands on {used}: move what both need into a library"));
    }
    match user_shelf {
        "libs" => match allowed(&user.name).unwrap_or_default() {
            _ if used == FOR_TESTS => Ok(()),
            [] => Err("it stands on no crate of ours: move what needs one to the user".to_owned()),
            allowed if allowed.contains(&used) => Ok(()),
            allowed => Err(format!("it may use {} alone", allowed.join(", "))),
        },
        "bots" | "services" if used_shelf == "bots" || used_shelf == "services" => {
            Err("bots and services talk by messages: put what both need into bot-messages".to_owned())
        }
        _ => Ok(()),
    }
}

/// Keys of the workspace's dependencies that mean a package of another name.
fn renames(tree: &Tree) -> BTreeMap<String, String> {
    let find = || {
        let root = DeTable::parse(tree.text("Cargo.toml")?).ok()?.into_inner();
        let workspace = root.get("workspace")?.get_ref().as_table()?;
        let list = workspace.get("dependencies")?.get_ref().as_table()?;
        let renamed = list.iter().filter_map(|(key, value)| {
            let package = value.get_ref().get("package")?.get_ref().as_str()?;
            Some((key.get_ref().to_string(), package.to_owned()))
        });
        Some(renamed.collect())
    };
    find().unwrap_or_default()
}

/// Every (user, used, line) in the lock file.
fn locked_edges(tree: &Tree) -> Vec<(String, String, usize)> {
    let Some(text) = tree.text("Cargo.lock") else {
        return Vec::new();
    };
    let mut edges = Vec::new();
    let mut user = "";
    for (i, line) in text.lines().enumerate() {
        // The lock file's form is cargo's own and fixed: one value per line.
        if let Some(name) = line.strip_prefix("name = ") {
            user = name.trim_matches('"');
        } else if let Some(used) = line.strip_prefix(" \"") {
            let used = used.split([' ', '"']).next().unwrap_or_default();
            edges.push((user.to_owned(), used.to_owned(), i + 1));
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    /// A package on a shelf with these dependencies: `-name` is a dev-dependency.
    fn package(folder: &str, dependencies: &[&str]) -> (String, String) {
        let name = folder.rsplit('/').next().unwrap_or(folder);
        let lines = |dev: bool| {
            let of_kind = dependencies.iter().filter(|name| name.starts_with('-') == dev);
            let lines: Vec<_> =
                of_kind.map(|name| format!("{}.workspace = true\n", name.trim_start_matches('-'))).collect();
            lines.concat()
        };
        let (normal, dev) = (lines(false), lines(true));
        let text = format!("[package]\nname = \"{name}\"\n[dependencies]\n{normal}[dev-dependencies]\n{dev}");
        (format!("{folder}/Cargo.toml"), text)
    }

    fn judged(rule: fn(&Tree, &mut Report), packages: &[(&str, &[&str])]) -> Vec<String> {
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        let shelf = |name: &&str| (format!("crates/libs/{name}"), Vec::new());
        let empty = LIBRARIES.iter().map(|(name, _)| shelf(name));
        let extra = ["crates/bots/build-bot", "crates/services/monitor", "crates/tools/lota", "tests"];
        let empty = empty.chain(extra.iter().map(|folder| ((*folder).to_owned(), Vec::new())));
        let given = packages.iter().map(|(folder, dependencies)| ((*folder).to_owned(), dependencies.to_vec()));
        for (folder, dependencies) in empty.chain(given) {
            let (path, text) = package(&folder, &dependencies);
            all.insert(path, text);
        }
        let all: Vec<(&str, &str)> = all.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let wrong = |line: String| line.split(": ").nth(1).unwrap_or_default().to_owned();
        found(rule, &all).into_iter().map(wrong).collect()
    }

    #[test]
    fn dependencies_point_one_way() {
        let good: &[(&str, &[&str])] = &[
            ("crates/libs/bot-core", &["bot-messages", "bot-store", "-bot-test"]),
            ("crates/libs/bot-store", &["bot-messages"]),
            ("crates/bots/build-bot", &["bot-core", "bot-sandbox", "-bot-test"]),
            ("crates/tools/xtask", &["build-bot", "monitor"]),
            ("tests", &["bot-test", "-build-bot"]),
        ];
        assert_eq!(judged(direction, good), [""; 0]);
        let bad: &[(&str, &[&str])] = &[
            ("crates/libs/bot-messages", &["bot-store"]),
            ("crates/libs/bot-store", &["bot-core"]),
            ("crates/libs/bot-sandbox", &["-bot-core"]),
            ("crates/libs/bot-core", &["bot-sandbox"]),
        ];
        assert_eq!(
            judged(direction, bad),
            [
                "bot-core depends on bot-sandbox",
                "bot-messages depends on bot-store",
                "bot-sandbox depends on bot-core",
                "bot-store depends on bot-core",
            ]
        );
    }

    #[test]
    fn bots_and_services_stand_alone() {
        let bad: &[(&str, &[&str])] =
            &[("crates/bots/test-bot", &["build-bot", "-monitor"]), ("crates/services/ledger", &["build-bot", "lota"])];
        assert_eq!(
            judged(direction, bad),
            [
                "test-bot depends on build-bot",
                "test-bot depends on monitor",
                "ledger depends on build-bot",
                "ledger depends on lota",
            ]
        );
    }

    #[test]
    fn bot_test_is_for_tests() {
        let bad: &[(&str, &[&str])] =
            &[("crates/tools/lota", &["bot-test"]), ("crates/libs/bot-messages", &["-bot-test"])];
        // Its own tests may, where its corpora are read.
        assert_eq!(judged(direction, bad), ["lota depends on bot-test"]);
    }

    #[test]
    fn a_new_library_needs_a_place() {
        let new: &[(&str, &[&str])] = &[("crates/libs/bot-new", &[])];
        assert_eq!(judged(direction, new), ["the library bot-new has no place in the direction of dependencies"]);
    }

    #[test]
    fn a_fenced_crate_has_one_user() {
        let good: &[(&str, &[&str])] = &[
            ("crates/libs/bot-core", &["backoff", "config", "lapin"]),
            ("crates/libs/bot-store", &["sqlx"]),
            ("tests", &["-lapin"]),
        ];
        assert_eq!(judged(fences, good), [""; 0]);
        let bad: &[(&str, &[&str])] = &[
            ("crates/bots/build-bot", &["config", "lapin"]),
            ("crates/libs/bot-core", &["sqlx"]),
            ("crates/tools/lota", &["-lapin"]),
            ("tests", &["-backoff", "lapin"]),
        ];
        assert_eq!(
            judged(fences, bad),
            [
                "build-bot depends on config",
                "build-bot depends on lapin",
                "bot-core depends on sqlx",
                "lota depends on lapin",
                "tests depends on lapin",
                "tests depends on backoff",
            ]
        );
    }

    #[test]
    fn a_fence_holds_for_a_renamed_crate_and_for_one_that_is_brought_along() {
        let (path, text) = package("crates/bots/build-bot", &["rabbit"]);
        let root = "[workspace.dependencies]\nrabbit = { version = \"4\", package = \"lapin\" }\n";
        assert_eq!(
            found(fences, &[(&path, &text), ("Cargo.toml", root)]),
            ["crates/bots/build-bot/Cargo.toml:4: build-bot depends on lapin"]
        );
        let lock = "[[package]]\nname = \"pool\"\ndependencies = [\n \"lapin\",\n \"sqlx 0.9.0\",\n]\n";
        assert_eq!(
            found(fences, &[("Cargo.lock", lock)]),
            ["Cargo.lock:4: pool brings lapin along", "Cargo.lock:5: pool brings sqlx along"]
        );
    }
}
