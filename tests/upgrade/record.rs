//! Records this release, for those to come.
use std::{fs, process::Command, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{Fleet, Repository, succeeds, wait_for};

use crate::release::{BOTS, FOLDERS, Pushes, Queued, Release, folder, pack};

const LIMIT: Duration = Duration::from_secs(60);
const PIPELINE: &str = r#"version: 1
build:
  steps: [{name: slow, run: 'sleep 3; date > built'}]
  artifacts: [built, site/**]
test:
  suites:
    look:
      run: grep hello site/index.html && printf '<testsuite name="look"><testcase name="hello" time="0.1"/></testsuite>' > look.xml
      reports: [look.xml]
deploy:
  local:
    serve: {run: 'exec python3 -m http.server --bind 127.0.0.1 --directory site $PORT'}
    health: {path: /, deadline: 40s}
"#;

#[test]
#[ignore = "writes tests/upgrade/VERSION: make upgrade-record"]
fn this_release_is_recorded() {
    let fleet = Fleet::start();
    let files = [(".lotabots.yaml", PIPELINE), ("site/index.html", "hello 1\n")];
    let repository = Repository::create(&fleet.beside("site"), &files);
    let push = |line: &str| {
        repository.commit(&[("site/index.html", line)]);
        let told = succeeds(&mut fleet.lota(&["push", "--bundle", repository.path.to_str().unwrap()]));
        told.lines().find(|l| l.contains("correlation")).unwrap().split_whitespace().last().unwrap().to_owned()
    };
    let comes_to = |correlation: &str, event_type: &str| {
        wait_for(event_type, LIMIT, || (fleet.said(correlation, event_type) == 1).then_some(()));
    };
    let pause = |bot: &str| succeeds(&mut fleet.lota(&["pause", bot, "--reason", "a release is recorded"]));

    pause("BuildBot");
    let done = push("hello first\n");
    let settled = wait_for("the push in the queue", LIMIT, || queued(&fleet).pop());
    succeeds(&mut fleet.lota(&["resume", "BuildBot"]));
    comes_to(&done, "deploy.completed");
    pause("TestBot");
    pause("DeployBot");
    let built = push("hello second\n");
    comes_to(&built, "build.completed");
    let building = push("hello third\n");
    comes_to(&building, "build.started");
    pause("BuildBot");
    let pushed = push("hello fourth\n");
    let queued = wait_for("what waits", LIMIT, || {
        let queued = queued(&fleet);
        let of = |correlation: &str| queued.iter().any(|m| m.body.contains(correlation));
        (of(&built) && of(&pushed)).then_some(queued)
    });
    assert_eq!(fleet.said(&building, "build.completed"), 0, "too late: the build has ended");

    // As a crash leaves it: nothing is written while it is copied.
    let image = fleet.beside("image");
    fs::create_dir_all(&image).unwrap();
    let all = |signal| BOTS.iter().for_each(|bot| kill(Pid::from_raw(fleet.pid(bot)), signal).unwrap());
    all(Signal::SIGSTOP);
    for part in FOLDERS {
        succeeds(Command::new("cp").arg("-a").arg(fleet.home().join(part)).arg(&image));
    }
    all(Signal::SIGCONT);
    // The monitor keeps nothing.
    fs::remove_dir_all(image.join("bots/monitor-bot")).unwrap();

    succeeds(Command::new("cp").arg("-a").arg(tests::workspace().join("proto-schemas")).arg(&image));

    let to = folder().join(format!("v{}", env!("CARGO_PKG_VERSION")));
    fs::create_dir_all(&to).unwrap();
    pack(&image, &to.join("home.tar.zst"));
    let commit = succeeds(Command::new("git").args(["rev-parse", "HEAD"])).trim().to_owned();
    let pushes = Pushes { done, built, building, pushed };
    let release = Release { commit, pushes, queued, settled };
    fs::write(to.join("release.json"), serde_json::to_string_pretty(&release).unwrap() + "\n").unwrap();
    for bot in BOTS {
        succeeds(&mut fleet.lota(&["resume", bot]));
    }
}

/// What waits for the bots of the main flow.
fn queued(fleet: &Fleet) -> Vec<Queued> {
    let (management, runtime) = (fleet.management(), tokio::runtime::Runtime::new().unwrap());
    let peek = |bot: &str| runtime.block_on(management.peek("lota", &format!("{bot}.work"), 100)).unwrap();
    let all = BOTS.into_iter().flat_map(peek);
    all.map(|got| {
        assert_eq!(got.payload_encoding, "string");
        Queued {
            exchange: got.exchange,
            routing_key: got.routing_key,
            properties: Value::Object(got.properties),
            body: got.payload,
        }
    })
    .collect()
}
