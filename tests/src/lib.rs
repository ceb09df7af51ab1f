//! A fleet of its own for a test: started by `lota up`, looked into from outside, and gone with the value.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "test support: a broken assumption ends the test"
)]

pub mod fixtures;
mod repository;
pub mod toy;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use bot_provision::Installation;
pub use repository::Repository;
use serde_json::Value;
use tempfile::TempDir;

/// A running fleet in a temporary folder.
pub struct Fleet {
    dir: Option<TempDir>,
    home: PathBuf,
}

/// Where the workspace's programs were built.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --workspace --bins` first, as `make test` does",
        path.display()
    );
    path
}

/// Where unpacked packages lie, so that each test does not fetch them anew.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("LOTA_CACHE").map_or_else(|| workspace().join(".cache/lota"), PathBuf::from)
}

/// The RabbitMQ that tests start: this machine's, or of the series that `LOTA_TEST_RABBITMQ` names (such as `4.3`).
pub async fn installation() -> Installation {
    match std::env::var("LOTA_TEST_RABBITMQ").ok().filter(|series| !series.is_empty()) {
        Some(series) => Installation::of_series(&cache_dir(), &series).unwrap_or_else(|| {
            panic!("there is no RabbitMQ {series} in {}/brokers: `make test-brokers` unpacks it", cache_dir().display())
        }),
        None => Installation::find(&cache_dir(), &say).await.unwrap(),
    }
}

/// The top of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// `lota` with arguments, and the environment of the tests.
pub fn lota(args: &[&str]) -> Command {
    let mut command = Command::new(program("lota"));
    command.args(args).env("LOTA_CACHE", cache_dir()).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Standard output of a command that has to succeed.
pub fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?} failed: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command says that has to end with `code`.
pub fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", text(&output));
    text(&output)
}

/// A line beside the test's result.
pub fn say(line: &str) {
    eprintln!("{line}");
}

/// Both outputs, for messages.
pub fn text(output: &Output) -> String {
    format!(
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Waits until `look` finds something; fails after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Fleet {
    /// Starts one. What it prints is shown when the test fails.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with more in its environment.
    pub fn start_with(variables: &[(&str, &str)]) -> Self {
        Self::start_up(&[], variables)
    }

    /// The same, with more said to `lota up`.
    pub fn start_up(args: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_prepared(|_| (), args, variables)
    }

    /// The same, in a home that holds something already.
    pub fn start_in(prepare: impl FnOnce(&Path)) -> Self {
        Self::start_prepared(prepare, &[], &[])
    }

    fn start_prepared(prepare: impl FnOnce(&Path), args: &[&str], variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
        let home = dir.path().join("fleet");
        prepare(&home);
        let fleet = Self { dir: Some(dir), home };
        eprint!("{}", succeeds(fleet.lota(&["up", "--detach"]).args(args).envs(variables.iter().copied())));
        fleet
    }

    /// `lota` for this fleet.
    pub fn lota(&self, args: &[&str]) -> Command {
        let mut command = lota(args);
        command.env("LOTA_HOME", &self.home);
        command
    }

    /// Its folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A folder beside it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.as_ref().unwrap().path().join(name)
    }

    /// A bot's process, by slug.
    pub fn pid(&self, slug: &str) -> i32 {
        let pids: BTreeMap<String, i32> =
            serde_json::from_slice(&fs::read(self.home.join("pids.json")).unwrap()).unwrap();
        pids[slug]
    }

    /// Kills a bot's process with SIGKILL and waits until another one has taken its place.
    pub fn kill(&self, slug: &str) -> (i32, i32) {
        let before = self.pid(slug);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), nix::sys::signal::Signal::SIGKILL).unwrap();
        let after = wait_for("another process of the bot", Duration::from_secs(20), || {
            let pids: BTreeMap<String, i32> =
                serde_json::from_slice(&fs::read(self.home.join("pids.json")).ok()?).ok()?;
            pids.get(slug).copied().filter(|p| *p != before)
        });
        (before, after)
    }

    /// What the monitor answers.
    pub fn monitor(&self, path: &str) -> Value {
        let address = fs::read_to_string(self.home.join("bots/monitor-bot/http-address")).unwrap();
        let url = format!("{}{path}", address.trim());
        get(&url).1.parse().unwrap_or_else(|e| panic!("{url}: {e}"))
    }

    /// Every message of a correlation that the monitor has seen, flat, as its tree shows them.
    pub fn messages(&self, correlation: &str) -> Vec<Value> {
        fn flatten(node: &Value, out: &mut Vec<Value>) {
            if node.get("type").is_some() {
                out.push(node.clone());
            }
            for list in ["nodes", "children", "roots", "tree"] {
                for child in node.get(list).and_then(Value::as_array).into_iter().flatten() {
                    flatten(child, out);
                }
            }
        }
        let mut out = Vec::new();
        flatten(&self.monitor(&format!("/api/v1/correlations/{correlation}")), &mut out);
        out
    }

    /// How often a type was said in a correlation.
    pub fn said(&self, correlation: &str, event_type: &str) -> usize {
        self.messages(correlation).iter().filter(|m| m["type"] == event_type).count()
    }

    /// Pushes without following; gives the correlation.
    pub fn push(&self, repository: &Path) -> String {
        let out = succeeds(&mut self.lota(&["push", repository.to_str().unwrap()]));
        let line =
            out.lines().find(|l| l.contains("correlation")).unwrap_or_else(|| panic!("no correlation in: {out}"));
        line.split_whitespace().last().unwrap().to_owned()
    }

    /// The administrator's way into the broker.
    pub fn management(&self) -> bot_provision::Management {
        let record: Value = serde_json::from_slice(&fs::read(self.home.join("fleet.json")).unwrap()).unwrap();
        let admin = record["admin"].as_str().unwrap();
        let password = fs::read_to_string(self.home.join(format!("secrets/{admin}.password"))).unwrap();
        bot_provision::Management::new(
            record["management_url"].as_str().unwrap(),
            admin,
            bot_provision::Secret::new(password.trim()),
            record["tls"]["authority"].as_str().map(Path::new),
        )
        .unwrap()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let down = self.lota(&["down", "--apps"]).output();
        if std::thread::panicking() {
            for log in fs::read_dir(self.home.join("logs")).into_iter().flatten().flatten() {
                let lines = fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<&str> = lines.lines().collect();
                eprintln!("== {}\n{}", log.path().display(), lines[lines.len().saturating_sub(40)..].join("\n"));
            }
            eprintln!("{down:?}");
        } else {
            let down = down.unwrap();
            assert!(down.status.success(), "{}", text(&down));
            let home = self.home.to_string_lossy().into_owned();
            // The supervisor lets go of its home as its last act, and may still be ending then.
            let until = Instant::now() + Duration::from_secs(5);
            let mut left = processes_naming(&home);
            while !left.is_empty() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(50));
                left = processes_naming(&home);
            }
            assert_eq!(left, Vec::<i32>::new(), "still running after the fleet of {home}");
        }
    }
}

/// GET without a proxy: status and body.
pub fn get(url: &str) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build().unwrap();
        match http.get(url).send().await {
            Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_default()),
            Err(e) => (0, e.to_string()),
        }
    })
}

/// Processes whose environment or command line names `text`, this one excepted.
pub fn processes_naming(text: &str) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let names = ["cmdline", "environ"]
            .iter()
            .any(|f| fs::read(entry.path().join(f)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text)));
        if names && pid != own {
            found.push(pid);
        }
    }
    found
}
