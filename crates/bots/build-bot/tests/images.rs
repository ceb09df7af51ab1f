//! Steps in container images: who may have them, and what is said where there is no engine. Those that are run need an
//! engine and the image of tests/tiny-image.sh: `make test-containers`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod fixture;

use bot_messages::{
    Code,
    build::{BuildCompleted, BuildFailed},
    pipeline::Trigger,
};
use build_bot::{BuildJob, Config, EngineSetting};
use fixture::{Fleet, Repository};

const IMAGE: &str = "lota-test/tiny:1";

fn repository(steps: &str) -> Repository {
    let repository = Repository::new();
    let text =
        format!("version: 1\nbuild:\n  steps:\n    - {{name: first, run: echo here}}\n{steps}  artifacts: [made]\n");
    repository.write(".lotabots.yaml", &text);
    repository.write("made", "");
    repository
}

fn allowing(pattern: &str) -> Config {
    Config { images: vec![pattern.to_owned()], ..Config::default() }
}

async fn refused(fleet: &Fleet, repository: &Repository, code: Code, words: &[&str]) {
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    assert_eq!(run.rejected(), code);
    let failed: BuildFailed = run.gave_up(fleet);
    assert_eq!(failed.step.as_deref(), Some("inside"));
    assert!(words.iter().all(|word| failed.error.message.contains(word)), "{}", failed.error.message);
    let log = fleet.text(&failed.log.unwrap()).await;
    assert!(!log.contains("[first] here"), "before any step: {log}");
    assert!(words.iter().all(|word| log.contains(word)), "{log}");
}

#[tokio::test]
async fn images_that_nobody_allowed_are_refused_before_the_first_step() {
    let repository = repository("    - {name: inside, run: echo in, image: 'debian:12'}\n");
    let none = "step `inside`: image debian:12 is refused: settings.images of build-bot.yaml allows none";
    refused(&Fleet::new(), &repository, Code::PermissionDenied, &[none]).await;
    let other = Fleet::with(allowing("alpine:*"));
    refused(&other, &repository, Code::PermissionDenied, &["allows alpine:*"]).await;
    let fork = Fleet::listing("- {match: '**', trust: fork}\n", &[], allowing("debian:*"));
    refused(&fork, &repository, Code::PermissionDenied, &["a fork's steps run in no image"]).await;
    let off = Fleet::with(Config { engine: EngineSetting::None, ..allowing("debian:*") });
    refused(&off, &repository, Code::PermissionDenied, &["settings.engine of build-bot.yaml is none"]).await;
}

#[tokio::test]
async fn without_an_engine_it_is_told_what_was_looked_for() {
    let repository = repository("    - {name: inside, run: echo in, image: 'debian:12'}\n");
    let fleet = Fleet::without_programs(&["docker", "podman"], allowing("debian:*"));
    let words = [
        "step `inside`: image debian:12",
        "no container engine answers (docker: not in PATH; podman: not in PATH)",
        "install docker or podman",
    ];
    refused(&fleet, &repository, Code::Unavailable, &words).await;
}

#[tokio::test]
async fn a_name_that_is_no_image_is_told_with_its_place() {
    let repository = repository("    - {name: inside, run: echo in, image: '--privileged'}\n");
    let run = Fleet::with(allowing("*")).run(&repository.revision(&repository.commit())).await;
    assert_eq!(run.rejected(), Code::InvalidPipeline);
    assert!(run.message().contains("`--privileged` is no image"), "{}", run.message());
}

#[tokio::test]
#[ignore = "needs docker or podman: make test-containers"]
async fn a_step_runs_in_its_image_and_the_others_do_not() {
    let line = "test ! -e /usr; pwd; ls /workspace; echo from inside > made; echo TOKEN is $TOKEN";
    let repository = repository(&format!(
        "    - {{name: inside, run: '{line}', image: '{IMAGE}', secrets: [TOKEN]}}\n    - {{name: after, run: 'test -e /usr; cat made'}}\n"
    ));
    let list = "- {match: '**', trust: own, secrets: [TOKEN]}\n";
    let fleet = Fleet::listing(list, &[("TOKEN", "canary-77aa")], allowing("lota-test/*"));
    let done: BuildCompleted =
        fleet.run(&repository.revision(&repository.commit())).await.only_event("build.completed");
    let log = fleet.text(&done.log).await;
    for line in ["[image] lota-test/tiny:1 is ", "[inside] /workspace", "[inside] TOKEN is ***", "[after] from inside"]
    {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(!log.contains("canary-77aa"));
    assert_eq!(fleet.unpack(&done.artifact).await["made"], "from inside\n");
}

#[tokio::test]
#[ignore = "needs docker or podman: make test-containers"]
async fn an_image_that_changed_is_built_with_again() {
    let engine = if std::process::Command::new("docker").arg("info").output().is_ok() { "docker" } else { "podman" };
    let sh = |line: &str| {
        let done = std::process::Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let name = format!("lota-test/changing:{}", std::process::id());
    sh(&format!("{engine} tag {IMAGE} {name}"));
    let repository = repository(&format!("    - {{name: inside, run: echo 1 > made, image: '{name}'}}\n"));
    let fleet = Fleet::with(allowing("lota-test/*"));
    let revision = repository.revision(&repository.commit());
    let built = async || {
        let job =
            BuildJob { revision: revision.clone(), bundle: None, base: None, trigger: Trigger::Push, anew: false };
        fleet.run_as(job).await.only_event::<BuildCompleted>("build.completed").cached
    };
    assert!(!built().await);
    assert!(built().await, "the same source, the same image");
    sh(&format!("id=$({engine} create {IMAGE} true) && {engine} commit -m other $id {name} && {engine} rm $id"));
    assert!(!built().await, "another image under the name");
    sh(&format!("{engine} rmi {name}"));
}

#[tokio::test]
#[ignore = "needs docker or podman: make test-containers"]
async fn an_image_that_cannot_be_had_fails_the_build_and_says_so() {
    let repository = repository("    - {name: inside, run: echo in, image: '127.0.0.1:9/lota-no-such:1'}\n");
    let words = ["step `inside`: image 127.0.0.1:9/lota-no-such:1", "pull"];
    refused(&Fleet::with(allowing("127.0.0.1:9/*")), &repository, Code::FetchFailed, &words).await;
}
