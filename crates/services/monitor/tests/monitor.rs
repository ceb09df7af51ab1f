//! The monitor's service with taps and commits of the test's own: what it serves over HTTP, what it says, what a
//! restart leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken assumption ends the test")]
mod stage;

use std::{sync::Arc, time::Duration};

use bot_core::{Bot, Handle, Meta, ServiceCx, Tools};
use bot_messages::{
    Digest, Event, Priority, Tap,
    build::{BuildCompleted, BuildStarted},
    deploy::DeployCompleted,
    repository::RepositoryPushed,
    telemetry::{LogRecord, Outcome, RecordKind},
};
use chrono::DateTime;
use monitor::{Config, Known, MonitorBot};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;

use stage::{CORRELATION, Running, Runtime, until};

fn record(kind: RecordKind, message: &str) -> LogRecord {
    LogRecord {
        bot: "BuildBot".into(),
        instance: "host-1".into(),
        timestamp: DateTime::default(),
        level: "info".into(),
        kind,
        message: message.into(),
        correlation_id: Some(CORRELATION.into()),
        message_id: Some("push-1".into()),
        job_id: None,
        line: None,
        outcome: None,
        percent: None,
        duration_us: Some(800),
    }
}

/// The named members, in order.
fn pick(value: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| value[*name].clone()).collect()
}

/// A push that `BuildBot` took up: three lines of output so far.
async fn push(runtime: &Runtime, job: &str) {
    runtime.say("push-1", "ci", None, &RepositoryPushed::example()).await;
    let handled = LogRecord { outcome: Some(Outcome::Acted), ..record(RecordKind::Handled, "build started") };
    runtime.feed(Tap::Logs, "log.build-bot.info", None, &handled).await;
    runtime.pass(120);
    runtime.say("started-1", "BuildBot", Some("push-1"), &BuildStarted::example()).await;
    for line in 1..=3 {
        let output = record(RecordKind::Output, &format!("line {line}"));
        let output = LogRecord { job_id: Some(job.into()), line: Some(line), ..output };
        runtime.feed(Tap::Logs, "log.build-bot.info", None, &output).await;
    }
}

#[tokio::test]
async fn a_push_can_be_followed_from_its_tree_to_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let monitor = Running::start(dir.path(), &[]).await;
    let job = BuildStarted::example().job_id;
    push(&monitor.runtime, &job).await;
    let log = monitor.eventually(&format!("/api/v1/jobs/{}/log?after=1", &job[..24]), |l| l["next"] == 3).await;
    assert_eq!(log["lines"], json!([{"line": 2, "text": "line 2"}, {"line": 3, "text": "line 3"}]));
    assert_eq!(pick(&log, &["ended", "dropped", "job"]), json!([false, 0, job]));
    let list = monitor.eventually("/api/v1/correlations?limit=5", |l| l["correlations"][0]["count"] == 2).await;
    let entry = pick(&list["correlations"][0], &["id", "type", "state"]);
    assert_eq!(entry, json!([CORRELATION, "repository.pushed", "running"]));

    monitor.runtime.pass(5_000);
    monitor.runtime.say("completed-1", "BuildBot", Some("started-1"), &BuildCompleted::example()).await;
    let tree = monitor.eventually(&format!("/api/v1/correlations/{}", &CORRELATION[..8]), |t| t["count"] == 3).await;
    assert_eq!(pick(&tree, &["state", "duration_ms"]), json!(["completed", 5_120]));
    let root = &tree["roots"][0];
    let handled = json!({"bot": "BuildBot", "outcome": "acted", "reason": "build started", "duration_us": 800});
    assert_eq!(root["handled"], json!([handled]));
    let started = &root["children"][0];
    assert_eq!(pick(started, &["hop_ms", "offset_ms", "source"]), json!([120, 120, "BuildBot"]));
    assert_eq!(started["children"][0]["summary"], "shop/api@4f2d9c1e");
    let (_, found) = monitor.get(&format!("/api/v1/jobs/{job}")).await;
    let found = pick(&found, &["state", "kind", "bot", "correlation"]);
    assert_eq!(found, json!(["completed", "build", "BuildBot", CORRELATION]));
    monitor.runtime.pass(1_000);
    assert_eq!(monitor.get(&format!("/api/v1/jobs/{job}/log?after=3")).await.1["ended"], true);
    assert_eq!(monitor.get("/api/v1/jobs").await.1["jobs"].as_array().unwrap().len(), 1);
    monitor.stop().await;
    assert!(!dir.path().join("http-address").exists(), "nobody is sent to an address where nothing listens");
}

#[tokio::test]
async fn health_is_200_when_healthy_and_503_when_a_bot_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    let monitor = Running::start(dir.path(), &[]).await;
    assert_eq!(monitor.get("/api/v1/health").await.0, 503, "nobody is heard yet");
    assert_eq!((monitor.get("/readyz").await.0, monitor.get("/livez").await.0), (503, 200));
    monitor.runtime.beat("BuildBot", "build-bot").await;
    monitor.runtime.beat("MonitorBot", "monitor-bot").await;
    monitor.eventually("/api/v1/health", |h| h["bots"]["MonitorBot"]["status"] == "healthy").await;
    let (status, health) = monitor.get("/api/v1/health").await;
    assert_eq!((status, &health["overall"], &health["score"]), (200, &json!("healthy"), &json!(100)));
    assert_eq!((&health["database"], &health["broker"]["queue_depths"]), (&json!(null), &json!(null)));
    assert_eq!(health["bots"]["BuildBot"]["state"], "running");
    assert_eq!(monitor.get("/readyz").await.0, 200);

    for _ in 0..8 {
        monitor.runtime.pass(5_000);
        monitor.runtime.beat("MonitorBot", "monitor-bot").await;
    }
    until(|| async { (monitor.runtime.alerts() == ["alert.triggered silent:build-bot"]).then_some(()) }).await;
    let (status, health) = monitor.get("/api/v1/health").await;
    assert_eq!((status, &health["overall"], &health["score"]), (503, &json!("critical"), &json!(50)));
    assert_eq!(health["alerts"][0]["alert_id"], "silent:build-bot");
    monitor.runtime.beat("BuildBot", "build-bot").await;
    until(|| async { (monitor.runtime.alerts().len() == 2).then_some(()) }).await;
    assert_eq!(monitor.runtime.alerts()[1], "alert.resolved silent:build-bot");
    let said = monitor.runtime.said.lock().unwrap().iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(said[0], said[1], "one correlation for begin and end");
    let (_, alerts) = monitor.get("/api/v1/alerts").await;
    assert_eq!((alerts["open"].as_array().unwrap().len(), alerts["resolved"].as_array().unwrap().len()), (0, 1));
    monitor.stop().await;
}

#[tokio::test]
async fn errors_have_one_shape() {
    let dir = tempfile::tempdir().unwrap();
    let monitor = Running::start(dir.path(), &[]).await;
    let mut push = RepositoryPushed::example();
    push.pusher = None;
    for id in ["aaaaaa-1", "aaaaaa-2"] {
        let body = json!({"id": id, "type": "repository.pushed", "payload": {"data": push}});
        monitor.runtime.feed(Tap::Events, "repository.pushed", None, &body).await;
    }
    monitor.eventually("/api/v1/correlations", |l| l["correlations"].as_array().unwrap().len() == 2).await;
    for (path, status, code, word) in [
        ("/api/v1/bots/NoBot", 404, "NOT_REGISTERED", "`NoBot` has not been heard"),
        ("/api/v1/correlations/aaaaaa", 409, "AMBIGUOUS", "aaaaaa-1, aaaaaa-2"),
        ("/api/v1/correlations/aaa", 404, "NOT_FOUND", "at least 6 characters"),
        ("/api/v1/jobs/nothing", 404, "NOT_FOUND", "no job `nothing`"),
        ("/api/v1/jobs/nothing/log", 404, "NOT_FOUND", "no job `nothing`"),
        ("/api/v1/jobs?limit=many", 400, "INVALID_FIELD", "limit"),
        ("/elsewhere", 404, "NOT_FOUND", "/api/v1/health"),
    ] {
        let (got, body) = monitor.get(path).await;
        assert_eq!((got, &body["success"], &body["error"]["code"]), (status, &json!(false), &json!(code)), "{path}");
        assert!(body["error"]["message"].as_str().unwrap().contains(word), "{body}");
        assert!(body["error"]["timestamp"].is_string());
    }
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
    let foreign = client.get(format!("{}/api/v1/jobs", monitor.base)).header("host", "evil.example:80");
    assert_eq!(foreign.send().await.unwrap().status(), 403, "a page elsewhere must not read it by DNS");
    let (status, page) = monitor.get("/metrics").await;
    assert!(status == 200 && page.as_str().unwrap().contains("lota_messages_total 2"), "{page}");
    monitor.stop().await;
}

/// Answers every request with `status` and `body` until it is dropped.
async fn answering(status: u16, body: &'static str) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 2048];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    (url, task)
}

fn deploy(monitor: &Running, url: &str) {
    let meta = Meta {
        id: "m".into(),
        publisher: "deploy-bot".into(),
        correlation_id: "c".into(),
        priority: Priority::Medium,
        attempt: 1,
        now: DateTime::default(),
    };
    let digest = Digest::from_hex(&"b".repeat(64)).unwrap();
    let event = DeployCompleted { health_url: Some(url.into()), digest, ..DeployCompleted::example() };
    monitor.bot.handle(event, &mut Known::default(), &meta).unwrap();
}

#[tokio::test]
async fn an_application_is_probed_and_its_alert_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (url, application) = answering(200, "fine").await;
    let monitor = Running::start(dir.path(), &[]).await;
    deploy(&monitor, &url);
    monitor.eventually("/api/v1/applications", |a| a["applications"][0]["health"] == "up").await;
    application.abort();
    let _ = application.await;
    let down = monitor.eventually("/api/v1/applications", |a| a["applications"][0]["health"] == "down").await;
    assert!(down["applications"][0]["error"].as_str().unwrap().contains("cannot be reached"), "{down}");
    until(|| async { (monitor.runtime.alerts() == ["alert.triggered application:staging"]).then_some(()) }).await;
    monitor.stop().await;

    let monitor = Running::start(dir.path(), &[]).await;
    let (_, alerts) = monitor.get("/api/v1/alerts").await;
    assert_eq!(alerts["open"][0]["alert_id"], "application:staging");
    let (url, _application) = answering(204, "").await;
    deploy(&monitor, &url);
    until(|| async { (monitor.runtime.alerts() == ["alert.resolved application:staging"]).then_some(()) }).await;
    monitor.stop().await;
}

#[tokio::test]
async fn queue_depths_come_from_the_management_api_where_it_may_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let rows = r#"[{"name":"build-bot.work","messages":4,"messages_ready":3,"consumers":1},{"name":"unrouted"}]"#;
    let (url, _broker) = answering(200, rows).await;
    let password = dir.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let settings = [("management_url", url.as_str()), ("management_password_file", password.to_str().unwrap())];
    let monitor = Running::start(dir.path(), &settings).await;
    let health = monitor.eventually("/api/v1/health", |h| h["broker"]["messages"] == 4).await;
    assert_eq!(health["broker"]["queue_depths"], json!({"build-bot.work": 4, "unrouted": 0}));
    let (_, page) = monitor.get("/metrics").await;
    assert!(page.as_str().unwrap().contains("lota_queue_messages_ready{queue=\"build-bot.work\"} 3.0"));
    monitor.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_ends_the_service_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut tools = Tools::default();
    tools.dir = dir.path().to_owned();
    tools.settings = [("listen".to_owned(), taken.local_addr().unwrap().to_string())].into();
    let bot = Arc::new(MonitorBot::new(Config::default(), tools).unwrap());
    let error = bot.service(ServiceCx::new(CancellationToken::new(), Runtime::new())).await.unwrap_err();
    assert!(error.to_string().contains("change settings.listen"), "{error:#}");
}

#[tokio::test]
async fn one_address_gets_so_many_answers_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { requests_per_minute: 3, ..Config::default() };
    let monitor = Running::start_with(dir.path(), &[], config).await;
    for _ in 0..3 {
        assert_eq!(monitor.get("/livez").await.0, 200);
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("{}/api/v1/health", monitor.base)).send().await.unwrap();
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(answer.status() == 429 && (1..=21).contains(&wait), "{} {wait}", answer.status());
    let told: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(told["error"]["code"], "RATE_LIMITED");
    assert!(told["error"]["message"].as_str().unwrap().starts_with("more than 3 requests a minute came from 127."));
    monitor.stop().await;
}
