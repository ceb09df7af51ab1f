//! The bots of the main flow in conversation, without a broker: real git, real sandbox, real files.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests look at the machine from outside, and a broken assumption ends them"
)]

use std::path::Path;

use bot_core::{Bot, Tools};
use bot_test::Conversation;
use build_bot::BuildBot;
use deploy_bot::DeployBot;
use serde_json::{Value, json};
use test_bot::TestBot;
use tests::Repository;

const PIPELINE: &str = "version: 1
build:
  steps: [{name: render, run: 'mkdir out && cp index.html out/'}]
  artifacts: [out/**]
test:
  suites: {page: {run: 'grep -q hello out/index.html && echo \"test page::greets ... ok\" && echo \"test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\"'}}
deploy:
  local: {when: {branch: main}}
";

fn tools(dir: &Path, slug: &str) -> Tools {
    let mut tools = Tools::default();
    tools.dir = dir.join(slug);
    tools.objects = dir.join("objects").to_string_lossy().into_owned();
    tools.config_dir = dir.join("config");
    tools.path = std::env::var("PATH").unwrap();
    tools.instance = format!("{slug}-1");
    tools.max_concurrent_jobs = 1;
    std::fs::create_dir_all(&tools.dir).unwrap();
    tools
}

fn fleet(dir: &Path) -> Conversation {
    std::fs::create_dir_all(dir.join("config")).unwrap();
    std::fs::write(dir.join("config/repositories.yaml"), "- {match: \"/**\", trust: own}\n").unwrap();
    let publishers = "publishers: [{name: outside, says: [repository.pushed], repositories: [\"/**\"]}]\n";
    std::fs::write(dir.join("config/publishers.yaml"), publishers).unwrap();
    let environments = tests::workspace().join("deploy/config/environments.yaml");
    std::fs::copy(environments, dir.join("config/environments.yaml")).unwrap();
    Conversation::default()
        .with(BuildBot::new(<BuildBot as Bot>::Config::default(), tools(dir, "build-bot")).unwrap())
        .with(TestBot::new(<TestBot as Bot>::Config::default(), tools(dir, "test-bot")).unwrap())
        .with(DeployBot::new(<DeployBot as Bot>::Config::default(), tools(dir, "deploy-bot")).unwrap())
}

fn push(repository: &Repository, commit: &str) -> Value {
    json!({"repository": "page", "url": repository.path, "ref": "refs/heads/main", "commit": commit})
}

#[test]
fn a_push_is_talked_through_to_its_deployment() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::create(&dir.path().join("page"), &[(".lotabots.yaml", PIPELINE)]);
    let commit = repository.commit(&[("index.html", "hello\n")]);
    let mut talk = fleet(dir.path());
    talk.say("repository.pushed", push(&repository, &commit));
    let expected = [
        "repository.pushed",
        "build.started",
        "build.completed",
        "test.started",
        "test.completed",
        "deploy.started",
        "deploy.completed",
    ];
    assert_eq!(talk.types(), expected, "{:#?}", talk.said);
    assert_eq!(talk.only("test.completed")["suites"][0]["passed"], 1);
    assert_eq!(talk.only("deploy.completed")["digest"], talk.only("build.completed")["artifact"]["digest"]);
}

#[test]
fn what_fails_its_tests_is_not_deployed() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::create(&dir.path().join("page"), &[(".lotabots.yaml", PIPELINE)]);
    let commit = repository.commit(&[("index.html", "goodbye\n")]);
    let mut talk = fleet(dir.path());
    talk.say("repository.pushed", push(&repository, &commit));
    assert_eq!(talk.types().last(), Some(&"test.failed"), "{:#?}", talk.said);
    assert!(!talk.types().iter().any(|t| t.starts_with("deploy.")));
}

#[test]
fn a_repository_nobody_listed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut talk = fleet(dir.path());
    let data = json!({"repository": "x", "url": "https://git.example.org/x.git", "ref": "refs/heads/main", "commit": "a".repeat(40)});
    talk.say("repository.pushed", data);
    assert_eq!(talk.only("build.failed")["error"]["code"], "PERMISSION_DENIED");
}
