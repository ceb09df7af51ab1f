//! Suites with services: real ones, started, waited for and ended by the real sandbox.
#![allow(clippy::disallowed_methods, reason = "the tests read where bubblewrap is")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken assumption ends the test")]
use std::path::PathBuf;

use bot_clients::{ArchiveLimits, Kind, Objects, list_tree, pack};
use bot_core::{Bot, Effect, Job, Tools};
use bot_messages::{Code, Event, ObjectRef, build::BuildCompleted};
use bot_test::JobRecord;
use serde_json::Value;
use tempfile::TempDir;
use test_bot::{Config, TestBot, TestJob};

/// A bot, behind walls or without.
struct Bench {
    dir: TempDir,
    objects: Objects,
    bot: TestBot,
}

/// What a run of one suite came to.
struct Told {
    event_type: &'static str,
    data: Value,
    lines: Vec<String>,
}

impl Told {
    fn error(&self) -> &str {
        self.data["error"]["message"].as_str().unwrap_or_default()
    }

    fn is_logged(&self, line: &str) -> bool {
        self.lines.iter().any(|l| l == line)
    }

    fn passed(&self) {
        assert_eq!(self.event_type, "test.completed", "{:#}\n{}", self.data, self.lines.join("\n"));
    }
}

impl Bench {
    /// One with walls, where a bubblewrap is named; and one without any.
    fn both() -> Vec<Self> {
        let named = std::env::var_os("LOTA_TEST_BWRAP").map(PathBuf::from);
        named.map(|bwrap| Self::new(Some(bwrap))).into_iter().chain([Self::new(None)]).collect()
    }

    fn new(bwrap: Option<PathBuf>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut tools = Tools::default();
        tools.dir = dir.path().join("bot");
        tools.objects = dir.path().join("objects").to_string_lossy().into_owned();
        tools.path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into();
        tools.bwrap = bwrap;
        let objects = Objects::open(&tools.objects).unwrap();
        let bot = TestBot::new(Config { allow_weak_sandbox: true, ..Config::default() }, tools).unwrap();
        Self { dir, objects, bot }
    }

    async fn archive(&self, name: &str, text: &str) -> ObjectRef {
        let tree = tempfile::tempdir_in(self.dir.path()).unwrap();
        std::fs::write(tree.path().join(name), text).unwrap();
        let to = self.dir.path().join("packed");
        let limits = ArchiveLimits { entries_max: 100, bytes_max: 1 << 20 };
        pack(tree.path(), &list_tree(tree.path(), 100).unwrap(), &to, &limits).unwrap();
        self.objects.put_file(&to, Kind::Artifact, "application/zstd").await.unwrap()
    }

    /// Runs the suite `unit` of this YAML.
    async fn run(&self, suite: &str) -> Told {
        let pipeline = format!("version: 1\ntest:\n  suites:\n    unit:\n{suite}");
        let build = BuildCompleted::example();
        let job = TestJob {
            revision: build.revision,
            artifact: self.archive("app", "built").await,
            source: self.archive(".lotabots.yaml", &pipeline).await,
            keep: None,
            deploy: build.deploy,
            covered_before: None,
        };
        let record = JobRecord::new();
        let effects = job.run(&self.bot, &record.cx()).await.unwrap();
        let [Effect::Say { event_type, data, .. }, ..] = effects.list.as_slice() else { panic!("{effects:?}") };
        Told { event_type, data: data.clone(), lines: record.lines() }
    }
}

#[tokio::test]
async fn a_web_server_answers_before_the_suite_begins_and_is_gone_after() {
    for bench in Bench::both() {
        let suite = r#"
      run: |
        test "$(exec 3<>/dev/tcp/127.0.0.1/$WEB_1_PORT; printf 'GET /page HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3)" = "hello from $GREETING"
        printf '1..1\nok 1 - reaches %s\n' "${WEB_1_PORT:+the server}"
      env: {GREETING: docs}
      services:
        - name: web-1
          run: cd "$DATA"; test -z "$(ls)"; echo "hello from $WHO" > page; exec python3 -u -m http.server --bind 127.0.0.1 "$PORT"
          ready: {http: /page, within: 30s}
          env: {WHO: docs}
"#;
        let told = bench.run(suite).await;
        told.passed();
        assert!(
            told.lines.iter().any(|l| l.starts_with("[unit/web-1] ") && l.contains("GET /page")),
            "{:?}",
            told.lines
        );
        assert!(told.is_logged("[unit] ok 1 - reaches the server"), "{:?}", told.lines);
    }
}

#[tokio::test]
async fn services_start_in_order_and_know_those_before_them() {
    for bench in Bench::both() {
        let told = bench
            .run(
                r#"
      run: printf '1..1\nok 1 - %s\n' "$FIRST_PORT $SECOND_PORT"; echo "$FIRST_PORT" >&2; test "$FIRST_PORT" != "$SECOND_PORT"
      services:
        - {name: first, run: "echo started on $PORT; exec sleep 600", ready: {log: started on}}
        - {name: second, run: "echo first is at $FIRST_PORT; exec python3 -m http.server --bind 127.0.0.1 $PORT", ready: {tcp: $PORT}}
"#,
            )
            .await;
        told.passed();
        let begins = |part: &str| told.lines.iter().position(|l| l.starts_with(part)).unwrap();
        assert!(begins("[unit/first] started on 2") < begins("[unit/second] first is at 2"));
        assert!(begins("[unit/second] first is at 2") < begins("[unit] ok 1 - 2"));
    }
}

#[tokio::test]
async fn what_a_service_prints_is_no_result_and_the_commands_status_is_the_suites() {
    for bench in Bench::both() {
        let told = bench
            .run(
                r#"
      run: exit 7
      services: [{name: db, run: "echo 1..1; echo ok 1 - not mine; exec sleep 600", ready: {log: not mine}}]
"#,
            )
            .await;
        assert_eq!(told.event_type, "test.failed");
        assert!(told.error().contains("exit code 7"), "{}", told.error());
        assert_eq!(told.data["suites"][0]["passed"], 0);
        assert_eq!(told.data["log_tail"], serde_json::json!(["[db] 1..1", "[db] ok 1 - not mine"]));
    }
}

#[tokio::test]
async fn a_service_that_cannot_be_used_is_named_with_its_last_lines() {
    for bench in Bench::both() {
        let passing =
            "run: \"echo 1..1; touch ran; while kill -0 $(cat pid) 2>/dev/null; do sleep 0.02; done; echo ok 1\"";
        for (service, why) in [
            (
                "{name: db, run: \"echo no disk >&2; exit 3\", ready: {tcp: $PORT}}",
                "the service `db` ended with exit code 3 before it was ready; its last lines: no disk",
            ),
            (
                "{name: db, run: \"echo loading; exec sleep 600\", ready: {tcp: $PORT, within: 1s}}",
                "the service `db` was not ready within 1 s; its last lines: loading",
            ),
            (
                "{name: db, run: \"echo $$ > pid; echo up; until test -e ran; do sleep 0.02; done; echo out of memory; exit 9\", ready: {log: up}}",
                "the service `db` ended with exit code 9 while it was needed; its last lines: up | out of memory",
            ),
        ] {
            let told = bench.run(&format!("      {passing}\n      services: [{service}]\n")).await;
            assert_eq!(told.event_type, "test.failed");
            assert_eq!(told.data["error"]["code"], serde_json::to_value(Code::HealthCheckFailed).unwrap());
            assert_eq!(told.error(), format!("suite `unit`: {why}"));
        }
    }
}

#[tokio::test]
async fn a_real_postgresql_can_be_used_by_a_suite() {
    let bin = bot_test::postgresql_bin();
    let bwrap = std::env::var_os("LOTA_TEST_BWRAP").map(PathBuf::from);
    let bwrap = bwrap.or_else(|| Some(PathBuf::from("/usr/bin/bwrap")).filter(|bwrap| bwrap.exists()));
    // PostgreSQL does not run as root; behind walls nobody is.
    let bench =
        Bench::new(Some(bwrap.expect("this test needs bubblewrap: apt-get install bubblewrap, or LOTA_TEST_BWRAP")));
    let suite = format!(
        r#"
      run: |
        psql() {{ {bin}/psql -h 127.0.0.1 -p "$DB_PORT" -U app -v ON_ERROR_STOP=1 -qtA -c "$1" postgres; }}
        psql "create table sums (a int); insert into sums values (20), (22)"
        echo 1..1
        test "$(psql 'select sum(a) from sums')" = 42 && echo ok 1 - sums
      env: {{PATH: "{bin}:/usr/bin:/bin"}}
      services:
        - name: db
          run: initdb -D "$DATA" -U app --auth=trust --no-sync && exec postgres -D "$DATA" -p "$PORT" -k "$DATA" -c listen_addresses=127.0.0.1 -c fsync=off
          ready: {{log: "ready to accept connections", within: 60s}}
"#,
        bin = bin.display()
    );
    let told = bench.run(&suite).await;
    told.passed();
    assert_eq!(told.data["suites"][0]["passed"], 1);
    assert!(
        told.lines.iter().any(|l| l.starts_with("[unit/db] ") && l.contains("database system is shut down")),
        "it was asked to end, and did: {}",
        told.lines.join("\n")
    );
}
