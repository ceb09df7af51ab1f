//! What the supervisor cannot write ends nothing: it is told once, and the fleet goes on.
use std::{
    fs::{self, File},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{Fleet, lota, processes_naming, wait_for};

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn a_supervisor_that_cannot_write_goes_on() {
    let fleet = Fleet::start();
    let (deploy, test) = (fleet.pid("deploy-bot"), fleet.pid("test-bot"));
    // Folders in the place of files are what cannot be written, by root neither.
    let (pids, log) = (fleet.home().join("pids.json"), fleet.home().join("logs/deploy-bot.log"));
    for file in [&pids, &log] {
        fs::remove_file(file).unwrap();
        fs::create_dir_all(file.join("in-the-way")).unwrap();
    }
    for pid in [deploy, test] {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    let answers = |bot: &str| fleet.lota(&["probe", bot]).output().ok().filter(|output| output.status.success());
    wait_for("TestBot to answer", LIMIT, || answers("TestBot"));
    let said = || fs::read_to_string(fleet.home().join("logs/supervisor.log")).unwrap();
    // It is tried again with growing pauses, and told once.
    wait_for("the words", LIMIT, || said().contains("deploy-bot was to start again").then_some(()));
    fs::remove_dir_all(&log).unwrap();
    wait_for("DeployBot to answer", LIMIT, || answers("DeployBot"));
    let said = said();
    assert_eq!(said.matches("the fleet goes on").count(), 2, "{said}");
    assert_eq!(said.matches("pids.json").count(), 1, "{said}");
    fs::remove_dir_all(&pids).unwrap();
}

#[test]
fn a_supervisor_whose_output_goes_nowhere_goes_on() {
    let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
    let home = dir.path().join("fleet");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut up = lota(&["up"]).env("LOTA_HOME", &home).stdout(full.try_clone().unwrap()).stderr(full).spawn().unwrap();
    let ready = wait_for("the fleet to be ready or ended", LIMIT, || {
        if home.join("ready").exists() { Some(true) } else { up.try_wait().unwrap().map(|_| false) }
    });
    kill(Pid::from_raw(up.id().cast_signed()), Signal::SIGTERM).unwrap();
    let status = up.wait().unwrap();
    assert!(ready && status.success(), "{status}");
    assert_eq!(processes_naming(&home.to_string_lossy()), Vec::<i32>::new());
}
