//! Python, by its manifests, or by its tests where there is nothing else. What it depends on is installed below the
//! tree, so that the artifact runs where there is a Python, and the tests need no network.
use std::path::Path;

use super::{
    draft::{Draft, printed, reported},
    look,
};

/// Where what it depends on lies.
const PACKAGES: &str = ".packages";
const REQUIREMENTS: [&str; 5] = [
    "requirements.txt",
    "requirements-dev.txt",
    "requirements-test.txt",
    "dev-requirements.txt",
    "test-requirements.txt",
];
const UV: &str = "uv export --quiet --frozen --all-groups --no-emit-project --format requirements-txt --output-file \"$HOME/requirements.txt\"
uv pip install --target .packages --requirement \"$HOME/requirements.txt\"";
const POETRY: &str = "poetry install --no-interaction";
/// What unittest prints of a test, as libtest prints it.
const AS_LIBTEST: &str = "sed -u -E 's/^(.+) [.]{3} (ok|expected failure)$/test \\1 ... ok/; s/^(.+) [.]{3} (FAIL|ERROR|unexpected success)$/test \\1 ... FAILED/; s/^(.+) [.]{3} skipped.*$/test \\1 ... ignored/'";

pub(super) fn find(root: &Path) -> Option<Draft> {
    let by = look::first_file(root, &["pyproject.toml", "setup.py", "setup.cfg", "requirements.txt"])?;
    let uses_pytest = uses_pytest(root);
    let draft = match look::first_file(root, &["uv.lock", "poetry.lock"]) {
        Some("uv.lock") => Draft::new("uv", "uv.lock").fetch(UV).cache(&["~/.cache/uv"]),
        Some(_) => Draft::new("poetry", "poetry.lock").fetch(POETRY).cache(&["~/.cache/pypoetry"]),
        None => {
            let install = pip(root, by, uses_pytest);
            Draft::new("python", by)
                .when(install.is_some(), |draft| draft.fetch(&install.unwrap_or_default()).cache(&["~/.cache/pip"]))
        }
    };
    let draft = finished(root, draft, uses_pytest);
    if draft.kind != "poetry" {
        return Some(draft);
    }
    // Poetry has its own environment; as copies, because links out of the tree are not packed.
    Some(draft.env("POETRY_VIRTUALENVS_IN_PROJECT", "true").env("POETRY_VIRTUALENVS_OPTIONS_ALWAYS_COPY", "true"))
}

/// Scripts without a manifest: their tests are what they are known by.
pub(super) fn scripts(root: &Path) -> Option<Draft> {
    if look::first_file(root, &["pyproject.toml", "setup.py", "setup.cfg", "requirements.txt"]).is_some() {
        return None;
    }
    let by = first_test(root, "", 1).or_else(|| tests_folder(root).and_then(|folder| first_test(root, folder, 1)))?;
    Some(finished(root, Draft::new("python", &by), false))
}

/// Nothing where there is nothing to install.
fn pip(root: &Path, by: &str, uses_pytest: bool) -> Option<String> {
    let files = REQUIREMENTS.iter().filter(|name| look::is_file(root, name) && requires(&look::text(root, name)));
    let mut wanted: Vec<String> = files.map(|name| format!("--requirement {name}")).collect();
    let manifest = look::text(root, by);
    let has_own = by == "setup.py" || manifest.contains("[build-system]");
    if has_own && (manifest.contains("dependencies") || manifest.contains("install_requires")) {
        wanted.push(".".to_owned());
    }
    if uses_pytest && !REQUIREMENTS.iter().any(|name| look::text(root, name).contains("pytest")) {
        wanted.push("pytest".to_owned());
    }
    // Not `-m pip`: there pyenv would write its shims anew, which are read-only in the sandbox.
    (!wanted.is_empty()).then(|| format!("python3 -mpip install --target {PACKAGES} {}", wanted.join(" ")))
}

fn requires(requirements: &str) -> bool {
    requirements.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'))
}

fn finished(root: &Path, draft: Draft, uses_pytest: bool) -> Draft {
    let python = if draft.kind == "poetry" { ".venv/bin/python" } else { "python3" };
    let has_packages = !draft.pipeline.build.steps.is_empty() && draft.kind != "poetry";
    let remark = if has_packages {
        "The tree with what it depends on: it runs with PYTHONPATH=.packages."
    } else {
        "A Python program is its source."
    };
    let draft = draft.artifacts(&["**"]).remark("artifacts", remark);
    let draft = if uses_pytest {
        draft.suite("unit", reported(&format!("{python} -m pytest --junitxml=junit.xml"), "junit.xml"))
    } else {
        match discover(root) {
            Some(start) => draft
                .suite("unit", printed(&format!("{python} -m unittest discover -v -b{start} 2>&1 | {AS_LIBTEST}")))
                .remark("suites.unit", "What unittest prints is turned into what TestBot reads."),
            None => draft,
        }
    };
    // The tree's own code before a copy of it that was installed.
    let mut places = Vec::new();
    places.extend(look::is_folder(root, "src").then_some("src"));
    places.push(".");
    places.extend(has_packages.then_some(PACKAGES));
    if places.len() > 1 { draft.env("PYTHONPATH", &places.join(":")) } else { draft }
}

fn uses_pytest(root: &Path) -> bool {
    let mentions = ["pyproject.toml", "setup.cfg", "setup.py", "tox.ini", "uv.lock", "poetry.lock"];
    let says = |name: &&str| look::text(root, name).contains("pytest");
    look::first_file(root, &["pytest.ini", "conftest.py", "tests/conftest.py"]).is_some()
        || REQUIREMENTS.iter().chain(&mentions).any(says)
}

/// Where unittest begins, as an option of its own; nothing where there are no tests.
fn discover(root: &Path) -> Option<&'static str> {
    // It goes only into packages by itself.
    match tests_folder(root).filter(|folder| first_test(root, folder, 4).is_some()) {
        Some(folder) if look::is_file(root, &format!("{folder}/__init__.py")) => Some(""),
        Some("tests") => Some(" -s tests"),
        Some(_) => Some(" -s test"),
        None => first_test(root, "", 4).map(|_| ""),
    }
}

fn tests_folder(root: &Path) -> Option<&'static str> {
    ["tests", "test"].into_iter().find(|folder| look::is_folder(root, folder))
}

fn first_test(root: &Path, below: &str, depth: usize) -> Option<String> {
    look::find_file(root, below, depth, |_, name| name.starts_with("test") && name.ends_with(".py"))
}
