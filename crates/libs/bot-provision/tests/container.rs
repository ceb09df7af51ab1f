//! A broker in a container, on whichever engine answers. Left out of `cargo test`, since not every machine has one;
//! `make test-containers` runs it, and fails where there is none.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods, reason = "a test")]

use std::path::Path;
use std::process::Command;

use bot_provision::{Container, ContainerError, ContainerOptions, Management};
use bot_sandbox::{Engine, EngineChoice};
use serde_json::{Value, json};

fn tell(line: &str) {
    eprintln!("  {line}");
}

fn image() -> ContainerOptions {
    ContainerOptions::new(std::env::var("LOTA_BROKER_IMAGE").unwrap_or_else(|_| "rabbitmq:4-management".to_owned()))
}

async fn find() -> Engine {
    let path: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
    Engine::find(EngineChoice::Auto, &path).await.unwrap()
}

fn engine(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Removes what a failed test leaves.
struct Cleanup(String, String);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = Command::new(&self.0).args(["rm", "--force", &self.1]).output();
    }
}

async fn holds_its_message(api: &Management) {
    let got = api.peek("lota", "kept.work", 5).await.unwrap();
    assert_eq!(got.iter().map(|message| message.payload.as_str()).collect::<Vec<_>>(), ["hello"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs docker or podman: make test-containers"]
async fn a_container_keeps_its_messages_and_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("container");
    let found = find().await;
    let program = found.program().to_owned();
    let mut container = Container::start(&dir, found.clone(), image(), &tell).await.unwrap();
    let name = container.name();
    let _cleanup = Cleanup(program.clone(), name.clone());
    let (api, ports) = (container.management().unwrap(), (container.amqp_port(), container.management_port()));

    is_only_ours(&program, &name, &dir, &container);
    let users: Vec<String> = api.users().await.unwrap().into_iter().map(|user| user.name).collect();
    assert_eq!(users, [container.admin()], "no guest");
    api.put_queue("lota", "kept.work", "quorum").await.unwrap();
    assert!(api.publish("lota", "", "kept.work", json!({"delivery_mode": 2}), "hello").await.unwrap());
    // Starting what runs is attaching.
    let id = engine(&program, &["inspect", "--format", "{{.Id}}", &name]);
    Container::start(&dir, found.clone(), image(), &tell).await.unwrap();
    assert_eq!(engine(&program, &["inspect", "--format", "{{.Id}}", &name]), id);
    assert!(!Container::revive(&dir, &tell).await.unwrap(), "it lives");

    // A quorum queue that was just declared is known for sure only after an orderly stop.
    container.stop().await.unwrap();
    assert!(Container::attach(&dir).await.unwrap().is_none());
    assert!(!Container::revive(&dir, &tell).await.unwrap(), "it was stopped");
    assert_eq!(engine(&program, &["ps", "--all", "--quiet", "--filter", &format!("name={name}")]), "");
    let again = Container::start(&dir, found, image(), &tell).await.unwrap();
    assert_eq!((again.amqp_port(), again.management_port()), ports);
    holds_its_message(&again.management().unwrap()).await;

    engine(&program, &["kill", &name]);
    while Container::attach(&dir).await.unwrap().is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(Container::revive(&dir, &tell).await.unwrap(), "it died");
    let mut revived = Container::attach(&dir).await.unwrap().unwrap();
    assert_eq!((revived.amqp_port(), revived.management_port()), ports);
    holds_its_message(&revived.management().unwrap()).await;
    revived.stop().await.unwrap();
}

/// Published on this machine alone, limited, and without a secret where others may look.
fn is_only_ours(program: &str, name: &str, dir: &Path, container: &Container) {
    let text = engine(program, &["inspect", name]);
    let cookie = std::fs::read_to_string(dir.join("data/.erlang.cookie")).unwrap();
    for secret in [container.admin_password().expose(), cookie.as_str()] {
        assert!(!text.contains(secret), "a secret is in `{program} inspect`");
    }
    let told: Value = serde_json::from_str(&text).unwrap();
    let ports = told[0]["NetworkSettings"]["Ports"].as_object().unwrap();
    let mut published = Vec::new();
    for address in ports.values().filter_map(Value::as_array).flatten() {
        assert_eq!(address["HostIp"], "127.0.0.1", "{ports:?}");
        published.push(address["HostPort"].as_str().unwrap().parse::<u16>().unwrap());
    }
    published.sort_unstable();
    let mut expected = [container.amqp_port(), container.management_port()];
    expected.sort_unstable();
    assert_eq!(published, expected);
    assert_eq!(told[0]["HostConfig"]["Memory"], 1024 << 20);
    assert_eq!(told[0]["HostConfig"]["AutoRemove"], true);
    for entry in ["data", "log", "config"] {
        use std::os::unix::fs::MetadataExt as _;
        let owner = dir.join(entry).metadata().unwrap().uid();
        assert_eq!(owner, nix::unistd::geteuid().as_raw(), "{entry} is ours to delete");
    }
}

#[tokio::test]
#[ignore = "needs docker or podman: make test-containers"]
async fn an_image_that_is_nowhere_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = ContainerOptions::new("127.0.0.1:9/lota-no-such-image:1");
    let error = Container::start(&folder.path().join("c"), find().await, options, &tell).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ContainerError::Image(_)), "{error}");
    assert!(error.to_string().contains("lota-no-such-image:1") && error.to_string().contains("pull"), "{error}");
}
