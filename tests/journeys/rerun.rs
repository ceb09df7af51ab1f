//! `lota rerun`: each kind of job is done once more by its id, and nothing of it is answered from what was before.
use std::time::Duration;

use serde_json::Value;
use tests::{Fleet, Repository, succeeds, text, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
const PIPELINE: &str = "version: 1
build:
  steps: [{name: page, run: 'mkdir out && cp index.html out/'}]
  artifacts: [out]
test:
  suites: {unit: {run: 'echo 1..1; grep -q hi out/index.html && echo ok 1'}}
deploy:
  local: {}
";

#[test]
fn each_kind_of_job_is_done_once_more() {
    let fleet = Fleet::start();
    let repository = Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", PIPELINE), ("index.html", "hi\n")]);
    let path = repository.path.to_str().unwrap();
    let out = succeeds(&mut fleet.lota(&["push", path, "--follow"]));
    let correlation = correlation(&out);
    assert!(!out.contains("was built before"), "{out}");

    for (kind, stages) in
        [("build", ["build", "test", "deploy"].as_slice()), ("test", &["test", "deploy"]), ("deploy", &["deploy"])]
    {
        let job = job(&fleet, &correlation, kind);
        let out = succeeds(&mut fleet.lota(&["rerun", &job[..23], "--follow"]));
        assert!(out.contains(&format!("does again what job {job} did in {correlation}")), "{out}");
        let again = self::correlation(&out);
        wait_for("the end in the monitor", LIMIT, || (fleet.said(&again, "deploy.completed") == 1).then_some(()));
        for stage in ["build", "test", "deploy"] {
            let said = fleet.said(&again, &format!("{stage}.completed"));
            assert_eq!(said, usize::from(stages.contains(&stage)), "{stage} after {kind}: {out}");
        }
        assert!(!out.contains("was built before"), "{out}");
        let shown = succeeds(&mut fleet.lota(&["show", &again]));
        assert!(shown.contains("control.rerun") && shown.contains(&correlation), "{shown}");
    }
    // What was pushed once is known; who says so wants it built all the same.
    let cached = |arguments: &[&str]| {
        let out = succeeds(&mut fleet.lota(&[&["push", path, "--follow"], arguments].concat()));
        out.contains("was built before")
    };
    assert_eq!((cached(&[]), cached(&["--no-cache"])), (true, false));

    // The bot knows its jobs by itself, and says so when it does not.
    let build = job(&fleet, &correlation, "build");
    let out = fleet.lota(&["rerun", &build, "--bot", "TestBot"]).output().unwrap();
    assert!(!out.status.success() && text(&out).contains(&format!("no job {build} is known here")), "{}", text(&out));
    let out = fleet.lota(&["rerun", "0198c5d2-7b3a"]).output().unwrap();
    assert!(!out.status.success() && text(&out).contains("--bot"), "{}", text(&out));
    succeeds(&mut fleet.lota(&["rerun", &build, "--bot", "BuildBot"]));
}

fn job(fleet: &Fleet, correlation: &str, kind: &str) -> String {
    let jobs = fleet.monitor("/api/v1/jobs");
    let jobs = jobs["jobs"].as_array().unwrap();
    let is_it = |j: &&Value| j["correlation"] == correlation && j["kind"] == kind;
    jobs.iter().find(is_it).unwrap()["id"].as_str().unwrap().to_owned()
}

fn correlation(out: &str) -> String {
    let line = out.lines().find(|l| l.contains("correlation")).unwrap_or_else(|| panic!("no correlation in: {out}"));
    line.split_whitespace().last().unwrap().to_owned()
}
