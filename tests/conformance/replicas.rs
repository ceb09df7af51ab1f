//! Several instances of a bot on one store in PostgreSQL.
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use bot_test::Postgres;
use nix::sys::signal::Signal;
use serde_json::json;
use tests::{lota, program};

use crate::stage::Stage;

/// A server with a login and a schema for a bot, as `lota stores apply` makes them for the bots of a release.
pub(crate) struct Database {
    server: Postgres,
    secrets: tempfile::TempDir,
    login: &'static str,
}

impl Database {
    fn new() -> Self {
        Self::of("toy_bot")
    }

    pub(crate) fn of(login: &'static str) -> Self {
        let (server, secrets) = (Postgres::start(), tempfile::tempdir().unwrap());
        let database = Self { server, secrets, login };
        fs::write(database.password_file(), "canary-of-the-bot").unwrap();
        database.server.sql(&format!(
            "CREATE ROLE {login} LOGIN PASSWORD 'canary-of-the-bot'; CREATE SCHEMA {login}; \
             GRANT USAGE, CREATE ON SCHEMA {login} TO {login}",
        ));
        database
    }

    fn password_file(&self) -> PathBuf {
        self.secrets.path().join("password")
    }

    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LOTA_STORE_URL", self.server.url(self.login)),
            ("LOTA_STORE_PASSWORD_FILE", self.password_file().display().to_string()),
        ]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_messages_have_one_effect_each_while_replicas_and_the_database_are_killed() {
    const ENTITIES: usize = 10;
    let database = Database::new();
    let mut stage = Stage::set_with(database.variables()).await;
    stage.start_replica(1);
    stage.start_replica(2);
    stage
        .until("three sessions", |s| s.sessions() > 0 && [1, 2].iter().all(|n| s.logged_by(*n, "session begun") > 0))
        .await;
    for n in 0..1000 {
        stage.wish(&format!("m-{n}"), &format!("entity-{}", n % ENTITIES), "say").await;
        if n == 400 {
            stage.send_replica(1, Signal::SIGKILL);
            stage.start_replica(3);
        }
        if n == 700 {
            database.server.break_off();
            database.server.go_on();
        }
    }
    stage.until("an answer to each", |s| s.said_of("build.started").len() >= 1000).await;
    for n in 0..ENTITIES {
        let said = stage.said("build.started", &format!("entity-{n}"));
        let count = |m: &serde_json::Value| {
            let told = m["payload"]["data"]["job_id"].as_str().unwrap().to_owned();
            told.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()
        };
        let answers: BTreeSet<usize> = said.iter().map(count).collect();
        assert_eq!(
            (said.len(), answers),
            (100, (1..=100).collect()),
            "entity {n}: each once, and none on an old state"
        );
    }
    let shares = [stage.logged("asked m-"), stage.logged_by(2, "asked m-"), stage.logged_by(3, "asked m-")];
    assert!(shares.iter().all(|share| *share > 0), "all of them worked: {shares:?}");
    assert_eq!(stage.said_of("message.dead_lettered").len(), 0);

    // A timer is one for all of them.
    stage.wish("timer", "a-timer", "timer:2").await;
    stage.until("the timer", |s| s.said("build.started", "a-timer").len() == 2).await;
    stage.wish("after", "after", "timer:3").await;
    stage.until("a later one", |s| s.said("build.started", "after").len() == 2).await;
    assert_eq!(stage.said("build.started", "a-timer").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_or_frozen_replica_is_taken_over_once_and_is_refused_when_it_comes_back() {
    let database = Database::new();
    let mut stage = Stage::set_with(database.variables()).await;
    stage.wish("1", "frozen", "play:1").await;
    stage.until("the first job to wait", |s| s.logged("waits under token") == 1).await;
    stage.send(Signal::SIGSTOP);
    stage.start_replica(1);
    stage.wish("2", "killed", "play:1").await;
    stage.until("the second job to wait", |s| s.logged_by(1, "waits under token") == 1).await;
    stage.send_replica(1, Signal::SIGKILL);
    stage.start_replica(2);
    for repository in ["frozen", "killed"] {
        stage.until("its end", |s| !s.said("build.completed", repository).is_empty()).await;
        let ends = stage.said("build.completed", repository);
        let steps = ends[0]["payload"]["data"]["steps"].as_array().unwrap().clone();
        let steps: Vec<&str> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
        let token = |step: &str| step.strip_prefix("token ").unwrap().parse::<i64>().unwrap();
        assert!(steps[0] == "attempt 2" && token(steps[1]) < token(steps[2]), "taken over once: {steps:?}");
    }
    stage.send(Signal::SIGCONT);
    stage.until("it to see that it is late", |s| s.logged("job was taken over") == 1).await;
    // It works on, with what is new.
    stage.wish("3", "later", "play:5").await;
    stage.until("the end of a later job", |s| !s.said("build.completed", "later").is_empty()).await;
    for repository in ["frozen", "killed"] {
        assert_eq!(stage.said("build.completed", repository).len(), 1);
        assert_eq!(stage.said("build.started", repository).len(), 1, "a step is committed once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_that_two_replicas_come_to_fires_once() {
    let (database, crashes) = (Database::new(), tempfile::tempdir().unwrap());
    let mut variables = database.variables();
    variables.push(("LOTA_TEST_CRASHES", crashes.path().display().to_string()));
    let mut stage = Stage::set_with(variables).await;
    stage.wish("1", "before", "say").await;
    stage.until("the first to work", |s| s.said("build.started", "before").len() == 1).await;

    let at = crashes.path().join("at");
    fs::write(&at, "freeze timer: handled").unwrap();
    database.server.sql("UPDATE toy_bot.timers SET due_at_ms = 0 WHERE name LIKE 'lota.schedule:%'");
    stage.until("the first to come to it, and stand still", |_| !at.exists()).await;
    stage.start_replica(1);
    stage.until("the second to do it", |s| s.said("build.started", "yearly").len() == 1).await;
    stage.send_replica(1, Signal::SIGKILL);

    stage.send(Signal::SIGCONT);
    // Timers go one after the other, so that this one follows what it stood before.
    stage.wish("2", "after", "timer:0").await;
    stage.until("a later timer of the first", |s| s.said("build.started", "after").len() == 2).await;
    assert_eq!(stage.said("build.started", "yearly").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_and_a_cancel_reach_every_replica() {
    let database = Database::new();
    let mut stage = Stage::set_with(database.variables()).await;
    stage.start_replica(1);
    stage.until("both", |s| s.sessions() == 1 && s.logged_by(1, "session begun") == 1).await;
    for n in 0..4 {
        stage.wish(&n.to_string(), &format!("r{n}"), "play:3").await;
    }
    stage.until("all jobs to begin", |s| s.said_of("build.started").len() == 4).await;
    for begun in stage.said_of("build.started") {
        let job = &begun["payload"]["data"]["job_id"];
        stage.command(&format!("c-{job}"), "control.cancel", json!({"job_id": job, "reason": "a test"})).await;
    }
    stage.until("their ends", |s| s.said_of("build.completed").len() == 4).await;
    stage.command("p", "control.pause", json!({"reason": "a test"})).await;
    stage.until("both to pause", |s| s.said_of("bot.paused").len() == 2).await;
    stage.command("r", "control.resume", json!({})).await;
    stage.until("both to go on", |s| s.said_of("bot.resumed").len() == 2).await;
}

#[test]
fn lota_makes_a_login_and_a_schema_for_each_bot_again_and_again() {
    let (server, home) = (Postgres::start(), tempfile::tempdir().unwrap());
    fs::create_dir(home.path().join("secrets")).unwrap();
    let apply = || {
        let mut command = lota(&["stores", "apply"]);
        command.env("LOTA_HOME", home.path());
        command.env("LOTA_STORE_ADMIN_URL", server.admin_url());
        command.env("LOTA_STORE_ADMIN_PASSWORD_FILE", server.admin_password_file());
        tests::succeeds(&mut command)
    };
    assert!(apply().contains("build_bot: made"));
    let file = home.path().join("secrets/build-bot.store.password");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o007, 0, "nothing for others");
    let before = fs::read_to_string(&file).unwrap();
    assert!(apply().contains("build_bot: there before"));
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    let kept = server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'build_bot'");
    assert!(kept.starts_with("SCRAM-SHA-256$"), "{kept}");
    let rights = "SELECT has_schema_privilege('build_bot', 'test_bot', 'USAGE'), \
                  has_schema_privilege('build_bot', 'public', 'USAGE'), \
                  has_schema_privilege('build_bot', 'build_bot', 'CREATE'), \
                  has_database_privilege('build_bot', 'postgres', 'TEMPORARY')";
    assert_eq!(server.sql(rights), "f|f|t|f");
}

/// Starts the toy bot and says how it ended.
fn ends(home: &Path, variables: &[(&str, String)]) -> (i32, String) {
    fs::create_dir_all(home).unwrap();
    let config = home.join("config.yaml");
    fs::write(&config, "bot: {name: ToyBot, version: '1', enabled: true}\ntriggers: []\nactions: []\noutputs: []\n")
        .unwrap();
    fs::write(home.join("password"), "x").unwrap();
    let output = Command::new(program("toy-bot"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LOTA_HOME", home)
        .env("LOTA_CONFIG", &config)
        .env("LOTA_AMQP_URL", "amqp://127.0.0.1:1/lota")
        .env("LOTA_AMQP_PASSWORD_FILE", home.join("password"))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_store_that_cannot_be_used_ends_the_bot_with_words_and_a_code() {
    let (database, home) = (Database::new(), tempfile::tempdir().unwrap());
    let wrong = home.path().join("wrong");
    fs::write(&wrong, "canary-wrong").unwrap();
    let file = |path: &Path| ("LOTA_STORE_PASSWORD_FILE", path.display().to_string());
    let url = |url: &str| ("LOTA_STORE_URL", url.to_owned());
    let good = database.server.url("toy_bot");
    for (variables, code, words) in [
        ([url("postgres://toy_bot:canary@127.0.0.1/lota"), file(&wrong)], 78, "LOTA_STORE_PASSWORD_FILE"),
        ([url("http://127.0.0.1/lota"), file(&wrong)], 78, "expected postgres://"),
        ([url(&good), file(&wrong)], 78, "lota stores apply"),
        ([url(&good.replace("/postgres?", "/nowhere?")), file(&database.password_file())], 78, "nowhere"),
        ([url("postgres://127.0.0.1:1/lota"), file(&wrong)], 69, "cannot be reached"),
    ] {
        let (ended, told) = ends(&home.path().join("bot"), &variables);
        assert!(ended == code && told.contains(words) && !told.contains("canary"), "{ended}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_instance_on_a_store_in_files_ends_with_words_and_a_code() {
    let mut stage = Stage::set().await;
    stage.until("the first", |s| s.sessions() == 1).await;
    let (ended, told) = ends(&stage.beside("bot"), &[]);
    assert_eq!(ended, 78, "{told}");
    assert!(told.contains("is in use by process") && told.contains("LOTA_STORE_URL"), "{told}");
}
