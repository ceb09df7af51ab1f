//! The rule against dead files: each Rust file of a package is reached from one of its targets.
use std::collections::BTreeSet;

use syn::visit::{self, Visit};

use super::Report;
use super::manifest::{self, Manifest};
use super::tree::Tree;

/// A file that no `mod` names compiles for nobody, and a test file that is no target never runs.
pub(super) fn dead_files(tree: &Tree, report: &mut Report) {
    for manifest in manifest::all(tree) {
        let own: Vec<&str> = sources(tree, &manifest).collect();
        let mut reached = BTreeSet::new();
        for path in own.iter().filter(|path| is_target(path, &manifest)) {
            reach(tree, path, true, &mut reached);
        }
        for path in own.iter().filter(|path| !reached.contains(**path)) {
            let wrong = "no `mod` declaration and no target leads to it";
            report.add("dead-files", path, 1, wrong, "declare it, name it in Cargo.toml, or delete it");
        }
    }
}

/// The package's Rust files, without those of a package inside its folder.
fn sources<'tree>(tree: &'tree Tree, manifest: &Manifest) -> impl Iterator<Item = &'tree str> {
    let folder = format!("{}/", manifest.folder);
    tree.rust().map(|(path, _)| path).filter(move |path| path.starts_with(&folder))
}

/// Where cargo looks by itself, and what the manifest names.
fn is_target(path: &str, manifest: &Manifest) -> bool {
    let inside = &path[manifest.folder.len() + 1..];
    if manifest.target_paths.iter().any(|target| target == inside) {
        return true;
    }
    let parts: Vec<&str> = inside.split('/').collect();
    matches!(
        parts[..],
        ["build.rs"]
            | ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["src", "bin", _, "main.rs"]
            | ["tests" | "examples" | "benches", _]
            | ["tests" | "examples" | "benches", _, "main.rs"]
    )
}

/// Marks the file and all that its `mod` declarations lead to. A target and a `mod.rs` own their folder, any other
/// file owns the folder of its name.
fn reach(tree: &Tree, path: &str, owns_folder: bool, reached: &mut BTreeSet<String>) {
    let Some(text) = tree.text(path) else { return };
    if !reached.insert(path.to_owned()) {
        return;
    }
    let Ok(file) = syn::parse_file(text) else { return };
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let base = if owns_folder || path.ends_with("/mod.rs") { folder } else { path.trim_end_matches(".rs") };
    let mut declared = Declared { folder, inside: base.to_owned(), depth: 0, files: Vec::new() };
    declared.visit_file(&file);
    for (candidate, owns_folder) in declared.files {
        reach(tree, &candidate, owns_folder, reached);
    }
}

/// The files that one file's declarations may mean, and whether they own their folder.
struct Declared<'a> {
    /// Where the file lies.
    folder: &'a str,
    /// Where its modules lie, one folder deeper in each inline module.
    inside: String,
    depth: usize,
    files: Vec<(String, bool)>,
}

impl<'ast> Visit<'ast> for Declared<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let name = module.ident.to_string();
        let name = name.trim_start_matches("r#");
        if module.content.is_some() {
            let outer = self.inside.clone();
            self.inside = format!("{outer}/{name}");
            self.depth += 1;
            visit::visit_item_mod(self, module);
            self.depth -= 1;
            self.inside = outer;
        } else if let Some(named) = module.attrs.iter().find_map(path_attribute) {
            let from = if self.depth == 0 { self.folder } else { &self.inside };
            self.files.push((joined(from, &named), true));
        } else {
            self.files.push((format!("{}/{name}.rs", self.inside), false));
            self.files.push((format!("{}/{name}/mod.rs", self.inside), true));
        }
    }
}

fn path_attribute(attribute: &syn::Attribute) -> Option<String> {
    match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        },
        _ => None,
    }
}

/// `from/path` without `.` and `..`.
fn joined(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    const MANIFEST: (&str, &str) = ("crates/libs/one/Cargo.toml", "[package]\nname = \"one\"\n");

    fn dead(files: &[(&str, &str)]) -> Vec<String> {
        let mut all: Vec<(String, &str)> = vec![(MANIFEST.0.to_owned(), MANIFEST.1)];
        all.extend(files.iter().map(|(path, text)| (format!("crates/libs/one/{path}"), *text)));
        let all: Vec<(&str, &str)> = all.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let dead = found(dead_files, &all);
        let name = |line: String| line["crates/libs/one/".len()..].split(':').next().unwrap_or_default().to_owned();
        dead.into_iter().map(name).collect()
    }

    #[test]
    fn a_declared_file_is_alive_and_any_other_is_dead() {
        let lib = "pub mod a;\nmod deep { mod c; }\n#[path = \"odd/place.rs\"]\nmod e;\n#[cfg(test)]\nmod tests;\n";
        let alive = [
            ("src/lib.rs", lib),
            ("src/a.rs", "mod b;"),
            ("src/a/b.rs", ""),
            ("src/deep/c/mod.rs", "mod d;"),
            ("src/deep/c/d.rs", ""),
            ("src/odd/place.rs", "mod f;"),
            ("src/odd/f.rs", ""),
            ("src/tests.rs", ""),
        ];
        assert_eq!(dead(&alive), [""; 0]);
        let files = [("src/lib.rs", "mod a;"), ("src/a.rs", ""), ("src/b.rs", "mod c;"), ("src/b/c.rs", "")];
        assert_eq!(dead(&files), ["src/b.rs", "src/b/c.rs"]);
        assert_eq!(dead(&[("src/lib.rs", "// mod a;"), ("src/a.rs", "")]), ["src/a.rs"]);
    }

    #[test]
    fn what_cargo_finds_by_itself_is_alive() {
        let alive =
            ["build.rs", "src/main.rs", "src/bin/x.rs", "src/bin/y/main.rs", "tests/one.rs", "benches/b/main.rs"];
        assert_eq!(dead(&alive.map(|path| (path, ""))), [""; 0]);
        assert_eq!(dead(&[("tests/a/b.rs", ""), ("src/bin/y/z.rs", "")]), ["src/bin/y/z.rs", "tests/a/b.rs"]);
    }

    #[test]
    fn a_journey_is_alive_when_the_manifest_names_it() {
        let manifest = "[package]\nname = \"tests\"\n[[test]]\nname = \"push\"\npath = \"journeys/push.rs\"\n";
        let files = [("tests/Cargo.toml", manifest), ("tests/journeys/push.rs", ""), ("tests/journeys/pull.rs", "")];
        let wanted = ["tests/journeys/pull.rs:1: no `mod` declaration and no target leads to it"];
        assert_eq!(found(dead_files, &files), wanted);
    }
}
