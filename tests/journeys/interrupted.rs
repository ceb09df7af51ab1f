//! A fleet that is stopped before it is ready, or whose start fails, leaves nothing running; and how each end is told.
use std::{
    fs,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tempfile::TempDir;
use tests::{lota, processes_naming, text, wait_for};

const LIMIT: Duration = Duration::from_secs(120);

/// A `lota` that runs beside the test, in a process group of its own as a shell would have it.
struct Beside {
    child: Child,
    out: PathBuf,
}

impl Beside {
    fn start(out: PathBuf, mut command: Command) -> Self {
        let file = fs::File::create(&out).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).process_group(0).spawn().unwrap();
        Self { child, out }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    /// Waits for what is to be seen first; not for longer than the program runs.
    fn until(&mut self, what: &str, mut is_there: impl FnMut(&str) -> bool) {
        wait_for(what, LIMIT, || {
            let said = self.said();
            assert!(self.child.try_wait().unwrap().is_none(), "it ended before {what}:\n{said}");
            is_there(&said).then_some(())
        });
    }

    /// As ctrl-C does: to the whole group. Gives exit code and output.
    fn signal(mut self, signal: Signal) -> (Option<i32>, String) {
        killpg(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        let status = wait_for("its end", LIMIT, || self.child.try_wait().unwrap());
        assert_eq!(status.signal(), None, "{}", self.said());
        (status.code(), self.said())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder for one fleet, which is ended with it however the test goes.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap())
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("fleet")
    }

    fn lota(&self, args: &[&str]) -> Command {
        // A test runner in the background has its children ignore some signals.
        let inner = lota(args);
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("LOTA_HOME", self.home());
        command
    }

    fn start(&self, args: &[&str]) -> Beside {
        Beside::start(self.0.path().join("out"), self.lota(args))
    }

    fn nothing_is_left(&self, said: &str) {
        assert_eq!(processes_naming(&self.home().to_string_lossy()), Vec::<i32>::new(), "still running after:\n{said}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = lota(&["down", "--apps"]).env("LOTA_HOME", self.home()).output();
    }
}

/// Runs it to its end; gives what it said.
fn ends_with(code: i32, command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", text(&output));
    text(&output)
}

/// What the broker's record says that runs: none, epmd, or the node.
fn broker_process(home: &Path, which: &str) -> bool {
    let record = fs::read(home.join("broker/node.json")).unwrap_or_default();
    serde_json::from_slice(&record).is_ok_and(|record: serde_json::Value| record[which].is_object())
}

#[test]
fn a_start_that_is_stopped_leaves_nothing() {
    let place = Place::new();
    let home = place.home();
    for (args, signal, moment) in [
        (&["up"][..], Signal::SIGHUP, "epmd"),
        (&["up"], Signal::SIGINT, "process"),
        (&["up", "--detach"], Signal::SIGINT, "process"),
        (&["up"], Signal::SIGTERM, "bots"),
        (&["up", "--detach"], Signal::SIGTERM, "bots"),
    ] {
        let mut up = place.start(args);
        up.until(moment, |_| {
            if moment == "bots" { home.join("pids.json").exists() } else { broker_process(&home, moment) }
        });
        let (code, said) = up.signal(signal);
        assert_eq!(code, Some(128 + signal as i32), "{args:?} {moment}: {said}");
        assert!(said.contains("before the fleet was ready"), "{said}");
        place.nothing_is_left(&said);
    }
}

#[test]
fn a_start_that_fails_leaves_nothing_and_its_exit_code_says_why() {
    let place = Place::new();
    let home = place.home();
    fs::create_dir_all(home.join("config")).unwrap();
    fs::write(home.join("config/monitor-bot.yaml"), "listen: [nonsense]\n").unwrap();
    let said = ends_with(78, &mut place.lota(&["up", "--detach"]));
    assert!(said.contains("monitor-bot does not start"), "{said}");
    place.nothing_is_left(&said);

    ends_with(64, &mut place.lota(&["up", "--monitor", "nowhere"]));
    ends_with(64, &mut place.lota(&["upp"]));
    ends_with(78, place.lota(&["up"]).env("LOTA_BROKER", "nonsense"));
    ends_with(78, place.lota(&["up"]).env("LOTA_CACHE", "").env("HOME", "").env("LOTA_BROKER", "packages"));
    let named = |url: &str, code| ends_with(code, place.lota(&["up", "--detach"]).env("LOTA_BROKER_URL", url));
    for (url, code) in [("amqp://admin:hunter2/@127.0.0.1", 78), ("amqp://admin:hunter2@127.0.0.1:1", 69)] {
        let management = "http://127.0.0.1:1";
        let mut up = place.lota(&["up"]);
        let said = ends_with(code, up.env("LOTA_BROKER_URL", url).env("LOTA_BROKER_MANAGEMENT_URL", management));
        assert!(!said.contains("hunter2"), "{said}");
    }
    let said = named("amqp://hunter2@127.0.0.1", 78);
    assert!(said.contains("the password is missing") && !said.contains("hunter2"), "{said}");
    place.nothing_is_left(&said);
}

#[test]
fn one_home_is_one_fleet() {
    let place = Place::new();
    let home = place.home();
    let mut first = place.start(&["up"]);
    first.until("the broker's start", |_| broker_process(&home, "epmd"));
    let pid = first.child.id().to_string();
    for args in [&["up"][..], &["up", "--detach"]] {
        let said = ends_with(75, &mut place.lota(args));
        assert!(said.contains(&format!("process {pid}")) && said.contains("down"), "{said}");
    }
    // Although it has not come to write down how it is reached.
    let said = ends_with(0, &mut place.lota(&["down"]));
    assert!(said.contains("the bots are stopped"), "{said}");
    let status = first.child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 15), "{}", first.said());
    place.nothing_is_left(&said);
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing() {
    // While the broker boots, while the application is built, and when it is served.
    for (signal, moment) in
        [(Signal::SIGHUP, "broker: "), (Signal::SIGINT, "build.started"), (Signal::SIGTERM, "GET http")]
    {
        let place = Place::new();
        // Its folder is its own; the other variable says whose it is should it stay.
        let mut command = place.lota(&["demo"]);
        command.env("TMPDIR", place.0.path());
        let mut demo = Beside::start(place.0.path().join("out"), command);
        demo.until(moment, |said| {
            said.contains("a fleet in") && said.rsplit("a fleet in").next().unwrap().contains(moment)
        });
        let (code, said) = demo.signal(signal);
        assert_eq!(code, Some(128 + signal as i32), "{said}");
        let folder = place.0.path().to_string_lossy().into_owned();
        assert_eq!(processes_naming(&folder), Vec::<i32>::new(), "still running after:\n{said}");
        let left: Vec<_> = fs::read_dir(place.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["out"], "{said}");
    }
}
