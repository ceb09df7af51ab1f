//! How a source tree is built and tested: from its pipeline file, or by what lies in it. It is here because BuildBot
//! and TestBot must come to the same answer, a bot never depends on another, and bot-messages reads no files.
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use bot_messages::pipeline::{BuildStage, FILE_BYTES_MAX, FILE_NAME, Pipeline, PipelineError, Step, Suite, TestStage};

/// What is looked for where there is no pipeline file, for people.
const LOOKED_FOR: &str = "Cargo.toml, Makefile, index.html, public/index.html";
/// A lock file or makefile larger than this is not looked into.
const LOOK_BYTES_MAX: u64 = 8 << 20;

/// A source tree does not say how it is built.
#[derive(Debug, thiserror::Error)]
pub enum PipelineProblem {
    /// The file is there and wrong.
    #[error(transparent)]
    Invalid(#[from] PipelineError),
    /// Nothing says what to do.
    #[error(
        "there is no {FILE_NAME} at the top of the repository, and nothing else was recognised (looked for {LOOKED_FOR}); add a {FILE_NAME}"
    )]
    NothingFound,
    /// The file is there and cannot be read.
    #[error("{FILE_NAME} cannot be read: {0}")]
    Unreadable(#[source] io::Error),
}

/// The pipeline of a source tree, and where it comes from: [`FILE_NAME`], or `cargo`, `make`, `static`.
pub fn read_pipeline(root: &Path) -> Result<(Pipeline, String), PipelineProblem> {
    let path = root.join(FILE_NAME);
    match path.symlink_metadata() {
        Ok(meta) if meta.is_file() => {
            // One byte more than allowed, so that the parser says that it is too large.
            let bytes = read_at_most(&path, FILE_BYTES_MAX as u64 + 1).map_err(PipelineProblem::Unreadable)?;
            let text = String::from_utf8(bytes).map_err(|e| {
                let sound = &e.as_bytes()[..e.utf8_error().valid_up_to()];
                let line = sound.split(|b| *b == b'\n').count();
                PipelineError { at: Some((line as u64, 1)), message: "the file is not UTF-8".to_owned() }
            })?;
            Ok((Pipeline::parse(&text)?, FILE_NAME.to_owned()))
        }
        Ok(_) => Err(PipelineProblem::Unreadable(io::Error::other("expected a regular file, not a link or folder"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            detect(root).map(|(pipeline, origin)| (pipeline, origin.to_owned())).ok_or(PipelineProblem::NothingFound)
        }
        Err(e) => Err(PipelineProblem::Unreadable(e)),
    }
}

/// What a tree without a pipeline file is: the first that fits of cargo, make, a static site.
pub fn detect(root: &Path) -> Option<(Pipeline, &'static str)> {
    if is_file(root, "Cargo.toml") {
        return Some((cargo(root), "cargo"));
    }
    let makefile = ["GNUmakefile", "makefile", "Makefile"].into_iter().find(|name| is_file(root, name));
    if let Some(makefile) = makefile {
        return Some((make(&look(root, makefile)), "make"));
    }
    let is_site = is_file(root, "index.html") || is_file(root, "public/index.html");
    is_site.then(|| (pipeline(Vec::new(), &["**"], None), "static"))
}

/// The network is for fetching alone, and only where there is something to fetch.
fn cargo(root: &Path) -> Pipeline {
    let has_lock = is_file(root, "Cargo.lock");
    let fetches = if has_lock {
        look(root, "Cargo.lock").lines().any(|line| line.trim_start().starts_with("source = "))
    } else {
        let manifest = look(root, "Cargo.toml");
        manifest.contains("dependencies") || manifest.contains("[workspace")
    };
    let locked = if has_lock { " --locked" } else { "" };
    let mut steps = Vec::new();
    if fetches {
        steps.push(step("fetch", &format!("cargo fetch{locked}"), true));
    }
    steps.push(step("compile", &format!("cargo build --release --workspace --offline{locked}"), false));
    // Which programs and libraries a workspace makes is known once they are made.
    steps.push(step(
        "collect",
        "mkdir -p target/artifacts\nfind target/release -maxdepth 1 -type f '(' -perm -u+x -o -name '*.rlib' ')' -exec cp '{}' target/artifacts/ ';'",
        false,
    ));
    let test = if fetches {
        suite(&format!("cargo fetch{locked}\ncargo test --workspace --offline{locked}"), true)
    } else {
        suite(&format!("cargo test --workspace --offline{locked}"), false)
    };
    pipeline(steps, &["target/artifacts/*"], Some(("unit", test)))
}

/// What a makefile makes is its own secret, so the artifact is the whole tree.
fn make(makefile: &str) -> Pipeline {
    let is_rule_for_test = |line: &str| {
        let Some((targets, rest)) = line.split_once(':') else {
            return false;
        };
        !line.starts_with(['\t', '#']) && !rest.starts_with('=') && targets.split_whitespace().any(|t| t == "test")
    };
    let test = makefile.lines().any(is_rule_for_test).then(|| ("make", suite("make test", false)));
    pipeline(vec![step("make", "make", false)], &["**"], test)
}

fn pipeline(steps: Vec<Step>, artifacts: &[&str], test: Option<(&str, Suite)>) -> Pipeline {
    let artifacts = artifacts.iter().map(ToString::to_string).collect();
    let suites = test.into_iter().map(|(name, suite)| (name.to_owned(), suite)).collect();
    Pipeline {
        version: 1,
        build: BuildStage { steps, artifacts, ..BuildStage::default() },
        test: TestStage { suites },
        deploy: BTreeMap::new(),
    }
}

fn step(name: &str, run: &str, network: bool) -> Step {
    Step { name: name.to_owned(), run: run.to_owned(), network, ..Step::default() }
}

fn suite(run: &str, network: bool) -> Suite {
    Suite { run: run.to_owned(), network, ..Suite::default() }
}

fn is_file(root: &Path, name: &str) -> bool {
    fs::symlink_metadata(root.join(name)).is_ok_and(|meta| meta.is_file())
}

/// Its text, or none where it cannot be read: then it is as good as empty.
fn look(root: &Path, name: &str) -> String {
    let bytes = read_at_most(&root.join(name), LOOK_BYTES_MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_at_most(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
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

    fn told(files: &[(&str, &str)]) -> String {
        read_pipeline(tree(files).path()).unwrap_err().to_string()
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
    fn cargo_uses_the_network_only_to_fetch() {
        let names = |files: &[(&str, &str)]| {
            let (pipeline, origin) = detect(tree(files).path()).unwrap();
            assert_eq!(origin, "cargo");
            let network: Vec<String> =
                pipeline.build.steps.iter().filter(|s| s.network).map(|s| s.name.clone()).collect();
            let all: Vec<String> = pipeline.build.steps.into_iter().map(|s| s.name).collect();
            (all.join(" "), network.join(" "), pipeline.test.suites["unit"].network)
        };
        let none = [("Cargo.toml", "[package]"), ("Cargo.lock", "[[package]]\nname = \"a\"\n")];
        assert_eq!(names(&none), ("compile collect".into(), String::new(), false));
        let some = [("Cargo.toml", ""), ("Cargo.lock", "[[package]]\nsource = \"registry+x\"\n"), ("Makefile", "")];
        assert_eq!(names(&some), ("fetch compile collect".into(), "fetch".into(), true));
        assert_eq!(names(&[("Cargo.toml", "[dependencies]\nx = 1\n")]).1, "fetch");
        assert_eq!(names(&[("Cargo.toml", "[package]\n")]).1, "");
    }

    #[test]
    fn make_is_tested_where_it_has_such_a_target() {
        let suites = |text: &str| {
            let (pipeline, origin) = detect(tree(&[("Makefile", text)]).path()).unwrap();
            assert_eq!((origin, pipeline.build.artifacts), ("make", vec!["**".to_owned()]));
            pipeline.test.suites.len()
        };
        assert_eq!(suites("all:\n\techo\ntest: all\n\t./it\n"), 1);
        assert_eq!(suites("check test:\n\t./it\n"), 1);
        assert_eq!(suites("test := x\nall:\n\techo test:\ntests:\n# test: no\n"), 0);
    }

    #[test]
    fn a_site_has_no_steps() {
        for name in ["index.html", "public/index.html"] {
            let (pipeline, origin) = detect(tree(&[(name, "")]).path()).unwrap();
            assert_eq!((origin, pipeline.build.steps.len()), ("static", 0));
        }
        assert!(detect(tree(&[("src/index.html", "")]).path()).is_none());
    }
}
