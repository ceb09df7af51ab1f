//! Commands in containers, on whichever engine answers. Left out of `cargo test`, since not every machine has one;
//! `make test-containers` runs it, with an image that it imports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::{fs, os::unix::fs::MetadataExt, process::Command as Program, time::Duration};

use bot_sandbox::{Command, Ending, Engine, EngineChoice, Image, Sandbox, SandboxKind};
use support::{Fixture, handed_over, path, running, sandbox, wait_until};
use tokio::sync::mpsc;

const IMAGE: &str = "lota-test/tiny:1";

struct Stage {
    base: Fixture,
    image: Image,
    owner: String,
}

async fn image() -> Image {
    let engine = Engine::find(EngineChoice::Auto, &path()).await.unwrap();
    let id = engine.have(IMAGE, &|_| ()).await.expect("tests/tiny-image.sh imports it");
    Image { engine, id }
}

impl Stage {
    async fn new() -> Self {
        let base = Fixture::new(SandboxKind::ProcessGroup).await;
        let owner = format!("test-{}", base.token.replace('.', "-"));
        Self { base, image: image().await, owner }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.base.command(line);
        command.image = Some(self.image.clone());
        command
    }

    async fn run(&self, line: &str) -> bot_sandbox::Outcome {
        self.base.sandbox.run(self.command(line)).await.unwrap()
    }

    fn containers(&self) -> usize {
        containers(&self.image.engine, &self.owner)
    }

    async fn assert_nothing_left(&self) {
        assert_eq!(self.containers(), 0);
        self.base.assert_nothing_left().await;
    }
}

fn containers(engine: &Engine, owner: &str) -> usize {
    let filter = format!("label=lotabots.owner={owner}");
    let listed = Program::new(engine.program()).args(["ps", "--all", "--quiet", "--filter", &filter]).output().unwrap();
    assert!(listed.status.success());
    String::from_utf8_lossy(&listed.stdout).lines().count()
}

#[tokio::test]
#[ignore = "needs docker or podman: make test-containers"]
async fn a_command_sees_the_image_its_folders_and_its_variables() {
    let stage = Stage::new().await;
    let line = "cat /proc/1/comm; pwd; echo $HOME; echo \"$SECRET\"; echo made > made; echo kept > ~/kept; id -u; \
                touch /outside && echo writable; ls /var/run/docker.sock; ls /sys/class/net; grep CapEff /proc/self/status";
    let mut command = stage.command(line);
    command.env.insert("SECRET".into(), "canary it's\ntwo lines".into());
    let (sender, mut lines) = mpsc::channel(100);
    command.output = Some(sender);
    command.redactor = bot_secrets::Redactor::new(["canary"]);
    let outcome = stage.base.sandbox.run(command).await.unwrap();
    assert_eq!(outcome.ending, Ending::Exited(0), "{outcome:?}");
    let mut said = Vec::new();
    while let Some(line) = lines.recv().await {
        said.push(line.text);
    }
    let has = |text: &str| said.iter().any(|line| line == text);
    for line in ["/workspace", "/home/bot", "*** it's", "two lines", "lo", "CapEff:\t0000000000000000"] {
        assert!(has(line), "{line} in {said:?}");
    }
    assert!(!has("writable") && !has("eth0") && !has("/var/run/docker.sock"), "{said:?}");
    assert!(!said[0].starts_with("sh"), "pid 1 collects zombies: {said:?}");
    let made = stage.base.workspace.tree.join("made");
    assert_eq!(fs::metadata(made).unwrap().uid(), nix::unistd::geteuid().as_raw(), "ours to delete");
    assert!(stage.base.workspace.home.join("kept").exists());
    stage.assert_nothing_left().await;
}

#[tokio::test]
#[ignore = "needs docker or podman: make test-containers"]
async fn no_secret_is_where_the_engine_shows_it() {
    let stage = Stage::new().await;
    let mut command = stage.command("touch begun; until [ -e seen ]; do sleep 0.1; done");
    command.env.insert("SECRET".into(), "canary-4711".into());
    let (sandbox, tree) = (stage.base.sandbox.clone(), stage.base.workspace.tree.clone());
    let running = tokio::spawn(async move { sandbox.run(command).await });
    wait_until("the command to begin", || tree.join("begun").exists()).await;
    let filter = format!("label=lotabots.owner={}", stage.owner);
    let engine = stage.image.engine.program();
    let listed = Program::new(engine).args(["ps", "--quiet", "--filter", &filter]).output().unwrap();
    let id = String::from_utf8(listed.stdout).unwrap();
    let shown = Program::new(engine).args(["inspect", id.trim()]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    fs::write(tree.join("seen"), "").unwrap();
    assert_eq!(running.await.unwrap().unwrap().ending, Ending::Exited(0));
    assert!(shown.contains("lotabots.run") && !shown.contains("canary-4711"), "{shown}");
    stage.assert_nothing_left().await;
}

#[tokio::test]
#[ignore = "needs docker or podman: make test-containers"]
async fn limits_hold_and_are_told_apart() {
    let stage = Stage::new().await;
    assert_eq!(stage.run("exit 7").await.ending, Ending::Exited(7));
    assert_eq!(stage.run("kill -9 $$").await.ending, Ending::Signalled(9));
    let mut hog = stage.command("tail /dev/zero");
    hog.limits.memory_bytes = 64 << 20;
    assert_eq!(stage.base.sandbox.run(hog).await.unwrap().ending, Ending::MemoryExceeded);
    let mut many = stage.command("for i in $(seq 12); do sleep TOKEN & done; wait");
    many.limits.processes = 10;
    assert_eq!(stage.base.sandbox.run(many).await.unwrap().ending, Ending::ProcessesExceeded);
    let mut flood = stage.command("yes TOKEN");
    flood.limits.output_bytes = 100_000;
    assert_eq!(stage.base.sandbox.run(flood).await.unwrap().ending, Ending::OutputExceeded);
    let mut slow = stage.command("trap '' TERM; echo begun; while true; do sleep 0.1; done # TOKEN");
    slow.limits.time = Duration::from_secs(2);
    assert_eq!(stage.base.sandbox.run(slow).await.unwrap().ending, Ending::TimedOut);
    stage.assert_nothing_left().await;
}

#[tokio::test]
#[ignore = "needs docker or podman: make test-containers"]
async fn cancelled_and_dropped_runs_leave_no_container() {
    let stage = Stage::new().await;
    let tree = stage.base.workspace.tree.clone();
    let command = stage.command("touch begun; sleep TOKEN");
    let (cancel, sandbox) = (command.cancel.clone(), stage.base.sandbox.clone());
    let run = tokio::spawn(async move { sandbox.run(command).await });
    wait_until("the command to begin", || tree.join("begun").exists()).await;
    cancel.cancel();
    assert_eq!(run.await.unwrap().unwrap().ending, Ending::Cancelled);
    stage.assert_nothing_left().await;

    fs::remove_file(tree.join("begun")).unwrap();
    let (command, sandbox) = (stage.command("touch begun; sleep TOKEN"), stage.base.sandbox.clone());
    let run = tokio::spawn(async move { sandbox.run(command).await });
    wait_until("the command to begin", || tree.join("begun").exists()).await;
    run.abort();
    wait_until("the container to go", || stage.containers() == 0).await;
    wait_until("its processes to go", || running(&stage.base.token).is_empty()).await;
}

#[tokio::test]
#[ignore = "needs docker or podman: make test-containers"]
async fn an_image_without_a_shell_is_told() {
    let stage = Stage::new().await;
    let empty = format!("lota-test/empty:{}", stage.owner);
    let engine = stage.image.engine.clone();
    let import = format!("tar -cf - -T /dev/null | {} import - {empty}", engine.program());
    assert!(Program::new("sh").args(["-c", &import]).output().unwrap().status.success());
    let id = engine.have(&empty, &|_| ()).await.unwrap();
    let mut command = stage.command("true");
    command.image = Some(Image { engine: engine.clone(), id });
    let ended = stage.base.sandbox.run(command).await;
    let _ = Program::new(engine.program()).args(["rmi", &empty]).output();
    let ended = ended.unwrap();
    assert_eq!(ended.ending, Ending::Exited(127), "{ended:?}");
    assert!(ended.tail.join("\n").contains("sh"), "{ended:?}");
    stage.assert_nothing_left().await;
}

/// What a killed bot leaves is found by its label, and nothing of another owner's.
#[tokio::test]
#[ignore = "needs docker or podman: make test-containers"]
async fn what_a_killed_bot_left_is_reaped() {
    let stage = Stage::new().await;
    let mut bot =
        support::helper("a_bot_to_be_killed", SandboxKind::ProcessGroup, &stage.base.token, &stage.base.folder);
    let begun = stage.base.workspace.tree.join("begun");
    wait_until("the bot's command to begin", || begun.exists()).await;
    bot.kill().unwrap();
    bot.wait().unwrap();
    // Nobody is there to ask the engine, but what ran in it ends all the same.
    wait_until("its processes to go", || running(&stage.base.token).is_empty()).await;
    assert_eq!(stage.containers(), 1);
    let other = sandbox(SandboxKind::ProcessGroup, "test-other", stage.base.folder.path().join("other")).await;
    assert_eq!(other.reap_containers(&stage.image.engine, "").await.unwrap(), 0);
    let reap = async |label| stage.base.sandbox.reap_containers(&stage.image.engine, label).await.unwrap();
    assert_eq!(reap("other-job").await, 0);
    assert_eq!(reap("job").await, 1);
    stage.assert_nothing_left().await;
}

/// Started by [`what_a_killed_bot_left_is_reaped`].
#[tokio::test]
#[ignore = "a helper, not a test"]
async fn a_bot_to_be_killed() {
    if std::env::var_os("LOTA_TEST_KIND").is_none() {
        return;
    }
    let (kind, token, folder) = handed_over();
    let owner = format!("test-{}", token.replace('.', "-"));
    let sandbox: Sandbox = sandbox(kind, &owner, folder.join("killed")).await;
    let workspace = bot_sandbox::Workspace { tree: folder.join("tree"), home: folder.join("home") };
    let line = format!("touch begun; sleep {token}");
    let mut command = Command::new("job", bot_sandbox::Program::Shell(line), workspace, support::limits());
    command.image = Some(image().await);
    sandbox.run(command).await.unwrap();
}
