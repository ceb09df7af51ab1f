//! A commit is built that nobody pushed to the fleet: BuildBot's own schedule found it, and what it says to itself is heard.
use std::{fs, time::Duration};

use tests::{Fleet, Repository, wait_for};

/// A minute until the clock strikes, and the build.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_commit_that_a_poll_finds_is_built_and_tested() {
    let fleet = Fleet::start();
    let repository = Repository::create(&fleet.beside("shop"), &[("index.html", "hello\n")]);
    let file = fleet.home().join("config/build-bot.yaml");
    let trigger = format!(
        "triggers:\n  - {{type: schedule, name: poll, cron: '* * * * *', data: {{url: '{}', ref: refs/heads/main, only: changed}}}}\n",
        repository.path.display()
    );
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("triggers:\n", &trigger, 1)).unwrap();
    fleet.kill("build-bot");
    let correlation = wait_for("a push that the poll found", LIMIT, || {
        let pushes = fleet.monitor("/api/v1/correlations?type=repository.pushed");
        pushes["correlations"].as_array()?.first()?["id"].as_str().map(str::to_owned)
    });
    wait_for("its tests to pass", LIMIT, || {
        for failed in ["build.failed", "test.failed", "message.dead_lettered"] {
            assert_eq!(fleet.said(&correlation, failed), 0, "{failed}: {:#?}", fleet.messages(&correlation));
        }
        (fleet.said(&correlation, "build.completed") == 1 && fleet.said(&correlation, "test.completed") == 1)
            .then_some(())
    });
    let messages = fleet.messages(&correlation);
    let push: Vec<_> = messages.iter().filter(|m| m["type"] == "repository.pushed").collect();
    assert!(push.len() == 1 && push[0]["source"] == "BuildBot", "{messages:#?}");
}
