//! Commands that will not end, will not stay, or look where they must not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::{fs, net::TcpListener, time::Duration};

use bot_sandbox::{Bind, Command, Ending, Program, Sandbox, SandboxKind, Workspace};
use support::{Fixture, PATIENCE, handed_over, helper, limits, running, sandbox, token, wait_until};

in_every_kind!(
    a_deaf_child_dies_at_the_time_limit,
    a_polite_child_may_clean_up,
    cancelling_ends_it,
    a_pipe_held_open_does_not_hang,
    daemons_die_with_the_run,
    daemons_die_at_the_time_limit,
    a_dropped_future_kills,
    a_killed_bot_takes_its_runs_along,
    stale_runs_are_reaped_by_owner_and_label,
    there_are_no_capabilities,
);

const DAEMON: &str = "setsid sh -c 'trap \"\" TERM HUP; (setsid sleep TOKEN &) ; sleep TOKEN & exit' & ";

async fn a_deaf_child_dies_at_the_time_limit(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let mut command = test.command("trap '' TERM; while :; do sleep TOKEN; done");
    command.limits.time = Duration::from_millis(300);
    let outcome = test.sandbox.run(command).await.unwrap();
    assert_eq!(outcome.ending, Ending::TimedOut);
    test.assert_nothing_left().await;
}

async fn a_polite_child_may_clean_up(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let mut command = test.command("trap 'echo cleaned up; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    command.limits.time = Duration::from_secs(1);
    let outcome = test.sandbox.run(command).await.unwrap();
    assert_eq!(outcome.ending, Ending::TimedOut);
    assert!(outcome.tail.iter().any(|line| line == "cleaned up"), "{:?}", outcome.tail);
}

async fn cancelling_ends_it(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let command = test.command("sleep TOKEN");
    let cancel = command.cancel.clone();
    let run = tokio::spawn({
        let sandbox = test.sandbox.clone();
        async move { sandbox.run(command).await }
    });
    wait_until("it runs", || !running(&format!("sleep\0{}", test.token)).is_empty()).await;
    cancel.cancel();
    assert_eq!(run.await.unwrap().unwrap().ending, Ending::Cancelled);
    test.assert_nothing_left().await;
}

async fn a_pipe_held_open_does_not_hang(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let outcome = test.run("sleep TOKEN & echo done").await;
    assert_eq!((outcome.ending, outcome.tail), (Ending::Exited(0), vec!["done".to_owned()]));
    test.assert_nothing_left().await;
}

async fn daemons_die_with_the_run(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let outcome = test.run(&format!("{DAEMON} exit 0")).await;
    assert_eq!(outcome.ending, Ending::Exited(0));
    test.assert_nothing_left().await;
}

async fn daemons_die_at_the_time_limit(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    // This one also empties its environment, so only its session and parent tell that it is ours.
    let mut command = test.command(&format!("{DAEMON} env -i setsid sleep TOKEN & sleep TOKEN"));
    command.limits.time = Duration::from_secs(1);
    assert_eq!(test.sandbox.run(command).await.unwrap().ending, Ending::TimedOut);
    test.assert_nothing_left().await;
}

async fn a_dropped_future_kills(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let run = tokio::spawn({
        let (sandbox, command) = (test.sandbox.clone(), test.command(&format!("{DAEMON} sleep TOKEN")));
        async move { sandbox.run(command).await }
    });
    wait_until("daemons run", || running(&format!("sleep\0{}", test.token)).len() == 3).await;
    run.abort();
    wait_until("all are dead", || running(&test.token).is_empty()).await;
}

async fn a_killed_bot_takes_its_runs_along(kind: SandboxKind) {
    let (folder, token) = (tempfile::tempdir().unwrap(), token());
    let mut bot = helper("bot_that_runs", kind, &token, &folder);
    wait_until("the bot's run is up", || running(&format!("sleep\0{token}")).len() == 3).await;
    bot.kill().unwrap();
    bot.wait().unwrap();
    wait_until("all are dead", || running(&token).is_empty()).await;
}

#[tokio::test]
#[ignore = "a helper that other tests start and kill"]
async fn bot_that_runs() {
    let (kind, token, folder) = handed_over();
    let sandbox = sandbox(kind, "bot", folder.clone()).await;
    run_daemon(&sandbox, &token, "job", folder).await;
}

async fn run_daemon(sandbox: &Sandbox, token: &str, label: &str, folder: std::path::PathBuf) {
    let line = format!("{DAEMON} sleep TOKEN").replace("TOKEN", token);
    let workspace = Workspace { tree: folder.clone(), home: folder };
    let mut command = Command::new(label, Program::Shell(line), workspace, limits());
    command.limits.time = PATIENCE;
    sandbox.run(command).await.unwrap();
}

async fn stale_runs_are_reaped_by_owner_and_label(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let root = test.folder.path().canonicalize().unwrap();
    let other = token();
    let stale = tokio::spawn({
        let (sandbox, token, root) = (test.sandbox.clone(), test.token.clone(), root.clone());
        async move { run_daemon(&sandbox, &token, "job-1:attempt-1", root).await }
    });
    let foreign = sandbox(kind, &format!("{other}-owner"), root.join("other")).await;
    let lasting = tokio::spawn({
        let (foreign, other) = (foreign.clone(), other.clone());
        async move { run_daemon(&foreign, &other, "job-1:attempt-1", root).await }
    });
    let count = |token: &str| running(&format!("sleep\0{token}")).len();
    wait_until("both are up", || count(&test.token) == 3 && count(&other) == 3).await;
    assert_eq!(test.sandbox.reap_stale("job-2:").await.unwrap(), 0);
    assert!(test.sandbox.reap_stale("job-1:").await.unwrap() >= 3);
    assert_eq!(running(&test.token), Vec::<i32>::new());
    assert_eq!(count(&other), 3, "another owner's runs are not ours to end");
    stale.await.unwrap();
    assert!(foreign.reap_stale("").await.unwrap() >= 3);
    lasting.await.unwrap();
}

async fn there_are_no_capabilities(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let outcome = test.run("grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status").await;
    let privileged = fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0"));
    for line in &outcome.tail {
        let (name, value) = line.split_once(":\t").unwrap();
        match name {
            "NoNewPrivs" => assert_eq!(value, "1"),
            // An ordinary user may not narrow the bounding set, and cannot use it either.
            "CapBnd" if !privileged && kind != SandboxKind::Bubblewrap => {}
            _ => assert_eq!(value, "0000000000000000", "{line}"),
        }
    }
    assert_eq!(outcome.tail.len(), 6);
}

#[tokio::test]
async fn bubblewrap_cuts_the_network_off() {
    let test = Fixture::new(SandboxKind::Bubblewrap).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("exec 3<>/dev/tcp/127.0.0.1/{}", listener.local_addr().unwrap().port());
    assert_eq!(test.run(&line).await.ending, Ending::Exited(1));
    let mut command = test.command(&line);
    command.network = true;
    assert_eq!(test.sandbox.run(command).await.unwrap().ending, Ending::Exited(0));
}

#[tokio::test]
async fn bubblewrap_hides_the_machine() {
    let test = Fixture::new(SandboxKind::Bubblewrap).await;
    let secret = test.folder.path().canonicalize().unwrap().join("secret");
    fs::write(&secret, "canary").unwrap();
    for path in ["/etc/shadow", "/etc/gshadow", "/root", "/etc/ssl/private", "/var/lib", secret.to_str().unwrap()] {
        assert_ne!(test.run(&format!("ls {path}")).await.ending, Ending::Exited(0), "{path} is visible");
    }
    let outcome =
        test.run("ls -A / | grep -vxE 'bin|dev|etc|home|lib[0-9x]*|proc|run|sbin|tmp|usr|var|workspace|nix'").await;
    assert_eq!(outcome.tail, Vec::<String>::new());
    for place in ["/x", "/etc/x", "/usr/x", "/dev/x", "/home/x", "/run/x"] {
        assert_ne!(test.run(&format!("echo >{place}")).await.ending, Ending::Exited(0), "{place} is writable");
    }
    let sysctl = test
        .run("for at in core_pattern modprobe; do at=/proc/sys/kernel/$at; cat $at >$at && echo written; done; true");
    assert_eq!(sysctl.await.tail.iter().filter(|line| *line == "written").count(), 0, "a sysctl is writable");
    // Only its own processes: bwrap's first one, bash, ls.
    let outcome = test.run("ls -d /proc/[0-9]* | wc -l; id -u").await;
    assert!(outcome.tail.first().unwrap().parse::<u32>().unwrap() <= 4, "{:?}", outcome.tail);
    assert_eq!(outcome.tail.get(1).map(String::as_str), Some("1000"));
}

#[tokio::test]
async fn memory_file_systems_have_a_size() {
    let test = Fixture::new(SandboxKind::Bubblewrap).await;
    let mut command = test.command(
        "for at in /tmp /dev/shm; do dd if=/dev/zero of=$at/x bs=1M count=32 2>/dev/null && echo $at; done; true",
    );
    command.limits.memory_bytes = 16 << 20;
    let outcome = test.sandbox.run(command).await.unwrap();
    assert_eq!((outcome.ending, outcome.tail), (Ending::Exited(0), Vec::new()));
}

#[tokio::test]
async fn a_link_left_in_the_tree_is_no_mount_point() {
    let test = Fixture::new(SandboxKind::Bubblewrap).await;
    let root = test.folder.path().canonicalize().unwrap();
    fs::create_dir(root.join("outside")).unwrap();
    std::os::unix::fs::symlink(root.join("outside"), test.workspace.tree.join("target")).unwrap();
    let mut command = test.command("true");
    let inside = test.sandbox.inside(&test.workspace).tree.join("target/made");
    command.read_write.push(Bind { host: root.clone(), inside });
    assert!(test.sandbox.run(command).await.unwrap_err().to_string().contains("symbolic"));
    assert!(!root.join("outside/made").exists());
}
