//! A data folder of RabbitMQ 4.0 that goes on in 4.3: what docs/RUNBOOKS.md says of it.

use bot_provision::{Installation, Node, NodeOptions, apply, verify};
use serde_json::json;

use crate::{APPLY, cache_dir, password, tell, topology, until_counted};

fn series(name: &str) -> Installation {
    Installation::of_series(&cache_dir(), name)
        .unwrap_or_else(|| panic!("there is no RabbitMQ {name}: make test-brokers"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ 4.0 and 4.3: make test-brokers"]
async fn a_data_folder_of_4_0_goes_on_in_4_3() {
    let folder = tempfile::tempdir().unwrap();
    let options = |name: &str| {
        let mut options = NodeOptions::new(folder.path().join("node"), series(name));
        options.die_with_parent = true;
        options
    };
    let mut node = Node::start(options("4.0"), &tell).await.unwrap();
    let api = node.management().unwrap();
    apply(&api, &topology(), &password, APPLY).await.unwrap();
    for number in 0..50 {
        let (properties, body) = (json!({"delivery_mode": 2}), format!("message {number}"));
        let published = api.publish("lota", "lota.egress.build-bot", "build.completed", properties, &body);
        assert!(published.await.unwrap());
    }
    until_counted(&api, "test-bot.work", 50).await;
    node.stop().await.unwrap();
    drop(node);

    let node = Node::start(options("4.3"), &tell).await.unwrap();
    let api = node.management().unwrap();
    let version = api.overview().await.unwrap().rabbitmq_version;
    assert!(version.as_ref().is_some_and(|version| version.starts_with("4.3")), "{version:?}");
    assert_eq!(verify(&api, &topology()).await.unwrap(), []);
    until_counted(&api, "test-bot.work", 50).await;
}
