//! Bots killed with -9 in the middle of their work: each job still ends once, and nothing of it is done twice.
use std::{fs, path::Path, time::Duration};

use tests::{Fleet, Repository, get, processes_naming, wait_for};

const PIPELINE: &str = "version: 1
build:
  steps:
    - {name: slow, run: 'echo begun; touch begun; sleep 4; echo $$ > built'}
  artifacts: [built, site/**]
test:
  suites: {}
deploy:
  local:
    serve: {run: 'sleep 3; exec python3 -m http.server --bind 127.0.0.1 --directory site $PORT'}
    health: {path: /, deadline: 40s}
";

/// Ticks since boot at which a process was started.
fn started(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok()).unwrap_or(u64::MAX)
}

fn journals(dir: &Path, out: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if entry.file_name() != "releases" {
                journals(&entry.path(), out);
            }
        } else if entry.file_name() == "journal.jsonl" {
            out.push(fs::read_to_string(entry.path()).unwrap());
        }
    }
}

#[test]
fn each_job_ends_once_when_its_bot_is_killed_in_the_middle() {
    assert!(
        std::process::Command::new("python3").arg("--version").output().is_ok(),
        "python3 is missing: apt-get install -y python3"
    );
    let fleet = Fleet::start();
    let repository =
        Repository::create(&fleet.beside("site"), &[(".lotabots.yaml", PIPELINE), ("site/index.html", "hello\n")]);
    let correlation = fleet.push(&repository.path);

    wait_for("the build to begin", Duration::from_secs(30), || {
        (fleet.said(&correlation, "build.started") > 0).then_some(())
    });
    let (_, builder) = fleet.kill("build-bot");
    let workspace = fleet.home().join("bots/build-bot").to_string_lossy().into_owned();
    let older: Vec<i32> =
        processes_naming(&workspace).into_iter().filter(|p| *p != builder && started(*p) < started(builder)).collect();
    let builders = |p: &i32| fs::read_to_string(format!("/proc/{p}/comm")).is_ok_and(|c| c.trim() == "lota");
    let older: Vec<i32> = older.into_iter().filter(|p| !builders(p)).collect();
    assert_eq!(older, Vec::<i32>::new(), "of the killed BuildBot");

    wait_for("the deployment to begin", Duration::from_secs(90), || {
        (fleet.said(&correlation, "deploy.started") > 0).then_some(())
    });
    fleet.kill("deploy-bot");
    wait_for("the end", Duration::from_secs(120), || (fleet.said(&correlation, "deploy.completed") > 0).then_some(()));

    for terminal in ["build.completed", "test.completed", "deploy.completed"] {
        assert_eq!(fleet.said(&correlation, terminal), 1, "{terminal}: {:#?}", fleet.messages(&correlation));
    }
    for never in ["build.failed", "test.failed", "deploy.failed"] {
        assert_eq!(fleet.said(&correlation, never), 0, "{never}: {:#?}", fleet.messages(&correlation));
    }
    let mut lines = Vec::new();
    journals(&fleet.home().join("bots/deploy-bot"), &mut lines);
    assert_eq!(lines.iter().map(|j| j.lines().count()).sum::<usize>(), 1, "one switch: {lines:?}");
    let applications = fleet.monitor("/api/v1/applications");
    let list = applications.get("applications").unwrap_or(&applications).as_array().unwrap().clone();
    let (status, body) = get(list[0]["url"].as_str().unwrap());
    assert_eq!((status, body.trim()), (200, "hello"));
}
