//! `lota run` with steps in container images: with an engine, and without.
use bot_test::programs_without;
use tests::{lota, text};

use crate::{project, said};

const INSIDE: &str = "version: 1\nbuild:\n  steps:\n    - {name: inside, run: test ! -e /usr && pwd && echo made > made, image: 'lota-test/tiny:1'}\n    - {name: after, run: cat made}\n";

#[test]
fn a_step_with_an_image_does_not_run_without_an_engine() {
    let dir = project(&[(".lotabots.yaml", INSIDE)]);
    let programs = programs_without(&["docker", "podman"]);
    let output = lota(&["run", dir.path().to_str().unwrap()]).env("PATH", programs.path()).output().unwrap();
    let told = text(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for words in ["step `inside`  not run", "no container engine answers (docker: not in PATH; podman: not in PATH)"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains("[after]"), "{told}");
}

#[test]
#[ignore = "needs docker or podman: make test-containers"]
fn a_step_runs_in_its_image_in_a_container() {
    let dir = project(&[(".lotabots.yaml", INSIDE)]);
    let (code, told) = said(&["run", dir.path().to_str().unwrap()]);
    let words = ["lota-test/tiny:1 is ", "[inside] /workspace", "[after] made", "step `inside`  passed"];
    assert!(code == 0 && words.iter().all(|word| told.contains(word)), "{told}");
}
