//! A test that fails now and then does not stop a push, is told with it, and is remembered for who asks later.
use std::time::Duration;

use tests::{Fleet, Repository, succeeds, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
const PIPELINE: &str = "version: 1
build: {steps: [{name: make, run: echo built > out}], artifacts: [out]}
test:
  suites:
    shaky: {run: sh shaky.sh}
    steady: {run: \"echo 1..1; echo ok 1 - pings $ECHO_PORT\", services: [{name: echo, run: 'echo up; exec sleep 600', ready: {log: up}}]}
";
const SHAKY: &str = "echo 1..1
if test -e mark; then echo ok 1 - answers; else touch mark; echo not ok 1 - answers; exit 1; fi
";

#[test]
fn a_flaky_test_is_told_and_remembered() {
    let fleet = Fleet::start();
    let repository = Repository::create(&fleet.beside("shop"), &[(".lotabots.yaml", PIPELINE), ("shaky.sh", SHAKY)]);
    tested(&fleet, &repository);
    wait_for("the first run to be remembered", LIMIT, || {
        told(&fleet, &["--flaky"]).contains("1 (100.0 %)").then_some(())
    });
    repository.commit(&[("change", "a second commit\n")]);
    tested(&fleet, &repository);
    wait_for("the second run to be remembered", LIMIT, || {
        told(&fleet, &["--flaky"]).contains("2 (100.0 %)").then_some(())
    });
    let (flaky, all) = (told(&fleet, &["--flaky"]), told(&fleet, &[]));
    assert!(flaky.contains("shaky::answers") && !flaky.contains("steady"), "{flaky}");
    assert!(all.contains("steady::pings"), "{all}");
}

/// Pushes it, and waits until its tests have passed.
fn tested(fleet: &Fleet, repository: &Repository) {
    let correlation = fleet.push(&repository.path);
    wait_for("test.completed", LIMIT, || {
        for failed in ["build.failed", "test.failed"] {
            assert_eq!(fleet.said(&correlation, failed), 0, "{failed}: {:#?}", fleet.messages(&correlation));
        }
        (fleet.said(&correlation, "test.completed") == 1).then_some(())
    });
}

fn told(fleet: &Fleet, more: &[&str]) -> String {
    succeeds(&mut fleet.lota(&[&["tests", "shop"], more].concat()))
}
