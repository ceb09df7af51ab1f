//! Go, by go.mod.
use std::path::Path;

use super::{
    draft::{Draft, printed},
    look,
};

const BUILD: &str = "go build ./...";
/// All programs of the module.
const PROGRAMS: &str =
    "mkdir -p bin\ngo list -f '{{if eq .Name \"main\"}}{{.ImportPath}}{{end}}' ./... | xargs -r go build -o bin/";
/// What Go prints of a test, as libtest prints it.
const AS_LIBTEST: &str = "sed -u -E 's/^ *--- PASS: ([^ ]+).*/test \\1 ... ok/; s/^ *--- FAIL: ([^ ]+).*/test \\1 ... FAILED/; s/^ *--- SKIP: ([^ ]+).*/test \\1 ... ignored/'";

pub(super) fn find(root: &Path) -> Option<Draft> {
    if !look::is_file(root, "go.mod") {
        return None;
    }
    let is_go = |name: &str| Path::new(name).extension().is_some_and(|e| e == "go");
    let has_program =
        look::find_file(root, "", 8, |path, name| is_go(name) && !name.ends_with("_test.go") && declares_main(path));
    let has_tests = look::find_file(root, "", 8, |_, name| name.ends_with("_test.go")).is_some();
    let fetches = look::is_file(root, "go.sum") && !look::is_folder(root, "vendor");
    let draft =
        Draft::new("go", "go.mod").when(fetches, |draft| draft.fetch("go mod download").cache(&["~/go/pkg/mod"]));
    let draft = match has_program {
        Some(_) => draft.step("compile", &format!("{BUILD}\n{PROGRAMS}")).artifacts(&["bin/*"]),
        None => draft.step("compile", BUILD).artifacts(&["**"]).remark("artifacts", "A library is its source."),
    };
    let test = format!("go test -v ./... 2>&1 | {AS_LIBTEST}");
    let mut suite = printed(&test);
    if fetches {
        (suite.run, suite.network) = (format!("go mod download\n{test}"), true);
    }
    let draft = draft.when(has_tests, |draft| {
        draft.suite("unit", suite).remark("suites.unit", "What Go prints is turned into what TestBot reads.")
    });
    // Another version of Go would have to be downloaded.
    Some(draft.env("GOTOOLCHAIN", "local"))
}

fn declares_main(path: &Path) -> bool {
    let head = look::read_at_most(path, 16 << 10).unwrap_or_default();
    String::from_utf8_lossy(&head).lines().any(|line| line.trim_end() == "package main")
}
