//! `run` as a caller sees it: exit codes, environment, output, limits. Escapes are tried in `escape.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use bot_sandbox::{Bind, Command, Ending, Line, Program, SandboxKind, Stream, Toolchains};
use bot_secrets::Redactor;
use support::{Fixture, limits};
use tokio::sync::mpsc;

in_every_kind!(
    endings_are_told_apart,
    the_environment_is_clean,
    output_arrives_everywhere,
    secrets_are_redacted_everywhere,
    a_flood_of_output_ends_the_run,
    a_memory_hog_is_ended,
    a_fork_bomb_is_bounded,
    threads_count_as_processes,
    files_have_a_limit,
    a_crate_builds_with_the_toolchains_of_this_machine,
    the_workspace_and_binds_are_writable,
    toolchains_work,
    a_missing_program_is_127,
    a_slow_reader_does_not_hang_the_end,
);

async fn endings_are_told_apart(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    assert_eq!(test.run("true").await.ending, Ending::Exited(0));
    assert_eq!(test.run("exit 7").await.ending, Ending::Exited(7));
    assert_eq!(test.run("exit 255").await.ending, Ending::Exited(255));
    assert_eq!(test.run("kill -9 $$").await.ending, Ending::Signalled(9));
    assert_eq!(test.run("sh -c 'kill -15 $$'; exit $?").await.ending, Ending::Signalled(15));
    test.assert_nothing_left().await;
}

async fn the_environment_is_clean(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let argv = Program::Argv(vec!["/usr/bin/env".to_owned(), "-0".to_owned()]);
    let mut command = Command::new("job", argv, test.workspace.clone(), limits());
    command.env = BTreeMap::from([
        ("GIVEN".to_owned(), "two words".to_owned()),
        // Must reach the command only: in front of it run setpriv, prlimit and bwrap, outside of the sandbox.
        ("LD_PRELOAD".to_owned(), "/workspace/evil.so".to_owned()),
    ]);
    let outcome = test.sandbox.run(command).await.unwrap();
    let text = outcome.tail.join("\n");
    let env: BTreeMap<&str, &str> =
        text.split('\0').filter_map(|entry| entry.rsplit('\n').next()?.split_once('=')).collect();
    let inside = test.sandbox.inside(&test.workspace);
    assert_eq!(env.get("GIVEN"), Some(&"two words"));
    assert_eq!(env.get("HOME"), Some(&inside.home.to_str().unwrap()));
    assert!(env.get("LOTA_RUN_ID").unwrap().contains("/job/"));
    let mut names: Vec<&str> = env.into_keys().filter(|name| *name != "PWD").collect();
    names.sort_unstable();
    let expected =
        ["CARGO_HOME", "GIVEN", "HOME", "LANG", "LD_PRELOAD", "LOTA_RUN_BY", "LOTA_RUN_ID", "PATH", "TMPDIR"];
    assert_eq!(names, expected);
    if kind != SandboxKind::ProcessGroup {
        // Every program that loads it complains once: in bubblewrap prlimit and env, in landlock env, nothing before them.
        let complaints = outcome.tail.iter().filter(|line| line.starts_with("ERROR: ld.so")).count();
        assert_eq!(complaints, if kind == SandboxKind::Bubblewrap { 2 } else { 1 }, "{:?}", outcome.tail);
    }
}

async fn output_arrives_everywhere(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let (sender, mut receiver) = mpsc::channel::<Line>(100);
    let mut command = test.command("echo out; echo err >&2; printf 'a\\377b\\n'; printf unfinished");
    command.output = Some(sender);
    command.log_file = Some(test.folder.path().join("log"));
    let outcome = test.sandbox.run(command).await.unwrap();
    let mut lines = Vec::new();
    while let Some(line) = receiver.recv().await {
        lines.push((line.stream, line.text));
    }
    let said = |stream, text: &str| lines.contains(&(stream, text.to_owned()));
    assert!(said(Stream::Stdout, "out") && said(Stream::Stderr, "err"), "{lines:?}");
    assert!(said(Stream::Stdout, "a\u{fffd}b") && said(Stream::Stdout, "unfinished"), "{lines:?}");
    assert_eq!(outcome.tail.len(), 4);
    assert_eq!(outcome.output_bytes, 4 + 4 + 4 + 10);
    let log = fs::read_to_string(test.folder.path().join("log")).unwrap();
    assert_eq!(log.lines().count(), 4, "{log}");
}

async fn secrets_are_redacted_everywhere(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let (sender, mut receiver) = mpsc::channel::<Line>(100);
    let mut command = test.command("echo key=canary; echo canary >&2");
    command.output = Some(sender);
    command.log_file = Some(test.folder.path().join("log"));
    command.redactor = Redactor::new(["canary"]);
    let outcome = test.sandbox.run(command).await.unwrap();
    let mut all = outcome.tail.join("\n") + &fs::read_to_string(test.folder.path().join("log")).unwrap();
    while let Some(line) = receiver.recv().await {
        all += &line.text;
    }
    assert!(all.contains("key=***") && !all.contains("canary"), "{all}");
}

async fn a_flood_of_output_ends_the_run(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let mut command = test.command("yes TOKEN");
    command.log_file = Some(test.folder.path().join("log"));
    command.limits.output_bytes = 100_000;
    let outcome = test.sandbox.run(command).await.unwrap();
    assert_eq!(outcome.ending, Ending::OutputExceeded);
    assert!(outcome.tail.last().unwrap().contains("more than 100000 bytes"));
    let log = fs::metadata(test.folder.path().join("log")).unwrap().len();
    assert!((99_000..101_000).contains(&log), "{log}");
    test.assert_nothing_left().await;
}

async fn a_memory_hog_is_ended(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    // One endless line, which tail has to keep.
    let mut command = test.command("tail /dev/zero; echo TOKEN");
    command.limits.memory_bytes = 200 << 20;
    let outcome = test.sandbox.run(command).await.unwrap();
    assert_eq!(outcome.ending, Ending::MemoryExceeded);
    assert!(outcome.memory_peak_bytes > 200 << 20);
    test.assert_nothing_left().await;
}

async fn a_fork_bomb_is_bounded(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    // It doubles as a real one does, but gives up at 4096, so that a broken sandbox does not take the machine along.
    let mut command = test
        .command("bomb() { [ $1 -gt 0 ] || exec sleep TOKEN; bomb $(($1 - 1)) & bomb $(($1 - 1)) & wait; }; bomb 12");
    command.limits.processes = 50;
    let outcome = test.sandbox.run(command).await.unwrap();
    assert_eq!(outcome.ending, Ending::ProcessesExceeded);
    assert_eq!(outcome.survivors, Vec::<i32>::new());
    test.assert_nothing_left().await;
}

async fn threads_count_as_processes(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let quiet = test.run("for n in 1 2 3; do sleep 0.5 & done; wait").await;
    assert_eq!(quiet.ending, Ending::Exited(0));
    assert!((3..=5).contains(&quiet.processes_peak), "{}", quiet.processes_peak);
}

async fn files_have_a_limit(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let mut command = test.command("dd if=/dev/zero of=big bs=1M count=3; stat -c %s big; ulimit -n; ulimit -c");
    command.limits.file_bytes = 1 << 20;
    let outcome = test.sandbox.run(command).await.unwrap();
    for line in ["1048576", "256", "0"] {
        assert!(outcome.tail.iter().any(|said| said == line), "{:?}", outcome.tail);
    }
}

async fn the_workspace_and_binds_are_writable(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let inside = test.sandbox.inside(&test.workspace);
    let cache = test.folder.path().canonicalize().unwrap().join("cache");
    fs::create_dir(&cache).unwrap();
    fs::create_dir(test.workspace.tree.join("sub")).unwrap();
    let mut command =
        test.command("set -e; echo 1 >here; echo 2 >../target/deep/there; echo 3 >~/home; echo 4 >$TMPDIR/tmp; pwd");
    command.cwd = "sub".into();
    command.read_write.push(Bind { host: cache.clone(), inside: inside.tree.join("target/deep") });
    let outcome = test.sandbox.run(command).await.unwrap();
    assert_eq!(outcome.ending, Ending::Exited(0), "{:?}", outcome.tail);
    assert_eq!(outcome.tail, [inside.tree.join("sub").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(test.workspace.tree.join("sub/here")).unwrap(), "1\n");
    assert_eq!(fs::read_to_string(cache.join("there")).unwrap(), "2\n");
    assert_eq!(fs::read_to_string(test.workspace.home.join("home")).unwrap(), "3\n");
}

async fn toolchains_work(kind: SandboxKind) {
    use std::os::unix::fs::PermissionsExt;
    let test = Fixture::new(kind).await;
    let root = test.folder.path().canonicalize().unwrap();
    for file in ["machine/.cargo/bin/cargo", "machine/node20/bin/node"] {
        fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        fs::write(root.join(file), "#!/bin/sh\necho \"$0 $CARGO_HOME\"\n").unwrap();
        fs::set_permissions(root.join(file), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(root.join("machine/.cargo/config.toml"), "# mirror").unwrap();
    let home = root.join("machine");
    let search = bot_sandbox::Search { path: vec![home.join("node20/bin")], home: home.clone(), ..Default::default() };
    let config = if kind == SandboxKind::Bubblewrap { "/.cargo/config.toml" } else { "~/.cargo/config.toml" };
    let mut command =
        test.command(&format!("cargo; node; cat {config}; echo; echo >>{}/node20/bin/node", home.display()));
    command.toolchains = Toolchains::find(&search);
    let outcome = test.sandbox.run(command).await.unwrap();
    let cargo_home = test.sandbox.inside(&test.workspace).home.join(".cargo");
    let first = format!("{} {}", home.join(".cargo/bin/cargo").display(), cargo_home.display());
    // The two streams have no order between them.
    for line in [first.as_str(), "# mirror"] {
        assert!(outcome.tail.iter().any(|said| said == line), "{line}: {:?}", outcome.tail);
    }
    if kind != SandboxKind::ProcessGroup {
        assert_eq!(outcome.ending, Ending::Exited(1), "toolchains are read-only: {:?}", outcome.tail);
    }
}

/// The one that runs this test: rustup must be content with a home it cannot write.
async fn a_crate_builds_with_the_toolchains_of_this_machine(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let line = "cargo init --vcs none --name hello -q && cargo build --offline -q && ./target/debug/hello && rustc --print sysroot";
    let mut command = test.command(line);
    command.toolchains = Toolchains::find(&support::search());
    command.limits.processes = 500;
    command.limits.open_files = 4096;
    let outcome = test.sandbox.run(command).await.unwrap();
    assert_eq!(outcome.ending, Ending::Exited(0), "{:?}", outcome.tail);
    assert_eq!(outcome.tail.first().map(String::as_str), Some("Hello, world!"), "{:?}", outcome.tail);
}

async fn a_missing_program_is_127(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let program = Program::Argv(vec!["no-such-program".to_owned()]);
    let command = Command::new("job", program, test.workspace.clone(), limits());
    assert_eq!(test.sandbox.run(command).await.unwrap().ending, Ending::Exited(127));
}

async fn a_slow_reader_does_not_hang_the_end(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    // Kept, never read.
    let (sender, _receiver) = mpsc::channel::<Line>(1);
    let mut command = test.command("seq 1000; sleep TOKEN");
    command.output = Some(sender);
    command.limits.time = Duration::from_millis(500);
    let outcome = test.sandbox.run(command).await.unwrap();
    assert_eq!(outcome.ending, Ending::TimedOut);
    test.assert_nothing_left().await;
}

#[tokio::test]
async fn the_strongest_that_works_is_taken_and_the_reasons_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let launcher = PathBuf::from(env!("CARGO_BIN_EXE_lota-launcher"));
    let options = bot_sandbox::Options {
        owner: "test".to_owned(),
        bwrap: Some("/bin/false".into()),
        path: support::path(),
        state: folder.path().to_owned(),
        launcher: Some(launcher),
        kind: None,
    };
    let sandbox = bot_sandbox::Sandbox::detect(options.clone()).await.unwrap();
    assert_eq!(sandbox.kind(), SandboxKind::Landlock);
    assert!(sandbox.why_not_stronger().unwrap().contains("/bin/false"), "{:?}", sandbox.why_not_stronger());
    // A program that confines nothing is found out.
    let pretender = bot_sandbox::Options { launcher: Some("/bin/true".into()), ..options };
    let sandbox = bot_sandbox::Sandbox::detect(pretender.clone()).await.unwrap();
    assert_eq!(sandbox.kind(), SandboxKind::ProcessGroup);
    assert!(sandbox.why_not_stronger().unwrap().contains("landlock"), "{:?}", sandbox.why_not_stronger());
    let only = bot_sandbox::Options { kind: Some(SandboxKind::Landlock), ..pretender };
    let error = bot_sandbox::Sandbox::detect(only).await.err().unwrap();
    assert!(error.to_string().contains("expected the sandbox landlock"), "{error}");
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_built_is_an_error() {
    let test = Fixture::new(SandboxKind::Bubblewrap).await;
    let mut command = test.command("true");
    // The mount point would have to be made in a read-only folder.
    command.read_write.push(Bind { host: test.workspace.tree.clone(), inside: "/usr/nowhere".into() });
    let error = test.sandbox.run(command).await.unwrap_err();
    assert!(error.to_string().contains("bwrap"), "{error}");
}
