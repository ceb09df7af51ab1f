//! One bot beside an existing CI, then a second one: what docs/DEPLOYMENT.md says of it, as that page says it. No `lota up`, and
//! each bot as if on a machine of its own: it is given its own password, the configuration, and where broker and objects are.
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bot_provision::{Node, NodeOptions};
use serde_json::{Value, json};
use tests::{Repository, lota, program, succeeds};

use crate::plain_client::{drive, now};

const LIMIT: Duration = Duration::from_secs(90);
/// The CI's webhook says what was pushed, and hears all that came of it.
const PUBLISHERS: &str = "publishers:
  - name: ci
    says: [repository.pushed]
    hears_all: true
    repositories: [\"/**\"]
";
const PIPELINE: &str = "version: 1
build: {steps: [{name: copy, run: cp number out}], artifacts: [out]}
test: {suites: {unit: {run: \"test -s out && printf '1..1\\\\nok 1 - copied\\\\n'\"}}}
";

/// A bot's process; ended with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// On a machine of its own: of the provisioned home it has one password and the configuration.
fn start(bot: &str, fleet: &Path, machine: &Path, amqp_url: &str) -> Running {
    fs::create_dir_all(machine).unwrap();
    fs::copy(fleet.join(format!("secrets/{bot}.password")), machine.join("password")).unwrap();
    succeeds(Command::new("cp").arg("-a").arg(fleet.join("config")).arg(machine.join("config")));
    let log = fs::File::create(machine.join("log")).unwrap();
    let mut command = Command::new(program(bot));
    command
        .env("LOTA_AMQP_URL", amqp_url)
        .env("LOTA_AMQP_PASSWORD_FILE", machine.join("password"))
        .env("LOTA_CONFIG_DIR", machine.join("config"))
        .env("LOTA_DATA_DIR", machine.join("data"))
        .env("LOTA_OBJECTS", fleet.with_file_name("objects"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    Running(command.spawn().unwrap())
}

#[test]
fn build_bot_is_useful_alone_and_test_bot_joins_it_later() {
    let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
    let fleet = dir.path().join("fleet");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = runtime.block_on(async {
        let mut options = NodeOptions::new(dir.path().join("node"), tests::installation().await);
        options.die_with_parent = true;
        Node::start(options, &tests::say).await.unwrap()
    });
    let amqp_url = format!("amqp://127.0.0.1:{}/lota", node.amqp_port());
    fs::write(dir.path().join("admin.password"), node.admin_password().expose()).unwrap();
    fs::create_dir_all(fleet.join("config")).unwrap();
    fs::write(fleet.join("config/publishers.yaml"), PUBLISHERS).unwrap();
    let home = fleet.to_str().unwrap();
    succeeds(
        lota(&["--home", home, "provision"])
            .env("LOTA_BROKER_URL", format!("amqp://{}@127.0.0.1:{}", node.admin(), node.amqp_port()))
            .env("LOTA_BROKER_MANAGEMENT_URL", node.management_url())
            .env("LOTA_BROKER_PASSWORD_FILE", dir.path().join("admin.password")),
    );
    let connection: BTreeMap<String, String> =
        serde_json::from_str(&succeeds(&mut lota(&["--home", home, "connection", "--as", "ci", "--json"]))).unwrap();

    let repository = Repository::create(&dir.path().join("shop"), &[(".lotabots.yaml", PIPELINE), ("number", "1\n")]);
    let pushed = |id: &str, number: &str| -> Value {
        let commit = repository.commit(&[("number", number)]);
        json!({
            "id": id, "timestamp": now(), "source": connection["LOTA_SOURCE"], "destination": "*",
            "type": "repository.pushed", "correlation_id": id, "payload": {"data":
            {"repository": "shop", "url": repository.path, "ref": "refs/heads/main", "commit": commit}},
        })
    };
    let hears = |said: Option<&Value>, about: &Value, ends: &[&str]| -> Vec<String> {
        let driven = drive(&connection, said, about, ends);
        runtime
            .block_on(async { tokio::time::timeout(LIMIT, driven).await })
            .unwrap_or_else(|_| panic!("waited {LIMIT:?} for one of {ends:?}"))
    };

    let _build_bot = start("build-bot", &fleet, &dir.path().join("one"), &amqp_url);
    let first = pushed("first", "2\n");
    let heard = hears(Some(&first), &first, &["build.completed", "build.failed"]);
    assert_eq!(heard, ["repository.pushed", "build.started", "build.completed"], "{}", log(&dir.path().join("one")));

    // What nobody heard meanwhile has waited.
    let _test_bot = start("test-bot", &fleet, &dir.path().join("two"), &amqp_url);
    let heard = hears(None, &first, &["test.completed", "test.failed"]);
    assert_eq!(heard, ["test.started", "test.completed"], "{}", log(&dir.path().join("two")));
    let second = pushed("second", "3\n");
    let heard = hears(Some(&second), &second, &["test.completed", "test.failed", "build.failed"]);
    let wanted = ["repository.pushed", "build.started", "build.completed", "test.started", "test.completed"];
    assert_eq!(heard, wanted);
    for (machine, other) in [("one", "test-bot"), ("two", "build-bot")] {
        let files = succeeds(Command::new("find").arg(dir.path().join(machine)));
        assert!(!files.contains(&format!("{other}.password")), "{machine} holds another's password: {files}");
    }
}

fn log(machine: &Path) -> String {
    fs::read_to_string(machine.join("log")).unwrap_or_default()
}
