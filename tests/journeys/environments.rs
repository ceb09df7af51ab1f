//! Environments with gates: approvals, freezes, promotion, pushes that overtake each other, and what was never tested; told
//! by `lota` to a whole fleet on a real broker.
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tests::{Fleet, Repository, succeeds, text, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

const ENVIRONMENTS: &str = "
staging: {repositories: ['*'], refs: ['refs/heads/*'], serve: none, target: {type: directory, path: environments/staging}}
live:
  repositories: ['*']
  refs: [refs/heads/main]
  requires: [build.completed, test.completed]
  promote_from: staging
  approval: {required: true, expires: 1h}
  serve: none
  target: {type: directory, path: environments/live}
brief:
  repositories: ['*']
  refs: [refs/heads/main]
  approval: {required: true, expires: 2s}
  serve: none
  target: {type: directory, path: environments/brief}
";

fn pipeline(environments: &[&str]) -> String {
    let deploy: Vec<String> = environments.iter().map(|name| format!("{name}: {{}}")).collect();
    let deploy = deploy.join(", ");
    format!("version: 1\nbuild:\n  artifacts: [index.html]\ntest:\n  suites: {{}}\ndeploy: {{{deploy}}}\n")
}

/// A fleet with these environments; DeployBot reads them when it starts.
fn fleet(environments: &str) -> Fleet {
    let fleet = Fleet::start();
    fs::write(fleet.home().join("config/environments.yaml"), environments).unwrap();
    fleet.kill("deploy-bot");
    fleet
}

fn history(fleet: &Fleet, environment: &str) -> Vec<Value> {
    let told = succeeds(&mut fleet.lota(&["history", environment, "--json"]));
    serde_json::from_str::<Value>(&told).unwrap()["attempts"].as_array().unwrap().clone()
}

/// The attempt with this number, once it is in this state.
fn attempt(fleet: &Fleet, environment: &str, number: u64, state: &str) -> Value {
    wait_for(&format!("attempt {number} of {environment} to be {state}"), LIMIT, || {
        let attempts = history(fleet, environment);
        attempts.into_iter().find(|attempt| attempt["number"] == number && attempt["state"] == state)
    })
}

fn page(fleet: &Fleet, environment: &str) -> Option<String> {
    fs::read_to_string(fleet.home().join(format!("bots/deploy-bot/environments/{environment}/current/index.html"))).ok()
}

fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    text(&output)
}

#[test]
fn a_release_is_promoted_approved_once_and_taken_back() {
    let fleet = fleet(ENVIRONMENTS);
    let names = pipeline(&["staging", "live"]);
    let repository = Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", &names), ("index.html", "one\n")]);
    let followed = succeeds(&mut fleet.lota(&["push", repository.path.to_str().unwrap(), "--follow"]));
    assert!(followed.contains("waits for a yes"), "{followed}");
    assert_eq!(page(&fleet, "staging").as_deref(), Some("one\n"));
    assert_eq!(page(&fleet, "live"), None, "nobody has said yes");

    let first = attempt(&fleet, "live", 1, "waiting");
    let approval = first["approval"]["approval_id"].as_str().unwrap().to_owned();
    let elsewhere = approval.replace("live:1", "live:2");
    assert!(text(&fleet.lota(&["approve", &elsewhere]).output().unwrap()).contains("no approval live:2"));
    let approved = succeeds(&mut fleet.lota(&["approve", &approval, "--by", "grace"]));
    assert!(approved.contains("granted by grace (operator)"), "{approved}");
    attempt(&fleet, "live", 1, "succeeded");
    assert_eq!(page(&fleet, "live").as_deref(), Some("one\n"));
    let again = refused(&mut fleet.lota(&["approve", &approval]));
    assert!(again.contains("was answered already: granted by grace (operator)"), "{again}");

    repository.commit(&[("index.html", "two\n")]);
    let correlation = fleet.push(&repository.path);
    wait_for("the second approval", LIMIT, || (fleet.said(&correlation, "approval.requested") == 1).then_some(()));
    let second = attempt(&fleet, "live", 2, "waiting");
    let approval = second["approval"]["approval_id"].as_str().unwrap();
    succeeds(&mut fleet.lota(&["deny", approval, "--reason", "not today"]));
    wait_for("its end", LIMIT, || (fleet.said(&correlation, "deploy.failed") == 1).then_some(()));
    assert!(attempt(&fleet, "live", 2, "denied")["why"].as_str().unwrap().ends_with("not today"));
    assert_eq!(page(&fleet, "live").as_deref(), Some("one\n"));

    let back = succeeds(&mut fleet.lota(&["rollback", "staging", "--reason", "wrong prices"]));
    assert!(back.contains("deploy.rolled_back"), "{back}");
    assert_eq!(page(&fleet, "staging").as_deref(), Some("one\n"));
    let told = succeeds(&mut fleet.lota(&["history", "staging", "-v"]));
    for part in ["back to", "succeeded", "begun", "unpacked", "switching from", "wrong prices"] {
        assert!(told.contains(part), "`{part}` is not in:\n{told}");
    }
}

#[test]
fn nobody_answers_and_what_was_never_tested_is_refused() {
    let fleet = fleet(ENVIRONMENTS);
    let names = pipeline(&["brief"]);
    let repository = Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", &names), ("index.html", "one\n")]);
    let correlation = fleet.push(&repository.path);
    let expired = attempt(&fleet, "brief", 1, "expired");
    wait_for("its end", LIMIT, || (fleet.said(&correlation, "deploy.failed") == 1).then_some(()));
    let approval = expired["approval"]["approval_id"].as_str().unwrap();
    let late = refused(&mut fleet.lota(&["approve", approval]));
    assert!(late.contains("has expired at"), "{late}");
    assert_eq!(page(&fleet, "brief"), None);

    let untested = refused(&mut fleet.lota(&["deploy", "staging", &"5e".repeat(32)]));
    assert!(untested.contains("was never seen to pass its tests"), "{untested}");
    let digest = expired["digest"].as_str().unwrap();
    let unnamed = refused(&mut fleet.lota(&["deploy", "staging", digest]));
    assert!(unnamed.contains("does not say how") && unnamed.contains("it names brief"), "{unnamed}");
    let unknown = refused(&mut fleet.lota(&["freeze", "lice", "--reason", "x"]));
    assert!(unknown.contains("there is no such environment in environments.yaml, which has: brief, live, staging"));
    let letters = succeeds(&mut fleet.lota(&["dlq", "list"]));
    assert!(!letters.contains("deploy-bot.dead"), "an answer is no dead letter: {letters}");
}

#[test]
fn a_freeze_holds_pushes_back_and_only_the_newest_goes_on() {
    let fleet = fleet(ENVIRONMENTS);
    let names = pipeline(&["staging"]);
    let repository = Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", &names), ("index.html", "one\n")]);
    succeeds(&mut fleet.lota(&["push", repository.path.to_str().unwrap(), "--follow"]));
    let frozen = succeeds(&mut fleet.lota(&["freeze", "staging", "--reason", "closing the year", "--until", "2h"]));
    assert!(frozen.contains("staging is frozen by"), "{frozen}");
    repository.commit(&[("index.html", "two\n")]);
    let second = fleet.push(&repository.path);
    wait_for("the second to be held", LIMIT, || (fleet.said(&second, "deploy.held") == 1).then_some(()));
    // What waits is not forgotten with the process.
    fleet.kill("deploy-bot");
    repository.commit(&[("index.html", "three\n")]);
    let third = fleet.push(&repository.path);
    wait_for("the second to be superseded", LIMIT, || (fleet.said(&second, "deploy.failed") == 1).then_some(()));
    wait_for("the third to be held", LIMIT, || (fleet.said(&third, "deploy.held") == 1).then_some(()));
    assert_eq!(page(&fleet, "staging").as_deref(), Some("one\n"));
    attempt(&fleet, "staging", 2, "superseded");

    succeeds(&mut fleet.lota(&["unfreeze", "staging"]));
    wait_for("the third", LIMIT, || (fleet.said(&third, "deploy.completed") == 1).then_some(()));
    assert_eq!(page(&fleet, "staging").as_deref(), Some("three\n"));
    assert_eq!(fleet.said(&second, "deploy.started"), 0);
    let refused = refused(&mut fleet.lota(&["unfreeze", "staging"]));
    assert!(refused.contains("staging is not frozen"), "{refused}");
}

/// Answers every line with `ok`, and keeps them.
fn world() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, heard) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
    let kept = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let _ = BufReader::new(&mut stream).read_line(&mut line);
            kept.lock().unwrap().push(line.trim().to_owned());
            let _ = stream.write_all(b"ok\n");
        }
    });
    (port, heard)
}

#[test]
fn a_command_gets_its_secret_and_nobody_else_does() {
    let (port, heard) = world();
    let say = "say() { exec 3<>/dev/tcp/127.0.0.1/$WORLD; echo \"$1\" >&3; read -r answer <&3; }";
    let fleet = Fleet::start();
    let secrets = fleet.home().join("config/deploy-secrets");
    fs::create_dir_all(&secrets).unwrap();
    fs::write(secrets.join("API_TOKEN"), "canary-7f3a\n").unwrap();
    fs::set_permissions(secrets.join("API_TOKEN"), fs::Permissions::from_mode(0o600)).unwrap();
    let environments = format!(
        "live:
  repositories: ['*']
  refs: [refs/heads/main]
  target:
    type: command
    env: {{WORLD: '{port}'}}
    secrets: [API_TOKEN]
    deploy: |
      {say}
      echo \"with $API_TOKEN\"; say \"deploy $(cat $LOTA_RELEASE/index.html) with $API_TOKEN\"
    verify: '{say}; say \"verify $LOTA_DIGEST\"'
"
    );
    fs::write(fleet.home().join("config/environments.yaml"), environments).unwrap();
    fleet.kill("deploy-bot");
    let repository =
        Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", &pipeline(&["live"])), ("index.html", "one\n")]);
    let followed = succeeds(&mut fleet.lota(&["push", repository.path.to_str().unwrap(), "--follow", "--verbose"]));
    let digest = attempt(&fleet, "live", 1, "succeeded")["digest"].as_str().unwrap().to_owned();
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard, ["deploy one with canary-7f3a".to_owned(), format!("verify {digest}")]);
    assert!(followed.contains("with ***"), "{followed}");
    for log in fs::read_dir(fleet.home().join("logs")).unwrap().flatten() {
        let text = fs::read_to_string(log.path()).unwrap();
        assert!(!text.contains("canary-7f3a"), "{} tells a secret", log.path().display());
    }
    let stored = fleet.home().join("bots/deploy-bot");
    let grep = Command::new("grep").args(["-r", "-l", "canary-7f3a", stored.to_str().unwrap()]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "", "nothing of it is kept");
}

#[test]
fn a_deployment_that_was_killed_asks_before_it_repeats_and_its_history_says_so() {
    let (port, heard) = world();
    let say = "say() { exec 3<>/dev/tcp/127.0.0.1/$WORLD; echo \"$1\" >&3; read -r answer <&3; }";
    let environments = format!(
        "live:
  repositories: ['*']
  refs: [refs/heads/main]
  target:
    type: command
    env: {{WORLD: '{port}'}}
    deploy: '{say}; say deploy; sleep 600'
    verify: '{say}; say verify'
"
    );
    let fleet = fleet(&environments);
    let repository =
        Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", &pipeline(&["live"])), ("index.html", "one\n")]);
    let correlation = fleet.push(&repository.path);
    wait_for("the command to be at work", LIMIT, || (!heard.lock().unwrap().is_empty()).then_some(()));
    fleet.kill("deploy-bot");
    attempt(&fleet, "live", 1, "succeeded");
    assert_eq!(*heard.lock().unwrap(), ["deploy", "verify"], "once, and then asked");
    for (event_type, times) in [("deploy.started", 1), ("deploy.completed", 1), ("deploy.failed", 0)] {
        assert_eq!(fleet.said(&correlation, event_type), times, "{event_type}");
    }
    let told = succeeds(&mut fleet.lota(&["history", "live", "-v"]));
    let expected =
        ["begun\n", "switching from nothing to", "begun again, attempt 2", "an earlier attempt had put it there"];
    let mut rest = told.as_str();
    for part in expected {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("`{part}` is not next in:\n{told}")).1;
    }
}
