//! The packages' manifests: how the other rules see them, and the rules about their own form.
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Report;
use super::tree::Tree;

/// What every package takes from the workspace: table, key, and what to write.
const INHERITED: &[(&str, &str, &str)] = &[
    ("lints", "workspace", "add a table [lints] with `workspace = true`"),
    ("package", "edition", "write `edition.workspace = true`"),
    ("package", "license", "write `license.workspace = true`"),
];

/// Its package holds the list of all bots.
const FLEET_LIST: &str = "crates/tools/xtask/Cargo.toml";

/// A package of the workspace, as far as rules look at it.
pub(super) struct Manifest {
    /// Its manifest's path, and the folder that holds it.
    pub(super) path: String,
    pub(super) folder: String,
    pub(super) name: String,
    pub(super) name_line: usize,
    pub(super) dependencies: Vec<Dependency>,
    /// Source files that targets name, relative to the folder.
    pub(super) target_paths: Vec<String>,
    missing: Vec<(&'static str, String)>,
    broken: Option<String>,
}

pub(super) struct Dependency {
    /// Its key, and the package that it means.
    pub(super) key: String,
    pub(super) package: String,
    pub(super) line: usize,
    /// The table it stands in; two tables are sorted each for itself.
    pub(super) table: String,
    pub(super) is_dev: bool,
    from_workspace: bool,
    /// Where it lies, for one that is taken by its path.
    lies_in: Option<String>,
}

impl Dependency {
    /// The fleet's list takes bots by their path, so that a new one is named in one manifest and not in two. Nothing
    /// else depends on a bot, so there is no second version of it to keep equal.
    fn is_bot_of_the_list(&self, user: &Manifest) -> bool {
        let is_bot = |path: &str| path.starts_with("../../bots/") || path.starts_with("../../services/");
        user.path == FLEET_LIST && !self.is_dev && self.lies_in.as_deref().is_some_and(is_bot)
    }
}

/// All packages: those on the shelves, and the tests.
pub(super) fn all(tree: &Tree) -> Vec<Manifest> {
    let is_member = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        matches!(parts[..], ["crates", _, _, "Cargo.toml"] | ["tests", "Cargo.toml"])
    };
    let packages = tree.texts().filter(|(path, _)| is_member(path));
    packages.map(|(path, text)| read(path, text)).collect()
}

/// A package bears its folder's name and takes lints, edition and licence from the workspace.
pub(super) fn names_and_inheritance(tree: &Tree, report: &mut Report) {
    for manifest in all(tree) {
        if let Some(error) = &manifest.broken {
            report.add("syntax", &manifest.path, 1, format!("it does not parse ({error})"), "correct it");
            continue;
        }
        let folder = manifest.folder.rsplit('/').next().unwrap_or_default();
        if folder != manifest.name {
            let wrong = format!("the package is named {:?} and its folder {folder:?}", manifest.name);
            report.add("package-names", &manifest.path, manifest.name_line, wrong, "give both one name");
        }
        for (remedy, what) in &manifest.missing {
            report.add("inheritance", &manifest.path, 1, format!("it does not inherit {what}"), *remedy);
        }
    }
}

/// Versions and features are set in one place, and a list is sorted so that a line has one place in it.
pub(super) fn dependency_lists(tree: &Tree, report: &mut Report) {
    for manifest in all(tree) {
        for dependency in manifest
            .dependencies
            .iter()
            .filter(|dependency| !dependency.from_workspace && !dependency.is_bot_of_the_list(&manifest))
        {
            let wrong = format!("`{}` is not taken from the workspace", dependency.key);
            let remedy = "declare it under [workspace.dependencies] and write `workspace = true` here";
            report.add("workspace-dependency", &manifest.path, dependency.line, wrong, remedy);
            report.of(&dependency.key);
        }
        for pair in manifest.dependencies.windows(2) {
            let [before, after] = pair else { continue };
            if before.table == after.table && before.key > after.key {
                let wrong = format!("`{}` stands behind `{}`", after.key, before.key);
                report.add("dependency-order", &manifest.path, after.line, wrong, "sort the list");
            }
        }
    }
}

fn read(path: &str, text: &str) -> Manifest {
    let folder = path.trim_end_matches("/Cargo.toml").to_owned();
    let mut manifest = Manifest {
        path: path.to_owned(),
        folder,
        name: String::new(),
        name_line: 1,
        dependencies: Vec::new(),
        target_paths: Vec::new(),
        missing: Vec::new(),
        broken: None,
    };
    let root = match DeTable::parse(text) {
        Ok(root) => root.into_inner(),
        Err(error) => {
            manifest.broken = Some(error.message().to_owned());
            return manifest;
        }
    };
    if let Some(name) = table(&root, "package").and_then(|package| package.get("name")) {
        name.get_ref().as_str().unwrap_or_default().clone_into(&mut manifest.name);
        manifest.name_line = line_of(text, &name.span());
    }
    for (of, key, remedy) in INHERITED {
        let value = table(&root, of).and_then(|of| of.get(*key)).map(Spanned::get_ref);
        let inherits = value.is_some_and(|value| {
            value.as_bool() == Some(true) || value.as_table().is_some_and(|table| is_true(table, "workspace"))
        });
        if !inherits {
            let what = if *of == "lints" { "the lints" } else { key };
            manifest.missing.push((remedy, what.to_owned()));
        }
    }
    read_dependencies(&root, "", text, &mut manifest.dependencies);
    if let Some(targets) = table(&root, "target") {
        for (condition, value) in targets {
            if let Some(of_target) = value.get_ref().as_table() {
                read_dependencies(of_target, condition.get_ref(), text, &mut manifest.dependencies);
            }
        }
    }
    manifest.target_paths = target_paths(&root);
    manifest
}

fn read_dependencies(of: &DeTable<'_>, condition: &str, text: &str, into: &mut Vec<Dependency>) {
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(list) = table(of, kind) else { continue };
        let mut entries: Vec<_> = list.iter().collect();
        // The parser sorts by key; the rule is about the order in the file.
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let settings = value.get_ref().as_table();
            let package = settings.and_then(|settings| settings.get("package")).and_then(|p| p.get_ref().as_str());
            into.push(Dependency {
                key: key.get_ref().to_string(),
                package: package.unwrap_or(key.get_ref()).to_owned(),
                line: line_of(text, &key.span()),
                table: format!("{condition} {kind}"),
                is_dev: kind == "dev-dependencies",
                lies_in: settings.and_then(|settings| settings.get("path")?.get_ref().as_str().map(str::to_owned)),
                from_workspace: settings.is_some_and(|settings| is_true(settings, "workspace")),
            });
        }
    }
}

fn target_paths(root: &DeTable<'_>) -> Vec<String> {
    let of = |target: &DeValue<'_>| target.get("path")?.get_ref().as_str().map(str::to_owned);
    let mut paths = Vec::new();
    for kind in ["bin", "test", "bench", "example"] {
        let targets = root.get(kind).and_then(|targets| targets.get_ref().as_array());
        paths.extend(targets.into_iter().flat_map(|list| list.iter()).filter_map(|target| of(target.get_ref())));
    }
    paths.extend(root.get("lib").and_then(|lib| of(lib.get_ref())));
    let script = table(root, "package").and_then(|package| package.get("build"));
    paths.extend(script.and_then(|script| script.get_ref().as_str()).map(str::to_owned));
    paths
}

fn table<'a, 'text>(of: &'a DeTable<'text>, key: &str) -> Option<&'a DeTable<'text>> {
    of.get(key)?.get_ref().as_table()
}

fn is_true(table: &DeTable<'_>, key: &str) -> bool {
    table.get(key).and_then(|value| value.get_ref().as_bool()) == Some(true)
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    text[..span.start].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    const PATH: &str = "crates/libs/one/Cargo.toml";
    const GOOD: &str = "[package]\nname = \"one\"\nedition.workspace = true\nlicense.workspace = true\n\n\
                        [lints]\nworkspace = true\n\n\
                        [dependencies]\nserde.workspace = true\nserde-saphyr.workspace = true\n\
                        serde_json = { workspace = true, features = [\"raw_value\"] }\n\n\
                        [dev-dependencies]\nanyhow.workspace = true\n";

    #[test]
    fn a_package_bears_its_folders_name() {
        assert_eq!(found(names_and_inheritance, &[(PATH, GOOD), ("tests/fixtures/x/Cargo.toml", "")]), [""; 0]);
        assert_eq!(
            found(names_and_inheritance, &[(PATH, &GOOD.replace("\"one\"", "\"two\""))]),
            ["crates/libs/one/Cargo.toml:2: the package is named \"two\" and its folder \"one\""]
        );
    }

    #[test]
    fn a_package_inherits_what_the_workspace_sets() {
        let own = GOOD
            .replace("edition.workspace = true", "edition = \"2021\"")
            .replace("license.workspace = true\n", "")
            .replace("[lints]\nworkspace = true", "[lints.rust]\nunsafe_code = \"allow\"");
        assert_eq!(
            found(names_and_inheritance, &[(PATH, &own)]),
            ["the lints", "edition", "license"].map(|what| format!("{PATH}:1: it does not inherit {what}"))
        );
    }

    #[test]
    fn a_manifest_that_does_not_parse_is_named() {
        let found = found(names_and_inheritance, &[(PATH, "[package\n")]);
        assert!(found[0].starts_with("crates/libs/one/Cargo.toml:1: it does not parse"), "{found:?}");
    }

    #[test]
    fn a_dependency_comes_from_the_workspace() {
        assert_eq!(found(dependency_lists, &[(PATH, GOOD)]), [""; 0]);
        let own = format!(
            "{GOOD}hex = \"0.4\"\none = {{ path = \"../one\" }}\n\n[target.'cfg(unix)'.dependencies]\nnix = \"0.3\"\n"
        );
        assert_eq!(
            found(dependency_lists, &[(PATH, &own)]),
            [(16, "hex"), (17, "one"), (20, "nix")]
                .map(|(line, name)| format!("{PATH}:{line}: `{name}` is not taken from the workspace"))
        );
    }

    #[test]
    fn the_fleets_list_takes_bots_and_nothing_else_by_path() {
        let list = GOOD.replace("\"one\"", "\"xtask\"");
        let list = format!(
            "{list}\n[build-dependencies]\nbuild-bot = {{ path = \"../../bots/build-bot\" }}\nlota = {{ path = \"../lota\" }}\n"
        );
        assert_eq!(
            found(dependency_lists, &[(FLEET_LIST, &list)]),
            ["crates/tools/xtask/Cargo.toml:19: `lota` is not taken from the workspace"]
        );
        assert_eq!(found(dependency_lists, &[("crates/tools/lota/Cargo.toml", &list)]).len(), 2);
    }

    #[test]
    fn a_list_of_dependencies_is_sorted() {
        let unsorted = format!("{GOOD}zstd.workspace = true\ntar.workspace = true\n");
        assert_eq!(
            found(dependency_lists, &[(PATH, &unsorted)]),
            ["crates/libs/one/Cargo.toml:17: `tar` stands behind `zstd`"]
        );
    }
}
