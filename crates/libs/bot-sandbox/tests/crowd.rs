//! A bot whose user has many threads elsewhere, where it cannot see them: as in one container beside many others. Needs root,
//! who makes a user's crowd, a namespace of processes and a control group.
#![allow(clippy::disallowed_methods, reason = "the crowd and the bot beside it are started outside of any sandbox")]
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
};

use bot_sandbox::{Command, Ending, Options, Program, Sandbox, Workspace};
use support::{limits, token, wait_until};
use tempfile::TempDir;

/// Nobody else's on this machine.
const USER: u32 = 64_321;
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// More than a trial's limit leaves room for.
const CROWD: usize = 400;
const PROCESSES_MAX: u64 = 300;

/// Ended, with what it made, when it is dropped.
struct Crowd {
    threads: Child,
    group: Option<PathBuf>,
    folder: TempDir,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.threads.kill();
        let _ = self.threads.wait();
        if let Some(group) = &self.group {
            let _ = fs::remove_dir(group);
        }
    }
}

impl Crowd {
    async fn gather(with_group: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        chown(folder.path(), Some(USER), Some(USER)).unwrap_or_else(|e| panic!("this test needs root: {e}"));
        let token = token();
        let script = "import sys, threading, time\nfor n in range(int(sys.argv[1])): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\ntime.sleep(600)";
        let mut crowd = as_user(&["python3", "-c", script, &CROWD.to_string(), &token]);
        let crowd = crowd.spawn().unwrap();
        let threads = || fs::read_dir(format!("/proc/{}/task", crowd.id())).map_or(0, Iterator::count);
        wait_until("the crowd is there", || threads() > CROWD).await;
        let group = with_group.then(|| {
            let (controllers, old) = (Path::new("/sys/fs/cgroup/cgroup.controllers"), Path::new("/sys/fs/cgroup/pids"));
            let group =
                if controllers.exists() { Path::new("/sys/fs/cgroup") } else { old }.join(format!("lota-{token}"));
            fs::create_dir(&group).unwrap();
            fs::write(group.join("pids.max"), PROCESSES_MAX.to_string()).unwrap();
            group
        });
        Self { threads: crowd, group, folder }
    }

    /// What a bot says that runs as the crowd's user and does not see it.
    fn bot_beside(&self) -> String {
        let enter =
            self.group.as_ref().map_or("true".to_owned(), |group| format!("echo $$ >{}/cgroup.procs", group.display()));
        let line = format!("{enter} && exec \"$@\"");
        let me = std::env::current_exe().unwrap();
        let mut words = vec!["sh", "-c", &line, "sh", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let user = USER.to_string();
        words.extend(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", me.to_str().unwrap()]);
        words.extend(["--exact", "bot_in_a_crowd", "--ignored", "--nocapture"]);
        let output = Process::new(words[0])
            .args(&words[1..])
            .env("PATH", SYSTEM_PATH)
            .env("LOTA_TEST_FOLDER", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

fn as_user(words: &[&str]) -> Process {
    let user = USER.to_string();
    let mut command = Process::new("setpriv");
    // Not root's own tools, which nobody else may run.
    command.env("PATH", SYSTEM_PATH).args(["--reuid", &user, "--regid", &user, "--clear-groups"]).args(words);
    command
}

#[tokio::test]
#[ignore = "needs root; make test-containers runs it"]
async fn where_the_container_bounds_processes_a_crowd_elsewhere_changes_nothing() {
    let crowd = Crowd::gather(true).await;
    let said = crowd.bot_beside();
    for line in [
        format!("sandbox: landlock, bounded by the container's control group, {PROCESSES_MAX} together"),
        "twenty at once: Exited(0)".to_owned(),
        "a bomb: ProcessesExceeded".to_owned(),
    ] {
        assert!(said.contains(&line), "expected `{line}` in {said}");
    }
}

#[tokio::test]
#[ignore = "needs root; make test-containers runs it"]
async fn where_nothing_but_the_user_does_it_is_no_weaker_sandbox_but_an_error() {
    let said = Crowd::gather(false).await.bot_beside();
    for word in ["no sandbox: expected room", "the threads of user 64321", "pids_limit", "a user of its own"] {
        assert!(said.contains(word), "expected `{word}` in {said}");
    }
}

#[tokio::test]
#[ignore = "a helper that other tests start"]
async fn bot_in_a_crowd() {
    let folder = PathBuf::from(std::env::var_os("LOTA_TEST_FOLDER").expect("only a test starts this"));
    let options = Options {
        owner: "bot".to_owned(),
        bwrap: Some("/bin/false".into()),
        path: support::path(),
        state: folder.join("state"),
        launcher: Some(PathBuf::from(env!("CARGO_BIN_EXE_lota-launcher"))),
        kind: None,
    };
    let sandbox = match Sandbox::detect(options).await {
        Ok(sandbox) => sandbox,
        Err(error) => return println!("no sandbox: {error}"),
    };
    println!("sandbox: {}, bounded by {}", sandbox.kind(), sandbox.process_bound());
    for (what, line) in [
        ("twenty at once", "for n in $(seq 20); do sleep 0.2 & done; wait"),
        ("a bomb", "for n in $(seq 2000); do sleep 20 & done 2>/dev/null; wait"),
    ] {
        let (tree, home) = (folder.join("tree"), folder.join("home"));
        fs::create_dir_all(&tree).unwrap();
        let mut command = Command::new("job", Program::Shell(line.to_owned()), Workspace { tree, home }, limits());
        command.limits.processes = 60;
        let ending: Ending = sandbox.run(command).await.unwrap().ending;
        println!("{what}: {ending:?}");
    }
}
