//! A message that waits in a retry queue comes back through the broker and is handled with its publisher and attempt.
use std::time::Duration;

use serde_json::json;
use tests::{Fleet, succeeds, wait_for};

#[test]
fn a_message_comes_back_from_its_retry_queue() {
    let fleet = Fleet::start();
    let now = succeeds(std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).trim().to_owned();
    let message = |id: &str, source: &str| {
        json!({
            "id": id, "timestamp": now, "source": source, "destination": "*", "type": "repository.pushed", "correlation_id": id,
            "payload": {"data": {"repository": "r", "url": "https://git.example.org/r.git", "ref": "refs/heads/main", "commit": "a".repeat(40)}},
        })
    };
    // As BuildBot itself would put it there after a first attempt; the second claims another source than its publisher.
    let properties =
        json!({"headers": {"x-lota-publisher": "outside", "x-lota-attempt": 2, "x-death": "old"}, "delivery_mode": 2});
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let management = fleet.management();
    for (id, source) in [("waited-1", "outside"), ("waited-2", "BuildBot")] {
        let body = message(id, source).to_string();
        let key = "retry.build-bot.5s";
        let routed = runtime
            .block_on(management.publish("lota", "lota.egress.build-bot", key, properties.clone(), &body))
            .unwrap();
        assert!(routed, "no retry queue is bound to {key}");
    }
    wait_for("the first to be handled", Duration::from_secs(30), || {
        (fleet.said("waited-1", "build.failed") == 1).then_some(())
    });
    let letters = wait_for("the second among the dead letters", Duration::from_secs(30), || {
        let letters = runtime.block_on(management.peek("lota", "build-bot.dead", 10)).unwrap();
        (!letters.is_empty()).then_some(letters)
    });
    assert_eq!(letters.len(), 1, "{letters:#?}");
    let headers = &letters[0].properties["headers"];
    assert_eq!(
        (headers["x-lota-error-code"].as_str(), headers["x-death"].as_str()),
        (Some("PERMISSION_DENIED"), None),
        "{headers}"
    );
    assert!(letters[0].payload.contains("waited-2"), "{letters:#?}");
}
