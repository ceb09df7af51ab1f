//! People steer a bot: it pauses without losing what comes meanwhile, goes on when told, and stops a job that is cancelled.
use std::time::Duration;

use tests::{Fleet, Repository, succeeds, wait_for};

const LIMIT: Duration = Duration::from_secs(30);
const PIPELINE: &str = "version: 1
build:
  steps: [{name: wait, run: 'sleep 600'}]
  artifacts: [index.html]
";

#[test]
fn a_paused_bot_loses_nothing_and_a_cancelled_job_says_so_once() {
    let fleet = Fleet::start();
    let repository = Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", PIPELINE), ("index.html", "hi\n")]);
    succeeds(&mut fleet.lota(&["pause", "BuildBot", "--reason", "a look at its disk"]));
    let correlation = fleet.push(&repository.path);
    wait_for("the push to be seen", LIMIT, || (fleet.said(&correlation, "repository.pushed") == 1).then_some(()));
    let probed = succeeds(&mut fleet.lota(&["probe", "BuildBot"]));
    assert!(probed.contains("paused") && probed.contains("a look at its disk"), "{probed}");
    assert_eq!(fleet.said(&correlation, "build.started"), 0, "it worked while it was paused");

    succeeds(&mut fleet.lota(&["resume", "BuildBot"]));
    wait_for("the build to begin", LIMIT, || (fleet.said(&correlation, "build.started") == 1).then_some(()));
    let jobs = fleet.monitor("/api/v1/jobs");
    let job = jobs["jobs"].as_array().unwrap().iter().find(|j| j["correlation"] == correlation.as_str()).unwrap();
    succeeds(&mut fleet.lota(&["cancel", "BuildBot", job["id"].as_str().unwrap(), "--reason", "not this one"]));
    wait_for("the end of the build", LIMIT, || (fleet.said(&correlation, "build.failed") == 1).then_some(()));
    let jobs = fleet.monitor("/api/v1/jobs");
    let job = jobs["jobs"].as_array().unwrap().iter().find(|j| j["correlation"] == correlation.as_str()).unwrap();
    assert_eq!(job["reason"], "cancelled", "{job:#}");
    assert_eq!(fleet.said(&correlation, "build.completed"), 0);
}
