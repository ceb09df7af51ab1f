//! What the tests of real processes share: a sandbox of each kind, a token to find processes by, waiting for a condition.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::disallowed_methods, reason = "tests read PATH and start helpers of their own")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bot_sandbox::{Command, Limits, Options, Outcome, Program, Sandbox, SandboxKind, Search, Workspace};
use tempfile::TempDir;

/// Long enough for a loaded machine; nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Each named function becomes a test of every kind.
#[macro_export]
macro_rules! in_every_kind {
    ($($name:ident),* $(,)?) => {
        mod bubblewrap {
            $(#[tokio::test] async fn $name() { super::$name(bot_sandbox::SandboxKind::Bubblewrap).await; })*
        }
        mod landlock {
            $(#[tokio::test] async fn $name() { super::$name(bot_sandbox::SandboxKind::Landlock).await; })*
        }
        mod process_group {
            $(#[tokio::test] async fn $name() { super::$name(bot_sandbox::SandboxKind::ProcessGroup).await; })*
        }
    };
}

pub(crate) struct Fixture {
    pub(crate) folder: TempDir,
    pub(crate) sandbox: Sandbox,
    pub(crate) workspace: Workspace,
    pub(crate) token: String,
}

pub(crate) fn path() -> Vec<PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap()).collect()
}

/// Never a silent skip: a test that needs bubblewrap fails without it, and says how to get it.
pub(crate) fn bwrap() -> PathBuf {
    let named = env::var_os("LOTA_TEST_BWRAP").map(PathBuf::from);
    let found = named.or_else(|| path().into_iter().map(|folder| folder.join("bwrap")).find(|file| file.is_file()));
    found.filter(|file| file.is_file()).expect(
        "bubblewrap is needed: `apt-get install bubblewrap`, or without installing: `mkdir -p /tmp/lota-bwrap && cd /tmp/lota-bwrap && \
         apt-get download bubblewrap && dpkg -x bubblewrap_*.deb . && export LOTA_TEST_BWRAP=$PWD/usr/bin/bwrap`",
    )
}

pub(crate) async fn sandbox(kind: SandboxKind, owner: &str, state: PathBuf) -> Sandbox {
    let bwrap = (kind == SandboxKind::Bubblewrap).then(bwrap);
    let launcher = Some(PathBuf::from(env!("CARGO_BIN_EXE_lota-launcher")));
    let options = Options { owner: owner.to_owned(), bwrap, path: path(), state, launcher, kind: Some(kind) };
    let sandbox = Sandbox::detect(options).await.expect("detects");
    assert_eq!(sandbox.kind(), kind, "{:?}", sandbox.why_not_stronger());
    sandbox
}

pub(crate) fn token() -> String {
    static TOKENS: AtomicU64 = AtomicU64::new(1);
    // A number `sleep` takes, and no other process has.
    let now = fs::read_to_string("/proc/uptime").unwrap().replace([' ', '.', '\n'], "");
    format!("9000.{}{now}{}", std::process::id(), TOKENS.fetch_add(1, Ordering::Relaxed))
}

impl Fixture {
    pub(crate) async fn new(kind: SandboxKind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let workspace = Workspace { tree: root.join("tree"), home: root.join("home") };
        fs::create_dir(&workspace.tree).unwrap();
        let token = token();
        let sandbox = sandbox(kind, &format!("test-{}", token.replace('.', "-")), root.join("state")).await;
        Self { folder, sandbox, workspace, token }
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        Command::new("job", Program::Shell(line.replace("TOKEN", &self.token)), self.workspace.clone(), limits())
    }

    pub(crate) async fn run(&self, line: &str) -> Outcome {
        self.sandbox.run(self.command(line)).await.expect("runs")
    }

    pub(crate) async fn assert_nothing_left(&self) {
        self.assert_nothing_left_but("other").await;
    }

    /// Of what carries the token, but for what carries it with this behind it.
    pub(crate) async fn assert_nothing_left_but(&self, end: &str) {
        let spared = running(&format!("{}{end}", self.token));
        let left: Vec<i32> = running(&self.token).into_iter().filter(|pid| !spared.contains(pid)).collect();
        assert_eq!(left, Vec::<i32>::new());
        // Other tests may share this process, and theirs are about to be collected.
        wait_until("no zombies", || zombies().is_empty()).await;
    }
}

/// What a bot would hand in from its environment.
pub(crate) fn search() -> Search {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from);
    Search {
        path: path(),
        home: folder("HOME").unwrap(),
        cargo_home: folder("CARGO_HOME"),
        rustup_home: folder("RUSTUP_HOME"),
        java_home: None,
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        time: Duration::from_mins(1),
        memory_bytes: 1 << 30,
        processes: 100,
        output_bytes: 1 << 20,
        line_bytes: 4096,
        file_bytes: 64 << 20,
        open_files: 256,
    }
}

/// Processes whose command line holds the text.
pub(crate) fn running(text: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    })
    .collect()
}

/// Zombies of this very process.
pub(crate) fn zombies() -> Vec<i32> {
    let me = std::process::id().to_string();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        fields.first() == Some(&"Z") && fields.get(1) == Some(&me.as_str())
    })
    .collect()
}

pub(crate) fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Descriptors of this process without the close-on-exec flag: children get them whatever we do.
pub(crate) fn inheritable() -> Vec<String> {
    let names = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|fd| {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("02000000").trim();
            u64::from_str_radix(flags, 8).unwrap() & 0o2_000_000 == 0
        })
        .collect()
}

pub(crate) async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Starts this test binary again, as a bot that can be killed; it runs one ignored test.
pub(crate) fn helper(test: &str, kind: SandboxKind, token: &str, folder: &TempDir) -> Child {
    let mut command = std::process::Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).stdout(Stdio::null());
    command.env("LOTA_TEST_KIND", kind.as_str()).env("LOTA_TEST_TOKEN", token).env("LOTA_TEST_FOLDER", folder.path());
    command.spawn().unwrap()
}

/// What [`helper`] handed over: kind, token, folder.
pub(crate) fn handed_over() -> (SandboxKind, String, PathBuf) {
    let value = |name: &str| env::var(name).expect("only the helper starts this");
    let kind = value("LOTA_TEST_KIND").parse().unwrap();
    (kind, value("LOTA_TEST_TOKEN"), PathBuf::from(value("LOTA_TEST_FOLDER")).canonicalize().unwrap())
}
