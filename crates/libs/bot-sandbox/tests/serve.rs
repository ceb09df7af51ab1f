//! `serve`: applications outlive their bot, are known again, and can be ended with all they started.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bot_sandbox::{Application, Ending, SandboxError, SandboxKind, ServeLimits, Served};
use support::{Fixture, handed_over, helper, running, sandbox, token, wait_until, zombies};

in_every_kind!(
    it_starts_is_adopted_and_stopped,
    it_outlives_a_killed_bot,
    it_is_served_once,
    a_lost_record_is_no_lost_process,
    a_deaf_application_dies_with_its_daemons,
    limits_are_enforced,
    an_end_is_noticed,
);

const SCRIPT: &str = "#!/bin/sh
echo started on $PORT
env >$HOME/env
grep Cap /proc/self/status >$HOME/caps
(setsid sleep $TOKEN &)
trap 'echo stopping; exit 0' TERM
echo ready
while :; do sleep 0.05; done
";

fn application(root: &Path, token: &str, script: &str) -> Application {
    let release = root.join("release");
    fs::create_dir_all(&release).unwrap();
    fs::write(release.join("app"), script).unwrap();
    fs::set_permissions(release.join("app"), fs::Permissions::from_mode(0o755)).unwrap();
    Application {
        id: format!("app-{}", token.replace('.', "-")),
        argv: vec!["./app".to_owned(), token.to_owned()],
        release,
        data: root.join("data"),
        env: BTreeMap::from([("PORT".to_owned(), "4711".to_owned()), ("TOKEN".to_owned(), token.to_owned())]),
        toolchains: bot_sandbox::Toolchains::default(),
        limits: ServeLimits { memory_bytes: 1 << 30, processes: 50, log_bytes: 1 << 20 },
        log_file: root.join("app.log"),
        record: root.join("app.json"),
    }
}

async fn started(kind: SandboxKind, script: &str) -> (Fixture, Application, Served) {
    let test = Fixture::new(kind).await;
    let application = application(&root(&test), &test.token, script);
    let served = test.sandbox.serve(application.clone()).await.unwrap();
    wait_until("its daemon runs", || !running(&format!("sleep\0{}", test.token)).is_empty()).await;
    (test, application, served)
}

fn root(test: &Fixture) -> PathBuf {
    test.folder.path().canonicalize().unwrap()
}

fn log(application: &Application) -> String {
    fs::read_to_string(&application.log_file).unwrap()
}

async fn it_starts_is_adopted_and_stopped(kind: SandboxKind) {
    let (test, application, served) = started(kind, SCRIPT).await;
    assert!(served.is_running());
    assert_eq!(served.kind(), kind);
    wait_until("it can be asked to end", || log(&application).contains("ready")).await;
    assert!(log(&application).contains("started on 4711"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&application.record), mode(&application.log_file)), (0o600, 0o600));
    let env = fs::read_to_string(application.data.join("env")).unwrap();
    let names: Vec<&str> = env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let expected = ["CARGO_HOME", "HOME", "LANG", "LOTA_APP_ID", "PATH", "PORT", "PWD", "TMPDIR", "TOKEN"];
    assert!(names.iter().all(|name| expected.contains(name) || matches!(*name, "_" | "SHLVL" | "OLDPWD")), "{names:?}");
    let caps = fs::read_to_string(application.data.join("caps")).unwrap();
    assert!(caps.contains("CapEff:\t0000000000000000"), "{caps}");
    let usage = served.usage().await.unwrap();
    assert!(usage.processes >= 2 && usage.memory_bytes > 0, "{usage:?}");
    let adopted = Served::adopt(&application.record).unwrap().unwrap();
    assert_eq!(adopted.pid(), served.pid());
    adopted.stop(Duration::from_secs(2)).await.unwrap();
    assert!(!served.is_running() && !application.record.exists());
    assert!(log(&application).contains("stopping"), "it was asked first: {}", log(&application));
    assert_eq!(running(&test.token), Vec::<i32>::new());
    wait_until("it is collected", || zombies().is_empty()).await;
    assert!(Served::adopt(&application.record).unwrap().is_none());
}

async fn it_outlives_a_killed_bot(kind: SandboxKind) {
    let (folder, token) = (tempfile::tempdir().unwrap(), token());
    let record = folder.path().join("app.json");
    let mut bot = helper("bot_that_serves", kind, &token, &folder);
    wait_until("it is up", || record.exists() && !running(&format!("sleep\0{token}")).is_empty()).await;
    bot.kill().unwrap();
    bot.wait().unwrap();
    let served = Served::adopt(&record).unwrap().expect("it still runs");
    assert!(served.is_running());
    served.stop(Duration::from_secs(2)).await.unwrap();
    assert_eq!(running(&token), Vec::<i32>::new());
}

#[tokio::test]
#[ignore = "a helper that other tests start and kill"]
async fn bot_that_serves() {
    let (kind, token, folder) = handed_over();
    let sandbox = sandbox(kind, "bot", folder.join("state")).await;
    let _served = sandbox.serve(application(&folder, &token, SCRIPT)).await.unwrap();
    tokio::time::sleep(support::PATIENCE).await;
}

async fn it_is_served_once(kind: SandboxKind) {
    let (test, application, served) = started(kind, SCRIPT).await;
    let second = test.sandbox.serve(application.clone()).await.unwrap_err();
    assert!(matches!(second, SandboxError::AlreadyServed { pid, .. } if pid == served.pid()), "{second}");
    // Known by its marker too.
    fs::remove_file(&application.record).unwrap();
    assert!(matches!(test.sandbox.serve(application).await.unwrap_err(), SandboxError::AlreadyServed { .. }));
    served.stop(Duration::ZERO).await.unwrap();
}

async fn a_lost_record_is_no_lost_process(kind: SandboxKind) {
    let (test, application, served) = started(kind, SCRIPT).await;
    fs::remove_file(&application.record).unwrap();
    assert!(Served::adopt(&application.record).unwrap().is_none());
    assert!(test.sandbox.stop_by_id(&application.id, Duration::from_secs(2)).await.unwrap() >= 2);
    assert!(!served.is_running());
    assert_eq!(running(&test.token), Vec::<i32>::new());
    assert_eq!(test.sandbox.stop_by_id(&application.id, Duration::ZERO).await.unwrap(), 0);
}

async fn a_deaf_application_dies_with_its_daemons(kind: SandboxKind) {
    let deaf = "#!/bin/sh\ntrap '' TERM\nsetsid sleep $TOKEN &\nwhile :; do sleep 0.05; done\n";
    let (test, _, served) = started(kind, deaf).await;
    served.stop(Duration::from_millis(300)).await.unwrap();
    assert!(!served.is_running());
    assert_eq!(running(&test.token), Vec::<i32>::new());
}

async fn limits_are_enforced(kind: SandboxKind) {
    let (test, application, served) = started(kind, "#!/bin/sh\nsleep $TOKEN &\nyes | head -c 3000000\nwait\n").await;
    wait_until("it has talked", || fs::metadata(&application.log_file).unwrap().len() == 3_000_000).await;
    assert_eq!(served.enforce_limits().await.unwrap(), None);
    assert_eq!(fs::metadata(&application.log_file).unwrap().len(), 0, "the log was cut");
    served.stop(Duration::ZERO).await.unwrap();
    let mut greedy = application.clone();
    fs::write(greedy.release.join("app"), "#!/bin/sh\nfor n in 1 2 3 4 5 6; do sleep $TOKEN & done\nwait\n").unwrap();
    greedy.limits.processes = 4;
    let served = test.sandbox.serve(greedy).await.unwrap();
    wait_until("it is greedy", || running(&format!("sleep\0{}", test.token)).len() == 6).await;
    assert_eq!(served.enforce_limits().await.unwrap(), Some(Ending::ProcessesExceeded));
    assert_eq!(running(&test.token), Vec::<i32>::new());
}

async fn an_end_is_noticed(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let application = application(&root(&test), &test.token, "#!/bin/sh\nexit 3\n");
    let served = test.sandbox.serve(application.clone()).await.unwrap();
    wait_until("it ended", || !served.is_running()).await;
    assert!(Served::adopt(&application.record).unwrap().is_none());
    wait_until("it is collected", || zombies().is_empty()).await;
}

/// A pid alone says nothing: this one exists, but started at another time, or on another boot.
#[tokio::test]
async fn a_stranger_with_the_same_pid_is_not_adopted() {
    let (test, application, served) = started(SandboxKind::ProcessGroup, SCRIPT).await;
    let good = fs::read_to_string(&application.record).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&good).unwrap();
    record["start"] = (record["start"].as_u64().unwrap() + 1).into();
    fs::write(&application.record, record.to_string()).unwrap();
    assert!(Served::adopt(&application.record).unwrap().is_none());
    let mut record: serde_json::Value = serde_json::from_str(&good).unwrap();
    record["boot"] = "another".into();
    fs::write(&application.record, record.to_string()).unwrap();
    assert!(Served::adopt(&application.record).unwrap().is_none());
    fs::write(&application.record, "nonsense").unwrap();
    assert!(matches!(Served::adopt(&application.record), Err(SandboxError::BadRecord { .. })));
    served.stop(Duration::ZERO).await.unwrap();
    assert_eq!(running(&test.token), Vec::<i32>::new());
}
