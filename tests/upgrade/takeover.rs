//! A fleet of today on what an older one left.
use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use tests::{Fleet, get, succeeds, wait_for};

use crate::release::{BOTS, Queued, Release, releases, unpack};

const LIMIT: Duration = Duration::from_secs(90);

fn publish(fleet: &Fleet, message: &Queued) {
    let (management, runtime) = (fleet.management(), tokio::runtime::Runtime::new().unwrap());
    let (exchange, key, properties) = (&message.exchange, &message.routing_key, message.properties.clone());
    let routed = runtime.block_on(management.publish("lota", exchange, key, properties, &message.body)).unwrap();
    assert!(routed, "{exchange} leads {key} nowhere");
}

fn in_queue(fleet: &Fleet, bot: &str) -> usize {
    let (management, runtime) = (fleet.management(), tokio::runtime::Runtime::new().unwrap());
    runtime.block_on(management.peek("lota", &format!("{bot}.work"), 100)).unwrap().len()
}

fn take_over(version: &str, path: &Path) {
    let release = Release::read(path);
    let fleet = Fleet::start_in(|home| unpack(&path.join("home.tar.zst"), home));
    for bot in BOTS {
        let told = succeeds(&mut fleet.lota(&["probe", bot]));
        assert!(told.contains("a release is recorded"), "{bot} forgot that {version} paused it: {told}");
    }
    for message in &release.queued {
        publish(&fleet, message);
    }
    publish(&fleet, &release.settled);
    wait_for("the messages in the queues", LIMIT, || {
        let waiting: usize = BOTS.iter().map(|bot| in_queue(&fleet, bot)).sum();
        (waiting > release.queued.len()).then_some(())
    });
    for bot in BOTS {
        succeeds(&mut fleet.lota(&["resume", bot]));
    }

    let pushes = &release.pushes;
    for (correlation, from) in [(&pushes.built, 1), (&pushes.building, 0), (&pushes.pushed, 0)] {
        for terminal in &["build.completed", "test.completed"][from..] {
            wait_for(&format!("{terminal} of {correlation}"), LIMIT, || {
                (fleet.said(correlation, terminal) == 1).then_some(())
            });
        }
    }
    // One that comes later than its successor is refused by the numbers that the older BuildBot gave.
    wait_for("the last push at its place", LIMIT, || {
        (fleet.said(&pushes.pushed, "deploy.completed") == 1).then_some(())
    });
    let applications = fleet.monitor("/api/v1/applications");
    let list = applications.get("applications").unwrap_or(&applications).as_array().unwrap().clone();
    let (status, body) = get(list[0]["url"].as_str().unwrap());
    assert_eq!((status, body.trim()), (200, "hello fourth"));

    // Of the one that was built, the end is the message that waited.
    for (correlation, ends) in [(&pushes.done, 0), (&pushes.built, 1), (&pushes.building, 1), (&pushes.pushed, 1)] {
        assert_eq!(fleet.said(correlation, "build.completed"), ends, "builds of {correlation}");
        let messages = fleet.messages(correlation);
        let failed = messages.iter().filter(|m| m["type"].as_str().unwrap().ends_with(".failed"));
        let overtaken = |m: &&Value| m["summary"].as_str().unwrap().contains("a later push");
        assert_eq!(failed.filter(|m| !overtaken(m)).count(), 0, "{messages:#?}");
    }
    let told = succeeds(&mut fleet.lota(&["history", "local", "--json"]));
    let history: Value = serde_json::from_str(&told).unwrap();
    let first = history["attempts"].as_array().unwrap().last().unwrap();
    assert_eq!((&first["number"], &first["state"]), (&1.into(), &"succeeded".into()), "{history:#}");
    let letters = succeeds(&mut fleet.lota(&["dlq", "list", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&letters).unwrap(), json!([]), "nothing is a dead letter");
}

#[test]
fn a_fleet_goes_on_with_what_an_older_one_left() {
    for (version, path) in releases() {
        eprintln!("taking over {version}");
        assert!(path.join("release.json").exists(), "{version} is recorded by halves");
        take_over(&version, &path);
    }
    let recorded = format!("v{}", env!("CARGO_PKG_VERSION"));
    assert!(
        fs::exists(crate::release::folder().join(&recorded)).unwrap(),
        "{recorded} is not recorded: make upgrade-record"
    );
}
