//! `lota run` on projects of each kind: what is detected is what their tools do, offline, and each end has its code.
use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use tests::{Repository, fixtures, lota, processes_naming};

use crate::{project, said};

#[test]
fn what_is_recognised_is_built_and_tested_by_its_own_tools() {
    for (files, words) in [
        (fixtures::NPM, ["recognised as npm by package.json", "[unit] ✔ adds nothing", "suite `unit`  passed"]),
        (
            fixtures::PYTHON,
            ["recognised as python by tests/test_sums.py", "[unit] test Many at once ... ok", "suite `unit`  passed"],
        ),
        (fixtures::C, ["recognised as make by Makefile", "[make] ./sums 1 2", "suite `make`  passed"]),
        (fixtures::MONOREPO, ["the pipeline is .lotabots.yaml", "[api] cc", "artifacts: 2 files"]),
        (CARGO, ["recognised as cargo by Cargo.toml", "[unit] test adds ... ok", "suite `unit`    passed"]),
    ] {
        let dir = project(files);
        let (code, told) = said(&["run", dir.path().to_str().unwrap()]);
        assert!(code == 0 && words.iter().all(|word| told.contains(word)), "{words:?}\n{told}");
        let count = fs::read_dir(dir.path()).unwrap().count();
        let tops: std::collections::BTreeSet<_> = files.iter().map(|(name, _)| name.split('/').next()).collect();
        assert_eq!(count, tops.len(), "the project's own folder stays as it was");
    }
}

const CARGO: fixtures::Files = &[
    ("Cargo.toml", "[package]\nname = \"sums\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
    (
        "src/lib.rs",
        "pub fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n#[test]\nfn adds() {\n    assert_eq!(add(1, 2), 3);\n}\n",
    ),
];

#[test]
fn failures_end_with_1_and_say_where() {
    let dir = project(&[(
        ".lotabots.yaml",
        "version: 1\nbuild:\n  steps:\n    - {name: good, run: echo fine}\n    - {name: bad, run: exit 3}\n    - {name: after, run: echo never}\n",
    )]);
    let (code, told) = said(&["run", dir.path().to_str().unwrap()]);
    assert!(code == 1 && told.contains("step `bad` ended with exit code 3"), "{told}");
    assert!(!told.contains("[after] never") && told.contains("a step above it did not go well"), "{told}");

    let dir = project(&[
        (
            ".lotabots.yaml",
            "version: 1\nbuild: {artifacts: [dist/**]}\ntest: {suites: {a: {run: exit 4}, b: {run: echo ran}}}\n",
        ),
        ("dist/x", ""),
    ]);
    let (code, told) = said(&["run", dir.path().to_str().unwrap()]);
    assert!(code == 1 && told.contains("exit code 4") && told.contains("[b] ran"), "all suites run: {told}");
    fs::remove_dir_all(dir.path().join("dist")).unwrap();
    let (code, told) = said(&["run", "build", dir.path().to_str().unwrap()]);
    assert!(code == 1 && told.contains("`dist/**` matches no file"), "{told}");
}

#[test]
fn tests_get_the_source_and_the_artifacts_and_nothing_else() {
    let dir = project(&[(
        ".lotabots.yaml",
        "version: 1\nbuild:\n  steps: [{name: make, run: 'mkdir out; touch out/kept out/lost out/app'}]\n  artifacts: [out/app]\n  keep: [out/kept]\ntest:\n  suites:\n    there: {run: test -e out/app -a -e out/kept -a ! -e out/lost}\n    again: {run: test ! -e of-another-suite || exit 9}\n",
    )]);
    let path = dir.path().to_str().unwrap();
    let (code, told) = said(&["run", path]);
    assert_eq!(code, 0, "{told}");
    let (code, told) = said(&["run", "test", path]);
    assert!(code == 1 && told.contains("only in a fleet: the build") && !told.contains("== build"), "{told}");
    let (code, told) = said(&["run", "build", path]);
    assert!(code == 0 && !told.contains("== test"), "{told}");
}

#[test]
fn the_copy_holds_what_a_commit_would() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = "version: 1\nbuild: {steps: [{name: look, run: 'ls; cat changed; echo on $LOTA_REF'}, {name: release, run: echo never, when: {branch: release}}]}\ntest: {suites: {}}\n";
    let repository = Repository::create(
        &dir.path().join("shop"),
        &[(".lotabots.yaml", pipeline), (".gitignore", "ignored\n"), ("changed", "before\n"), ("deleted", "")],
    );
    fs::write(repository.path.join("changed"), "after\n").unwrap();
    fs::write(repository.path.join("new"), "").unwrap();
    fs::write(repository.path.join("ignored"), "").unwrap();
    fs::remove_file(repository.path.join("deleted")).unwrap();
    let (code, told) = said(&["run", repository.path.to_str().unwrap()]);
    assert_eq!(code, 0, "{told}");
    for line in ["[look] after", "[look] new", "[look] on refs/heads/main", "only for branch release"] {
        assert!(told.contains(line), "{line}: {told}");
    }
    for line in ["[look] ignored", "[look] deleted", "[release]"] {
        assert!(!told.contains(line), "{line}: {told}");
    }
}

#[test]
fn the_sandbox_is_the_fleets() {
    let dir = project(&[(
        ".lotabots.yaml",
        "version: 1\nbuild:\n  steps:\n    - {name: where, run: 'pwd; echo home $HOME'}\n    - {name: escape, run: cat $SECRET_FILE}\n    - {name: offline, run: 'exec 3< /dev/tcp/127.0.0.1/PORT'}\n",
    )]);
    let (secret, path) = (dir.path().join("secret"), dir.path().join(".lotabots.yaml"));
    fs::write(&secret, "canary").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let text = fs::read_to_string(&path).unwrap().replace("PORT", &port);
    fs::write(&path, text.replace("$SECRET_FILE", &format!("{} || true", secret.display()))).unwrap();
    let (code, told) = said(&["run", dir.path().to_str().unwrap()]);
    assert!(code == 1 && told.contains("[where] /workspace") && told.contains("[where] home /home/bot"), "{told}");
    assert!(!told.contains("canary") && told.contains("step `offline` ended with"), "{told}");
}

#[test]
fn what_only_a_fleet_has_is_named_and_never_passes() {
    let dir = project(&[(
        ".lotabots.yaml",
        "version: 1\nbuild:\n  matrix: {tool: [a, b]}\n  steps: [{name: show, run: echo tool $MATRIX_TOOL}]\ntest:\n  suites:\n    db: {run: 'true', secrets: [TOKEN], services: [{name: d, run: x, ready: {tcp: $PORT}}]}\n",
    )]);
    let (code, told) = said(&["run", dir.path().to_str().unwrap()]);
    assert!(code == 1 && told.contains("[show] tool a") && told.contains("only the first combination"), "{told}");
    assert!(told.contains("not run") && told.contains("secrets, services: only a fleet has them"), "{told}");
}

#[test]
fn a_wrong_file_and_wrong_words_have_codes_of_their_own() {
    let dir = project(fixtures::BROKEN);
    let (code, told) = said(&["run", dir.path().to_str().unwrap()]);
    assert!(code == 65 && told.contains(".lotabots.yaml:3:3") && told.contains("did you mean `steps`?"), "{told}");
    let nothing = project(&[("README", "")]);
    let (code, told) = said(&["run", nothing.path().to_str().unwrap()]);
    assert!(code == 65 && told.contains("nothing else was recognised"), "{told}");
    assert_eq!(said(&["run", "biuld", "."]).0, 64);
    assert_eq!(said(&["run", "--no-such"]).0, 64);
}

#[test]
fn too_many_lines_end_a_step() {
    let dir = project(fixtures::HUGE_LOG);
    let (code, told) = said(&["run", dir.path().to_str().unwrap()]);
    assert!(code == 1 && told.contains("step `talk` was ended: more than"), "{}", &told[told.len() - 500..]);
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let dir = project(&[(
        ".lotabots.yaml",
        "version: 1\nbuild: {steps: [{name: wait, run: 'mkdir -p closed/deep; chmod 500 closed; echo begun; sleep 600'}]}\n",
    )]);
    let scratch = tempfile::tempdir().unwrap();
    let mut run = lota(&["run", dir.path().to_str().unwrap()]);
    let mut run = run.env("TMPDIR", scratch.path()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "[wait] begun"));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(run.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(143));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "the copy is gone");
    assert_eq!(processes_naming(scratch.path().to_str().unwrap()), Vec::<i32>::new());
}
