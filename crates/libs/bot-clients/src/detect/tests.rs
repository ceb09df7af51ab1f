//! Whole trees, recognised; what the tools themselves make of it is tested where they run.
use std::fs;

use super::*;

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn found(files: &[(&str, &str)]) -> Detected {
    detect(tree(files).path()).unwrap_or_else(|| panic!("nothing was recognised: {files:?}"))
}

fn told(files: &[(&str, &str)]) -> String {
    read_pipeline(tree(files).path()).unwrap_err().to_string()
}

/// Steps and suites in short: `fetch*` has the network.
fn outline(detected: &Detected) -> String {
    let star = |network: bool| if network { "*" } else { "" };
    let steps = detected.pipeline.build.steps.iter().map(|s| format!("{}{}", s.name, star(s.network)));
    let suites = detected.pipeline.test.suites.iter().map(|(n, s)| format!("/{n}{}", star(s.network)));
    format!("{}: {}", detected.kind, steps.chain(suites).collect::<Vec<_>>().join(" "))
}

const LOCKED: (&str, &str) = ("Cargo.lock", "[[package]]\nsource = \"registry+x\"\n");

/// One tree of each kind and way, and what comes of it.
const TREES: &[(&[(&str, &str)], &str)] = &[
    (&[("Cargo.toml", "[package]"), ("Cargo.lock", "[[package]]\nname = \"a\"\n")], "cargo: compile collect /unit"),
    (&[("Cargo.toml", ""), LOCKED], "cargo: fetch* compile collect /unit*"),
    (&[("Cargo.toml", "[dependencies]\nx = 1\n")], "cargo: fetch* compile collect /unit*"),
    (&[("Cargo.toml", "[package]\n")], "cargo: compile collect /unit"),
    (&[("go.mod", ""), ("main.go", "package main\n"), ("x/a_test.go", "package x\n")], "go: compile /unit"),
    (&[("go.mod", ""), ("go.sum", "x"), ("lib.go", "package lib\n")], "go: fetch* compile"),
    (&[("go.mod", ""), ("go.sum", "x"), ("vendor/modules.txt", "")], "go: compile"),
    (&[("pom.xml", "<project/>"), ("src/test/java/T.java", "")], "maven: fetch* compile /unit*"),
    (&[("pom.xml", "<project/>")], "maven: fetch* compile"),
    (&[("build.gradle.kts", ""), ("app/src/test/java/T.java", "")], "gradle: fetch* compile /unit*"),
    (&[("settings.gradle", "")], "gradle: fetch* compile"),
    (&[("package.json", r#"{"scripts":{"test":"node --test"}}"#)], "npm: /unit"),
    (&[("package.json", r#"{"scripts":{"test":"echo \"Error: no test specified\" && exit 1"}}"#)], "npm: "),
    (&[("package.json", r#"{"scripts":{"build":"vite build"},"devDependencies":{"vite":"1"}}"#)], "npm: fetch* build"),
    (
        &[("package.json", r#"{"scripts":{"test":"jest"},"dependencies":{"x":"1"}}"#), ("pnpm-lock.yaml", "")],
        "pnpm: fetch* /unit",
    ),
    (
        &[("package.json", r#"{"scripts":{"test":"mocha"},"dependencies":{"x":"1"}}"#), ("yarn.lock", "")],
        "yarn: fetch* /unit",
    ),
    (&[("package.json", "no json")], "npm: "),
    (&[("requirements.txt", "# none\n"), ("test_a.py", "")], "python: /unit"),
    (&[("requirements.txt", "flask==3\n"), ("tests/test_a.py", "")], "python: fetch* /unit"),
    (&[("pyproject.toml", "[tool.pytest.ini_options]\n")], "python: fetch* /unit"),
    (&[("setup.py", "setup(install_requires=['x'])")], "python: fetch*"),
    (&[("pyproject.toml", ""), ("uv.lock", ""), ("src/a.py", "")], "uv: fetch*"),
    (&[("pyproject.toml", ""), ("poetry.lock", "pytest"), ("a.py", "")], "poetry: fetch* /unit"),
    (&[("tests/test_a.py", "")], "python: /unit"),
    (&[("CMakeLists.txt", "enable_testing()\ninstall(TARGETS a)\n")], "cmake: configure compile install /ctest"),
    (&[("CMakeLists.txt", "project(a)\n")], "cmake: configure compile"),
    (&[("Makefile", "all:\n\techo\ntest: all\n\t./it\n")], "make: make /make"),
    (&[("GNUmakefile", "check test:\n\t./it\n")], "make: make /make"),
    (&[("Makefile", "test := x\nall:\n\techo test:\ntests:\n# test: no\n")], "make: make"),
    (&[("index.html", "")], "static: "),
    (&[("public/index.html", "")], "static: "),
];

#[test]
fn each_kind_fetches_with_network_and_builds_without() {
    for (files, want) in TREES {
        let detected = found(files);
        assert_eq!(outline(&detected), *want, "{files:?}");
        let steps = &detected.pipeline.build.steps;
        assert!(steps.iter().all(|step| step.network == (step.name == "fetch")), "{steps:?}");
        assert!(!detected.pipeline.build.artifacts.is_empty(), "{files:?}");
    }
    assert!(detect(tree(&[("src/index.html", ""), ("README", "")]).path()).is_none());
}

#[test]
fn the_file_says_the_same_as_what_was_detected() {
    for (files, _) in TREES {
        let detected = found(files);
        let text = detected.file();
        assert_eq!(Pipeline::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")), detected.pipeline, "{text}");
        assert!(text.starts_with(&format!("# A first pipeline file: recognised as {} by", detected.kind)), "{text}");
    }
    let site = found(&[("index.html", "")]).file();
    assert!(site.contains("test: {suites: {}}"), "without it a site would not pass its tests: {site}");
    assert!(found(&[("Makefile", "all:\n")]).file().contains("No tests were recognised"));
}

#[test]
fn of_several_kinds_the_first_counts_and_the_rest_is_named() {
    let files = [("Makefile", ""), ("package.json", "{}"), ("requirements.txt", ""), ("index.html", "")];
    let why = found(&files).why();
    assert!(
        why.starts_with("recognised as npm by package.json; requirements.txt (python) and Makefile (make)"),
        "{why}"
    );
    assert!(why.contains("the first counts of: cargo, go, maven"), "{why}");
    let alone = found(&[("pyproject.toml", ""), ("tests/test_a.py", "")]);
    assert_eq!(alone.why(), "recognised as python by pyproject.toml");
}

#[test]
fn a_test_runner_is_asked_for_a_report() {
    let suite = |test: &str, more: &str| {
        let package = format!(r#"{{"scripts":{{"test":"{test}"}},"devDependencies":{{{more}}}}}"#);
        found(&[("package.json", &package)]).pipeline.test.suites["unit"].clone()
    };
    assert!(suite("node --test", "").env["NODE_OPTIONS"].contains("--test-reporter=junit"));
    assert!(suite("vitest", "").run.contains("--reporter=junit"));
    assert!(suite("mocha test", "").run.contains("--reporter xunit"));
    assert!(suite("jest", r#""jest-junit":"1""#).run.contains("jest-junit"));
    for unknown in ["jest", "tsc && mocha", "./it.sh"] {
        let suite = suite(unknown, "");
        assert!(suite.run.starts_with("npm run test\nprintf") && suite.reports == ["lota-tests.xml"], "{suite:?}");
    }
}

#[test]
fn the_file_wins_over_what_else_is_there() {
    let dir = tree(&[(FILE_NAME, "version: 1\nbuild: {artifacts: [x]}\n"), ("Cargo.toml", ""), ("index.html", "")]);
    let (pipeline, origin) = read_pipeline(dir.path()).unwrap();
    assert_eq!((pipeline.build.artifacts, origin.as_str()), (vec!["x".to_owned()], FILE_NAME));
}

#[test]
fn a_mistake_is_told_with_its_place() {
    assert!(told(&[(FILE_NAME, "version: 1\nbuild:\n  stepz: []\n")]).starts_with(".lotabots.yaml:3:"));
    assert!(told(&[(FILE_NAME, &"#".repeat(FILE_BYTES_MAX + 5))]).contains("at most"));
    let all = told(&[("README", "")]);
    assert!(all.contains("Makefile") && all.contains("add a .lotabots.yaml"), "{all}");
    let dir = tree(&[("other", "version: 1\n")]);
    std::os::unix::fs::symlink("other", dir.path().join(FILE_NAME)).unwrap();
    assert!(read_pipeline(dir.path()).unwrap_err().to_string().contains("not a link"));
    fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
    fs::write(dir.path().join(FILE_NAME), b"version: 1\n\xff").unwrap();
    assert_eq!(read_pipeline(dir.path()).unwrap_err().to_string(), ".lotabots.yaml:2:1: the file is not UTF-8");
}

#[test]
fn a_manifest_behind_a_link_is_none() {
    let dir = tree(&[("elsewhere", "all:\n")]);
    std::os::unix::fs::symlink("elsewhere", dir.path().join("Makefile")).unwrap();
    assert!(detect(dir.path()).is_none());
}
