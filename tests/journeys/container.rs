//! A fleet whose broker is a container: it works, its broker is started again when it dies, and nothing is left of it.
use std::{process::Command, time::Duration};

use tests::{Fleet, succeeds, wait_for};

#[test]
#[ignore = "needs docker or podman: make test-containers"]
fn a_fleet_lives_on_a_broker_in_a_container() {
    let fleet = Fleet::start_with(&[("LOTA_BROKER", "container")]);
    let record = std::fs::read(fleet.home().join("broker/container/container.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let program = record["engine"]["program"].as_str().unwrap().to_owned();
    let dir = fleet.home().join("broker/container").canonicalize().unwrap();
    let filter = format!("label=lotabots.broker={}", dir.display());
    let ids = || {
        let listed = succeeds(Command::new(&program).args(["ps", "--all", "--quiet", "--filter", &filter]));
        listed.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = ids();
    assert_eq!(before.len(), 1);
    succeeds(&mut fleet.lota(&["probe", "BuildBot"]));

    succeeds(Command::new(&program).args(["kill", &before[0]]));
    wait_for("another container", Duration::from_secs(60), || ids().first().filter(|id| **id != before[0]).cloned());
    wait_for("BuildBot to answer", Duration::from_secs(60), || {
        fleet.lota(&["probe", "BuildBot"]).output().ok().filter(|output| output.status.success())
    });
    succeeds(&mut fleet.lota(&["topology", "verify"]));

    // Without being told: what is queued lies there.
    succeeds(&mut fleet.lota(&["down"]));
    assert_eq!(ids(), Vec::<String>::new());
    succeeds(&mut fleet.lota(&["up", "--detach"]));
    assert_eq!(ids().len(), 1);
    succeeds(&mut fleet.lota(&["down"]));
    assert_eq!(ids(), Vec::<String>::new());
}
