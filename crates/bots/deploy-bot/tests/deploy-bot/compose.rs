//! Targets that are compose projects. What needs no engine is tried everywhere; the rest needs docker, its plugin compose
//! and the image of tests/tiny-image.sh: `make test-containers`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test support: a broken assumption ends the test")]
use std::{
    env,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use bot_core::{Fail, Job};
use bot_messages::{
    Code, FailureReason, ObjectRef,
    deploy::{DeployCompleted, DeployFailed, DeployRolledBack},
    pipeline::DeployStage,
};
use bot_test::JobRecord;

use crate::field::{Ended, Field, cx, killed_after};

const IMAGE: &str = "lota-test/tiny:1";
const CANARY: &str = "canary-compose-51";

/// A field whose environment is a project of its own, which is gone when it is dropped.
struct Stage {
    field: Field,
    project: String,
}

impl Stage {
    fn new(more: &str) -> Self {
        static PROJECTS: AtomicU32 = AtomicU32::new(0);
        let project = format!("lota-test-{}-{}", std::process::id(), PROJECTS.fetch_add(1, Ordering::Relaxed));
        let socket = env::var("DOCKER_HOST").unwrap_or_default();
        let socket = socket.strip_prefix("unix://").unwrap_or("/var/run/docker.sock");
        let config =
            env::var("DOCKER_CONFIG").map(|folder| format!("\n    docker_config: {folder}")).unwrap_or_default();
        let environments = format!(
            "local:
  repositories: ['shop/*']
  refs: [refs/heads/*]
  health: {{deadline: 20s}}
  keep: 2
  target:
    type: compose
    project: {project}
    socket: {socket}{config}
    secrets: [API_TOKEN]
    {more}
"
        );
        let bwrap = env::var_os("LOTA_TEST_BWRAP").map(PathBuf::from);
        let field = Field::walled_by(bwrap, &environments, &[("API_TOKEN", CANARY)]);
        field.configured("shop.yaml", &own_file());
        Self { field, project }
    }

    async fn release(&self, compose: &str) -> ObjectRef {
        self.field.artifact_of(&[("compose.yaml", compose.as_bytes())]).await
    }

    async fn run(&self, id: &str, artifact: &ObjectRef) -> Ended {
        self.field.run(id, &self.field.job_of_stage(artifact, DeployStage::default())).await
    }

    async fn deploy(&self, id: &str, artifact: &ObjectRef) -> Ended {
        let ended = self.run(id, artifact).await;
        assert_eq!(ended.terminal(), ["deploy.completed"], "{:?}\n{:#?}", ended.outcome, ended.record.lines());
        ended
    }

    /// What runs: the release and the service of each container.
    fn there(&self) -> Vec<String> {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        let format = "{{.Label \"lotabots.digest\"}} {{.Label \"com.docker.compose.service\"}} {{.State}}";
        let mut all: Vec<String> =
            docker(&["ps", "--all", "--filter", &filter, "--format", format]).lines().map(str::to_owned).collect();
        all.sort();
        all
    }

    fn has(&self, artifact: &ObjectRef, services: &[&str]) {
        let wanted: Vec<String> = services.iter().map(|service| format!("{} {service}", artifact.digest)).collect();
        assert_eq!(self.there(), wanted);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["compose", "-p", &self.project, "down", "--volumes"]).output();
    }
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn own_file() -> String {
    "services:\n  app:\n    image: ${LOTA_IMAGE}\n    command: [sleep, '1000']\n    init: true\n".to_owned()
}

/// Two services that go on, and one that ends by itself.
fn compose(check: &str) -> String {
    format!(
        "services:
  setup: {{image: '{IMAGE}', command: ['true']}}
  db: {{image: '{IMAGE}', command: [sleep, '1000'], init: true, environment: {{TOKEN: \"$API_TOKEN\"}}}}
  web:
    image: '{IMAGE}'
    command: [sleep, '1000']
    init: true
    depends_on: {{setup: {{condition: service_completed_successfully}}}}
    healthcheck: {{test: [CMD, {check}], interval: 1s, retries: 1}}
    volumes: ['./page:/page:ro']
"
    )
}

fn has_no_secret(stage: &Stage, ended: &Ended) {
    let all = format!(
        "{:?} {:?} {:?} {:?}",
        ended.outcome,
        ended.record.effects(),
        ended.record.lines(),
        stage.field.journal()
    );
    assert!(!all.contains(CANARY), "{all}");
    assert!(!stage.field.root().join("work").exists(), "what scripts worked in is gone");
}

#[tokio::test]
#[ignore = "needs docker and its plugin compose: make test-containers"]
async fn a_project_comes_up_is_replaced_and_goes_back() {
    let stage = Stage::new("file: compose.yaml");
    let one = stage.release(&compose("'true'")).await;
    let services = ["db running", "setup exited", "web running"];
    let ended = stage.deploy("job-1", &one).await;
    ended.event::<DeployCompleted>();
    stage.has(&one, &services);
    has_no_secret(&stage, &ended);
    let again = stage.run("job-2", &one).await;
    again.event::<DeployCompleted>();
    assert!(again.outcome.unwrap().note.unwrap().contains("already, and healthy"));

    // Never healthy: the release before it runs again.
    let bad = stage.release(&compose("'false'")).await;
    let ended = stage.run("job-3", &bad).await;
    assert_eq!(ended.said(), ["deploy.started", "deploy.rolled_back", "deploy.failed"]);
    let failed: DeployFailed = ended.event();
    assert_eq!((failed.reason, failed.error.code), (FailureReason::Failed, Code::HealthCheckFailed));
    assert!(failed.error.message.contains("unhealthy"), "{}", failed.error.message);
    assert_eq!(failed.current, Some(one.digest.clone()));
    stage.has(&one, &services);

    // A service that is not there any more goes.
    let two = format!("services:\n  web: {{image: '{IMAGE}', command: [sleep, '1000'], init: true}}\n");
    let two = stage.release(&two).await;
    stage.deploy("job-4", &two).await;
    stage.has(&two, &["web running"]);
    let back: DeployRolledBack = stage.field.run("job-5", &stage.field.rollback_job(None)).await.event();
    assert_eq!(back.to, Some(one.digest.clone()));
    stage.has(&one, &services);
}

#[tokio::test]
#[ignore = "needs docker and its plugin compose: make test-containers"]
async fn where_nothing_was_before_nothing_is_left() {
    let stage = Stage::new("file: compose.yaml");
    let bad = stage.release(&compose("'false'")).await;
    let ended = stage.run("job-1", &bad).await;
    assert_eq!(ended.said(), ["deploy.started", "deploy.rolled_back", "deploy.failed"]);
    assert_eq!(stage.there(), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs docker and its plugin compose: make test-containers"]
async fn a_file_that_reaches_beyond_the_project_is_refused_before_anything_is_touched() {
    let evil = format!(
        "services:\n  web:\n    image: '{IMAGE}'\n    privileged: true\n    volumes: ['/:/host', '/var/run/docker.sock:/s']\n    command: [sleep, '1000']\n    init: true\n"
    );
    let stage = Stage::new("file: compose.yaml");
    let artifact = stage.release(&evil).await;
    let ended = stage.run("job-1", &artifact).await;
    let Err(Fail::Reject { code, error }) = &ended.outcome else { panic!("{:?}", ended.outcome) };
    let told = format!("{error:#}");
    assert_eq!(*code, Code::PermissionDenied);
    for words in ["services.web.privileged", "/ lies outside of the release", "target.allow_host"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!((stage.there().len(), stage.field.journal().len()), (0, 0));

    let allowed = Stage::new("file: compose.yaml\n    allow_host: true");
    // Not every machine lets docker have all privileges.
    let evil =
        evil.replace("    privileged: true\n", "").replace("'/:/host', '/var/run/docker.sock:/s'", "'/etc:/host:ro'");
    let artifact = allowed.release(&evil).await;
    allowed.deploy("job-1", &artifact).await;
    allowed.has(&artifact, &["web running"]);
}

#[tokio::test]
#[ignore = "needs docker and its plugin compose: make test-containers"]
async fn an_archive_runs_by_the_operators_own_file() {
    let stage = Stage::new("file: shop.yaml\n    image: {archive: app.tar, name: lota-test/saved}");
    let save = |mark: &str, tag: &str| {
        let id = docker(&["create", IMAGE, "true"]);
        docker(&["commit", "--message", mark, id.trim(), tag]);
        docker(&["rm", id.trim()]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.tar");
        docker(&["save", "--output", file.to_str().unwrap(), tag]);
        docker(&["rmi", tag]);
        std::fs::read(file).unwrap()
    };
    let one = stage.field.artifact_of(&[("app.tar", &save("one", "lota-test/saved:1"))]).await;
    let two = stage.field.artifact_of(&[("app.tar", &save("two", "lota-test/saved:1"))]).await;
    stage.deploy("job-1", &one).await;
    stage.deploy("job-2", &two).await;
    stage.has(&two, &["app running"]);
    let image = |artifact: &ObjectRef| {
        let name = format!("lotabots/deployed:{}-{}", stage.project, artifact.digest.hex());
        docker(&["image", "inspect", "--format", "{{.Id}}", &name])
    };
    assert_ne!(image(&one), image(&two));
    let back: DeployRolledBack = stage.field.run("job-3", &stage.field.rollback_job(None)).await.event();
    assert_eq!(back.to, Some(one.digest.clone()));
    stage.has(&one, &["app running"]);

    // What nobody goes back to any more goes.
    let three = stage.field.artifact_of(&[("app.tar", &save("three", "lota-test/saved:2"))]).await;
    stage.deploy("job-5", &three).await;
    let listed = docker(&["images", "--format", "{{.Tag}}", "lotabots/deployed"]);
    let is_there = |artifact: &ObjectRef| listed.contains(&format!("{}-{}", stage.project, artifact.digest.hex()));
    assert_eq!([&one, &two, &three].map(is_there), [true, false, true]);

    // It would become what others call by that name.
    let other = stage.field.artifact_of(&[("app.tar", &save("four", "lota-test/other:1"))]).await;
    let ended = stage.run("job-4", &other).await;
    let Err(Fail::Reject { code: Code::PermissionDenied, error }) = &ended.outcome else {
        panic!("{:?}", ended.outcome)
    };
    assert!(error.to_string().contains("lota-test/other:1"), "{error:#}");
    stage.has(&three, &["app running"]);
    drop(Command::new("docker").args(["compose", "-p", &stage.project, "down"]).output());
    for artifact in [&one, &three] {
        docker(&["rmi", &format!("lotabots/deployed:{}-{}", stage.project, artifact.digest.hex())]);
    }
    docker(&["rmi", "lota-test/saved:1", "lota-test/saved:2"]);
}

/// Kills the bot at points all along the way, and starts another.
#[tokio::test]
#[ignore = "needs docker and its plugin compose: make test-containers"]
async fn a_bot_that_dies_asks_what_is_there_before_it_repeats() {
    let mut stage = Stage::new("file: compose.yaml");
    let (mut found, mut polls) = (0, 10);
    loop {
        let id = format!("job-{polls}");
        let text = format!("services:\n  web: {{image: '{IMAGE}', command: [sleep, '{polls}000'], init: true}}\n");
        let artifact = stage.release(&text).await;
        let (job, record) = (stage.field.job_of_stage(&artifact, DeployStage::default()), JobRecord::new());
        let (bot, context) = (stage.field.bot.clone(), cx(&id, &record));
        let killed = killed_after(polls, job.run(&bot, &context)).await;
        let is_last = killed.is_some();
        let ended = match killed {
            Some(outcome) => Ended { outcome, record },
            None => {
                stage.field.restart();
                stage.field.attempt(&id, &job, &record).await
            }
        };
        assert_eq!(ended.terminal(), ["deploy.completed"], "{id}: {:?}", ended.outcome);
        assert_eq!(stage.field.switches(&id), 1, "{id}");
        stage.has(&artifact, &["web running"]);
        found += u32::from(format!("{:?}", ended.record.effects()).contains("an earlier attempt had put it there"));
        if is_last {
            break;
        }
        polls += 20;
    }
    assert!(polls > 30, "it was never killed late: {polls}, {found}");
}

#[tokio::test]
async fn without_docker_it_is_told_before_anything_is_touched() {
    let environments = "local:
  repositories: ['shop/*']
  refs: [refs/heads/*]
  target: {type: compose, project: shop, file: compose.yaml, socket: /nowhere/docker.sock}
";
    let field = Field::with(environments, &[]);
    let artifact = field.artifact_of(&[("compose.yaml", b"services: {}")]).await;
    let ended = field.run("job-1", &field.job_of_stage(&artifact, DeployStage::default())).await;
    let Err(Fail::Reject { code: Code::Unavailable, error }) = &ended.outcome else { panic!("{:?}", ended.outcome) };
    let told = format!("{error:#}");
    assert!(told.contains("docker's socket /nowhere/docker.sock is not there"), "{told}");
    assert!(told.contains("start docker, or name its socket in target.socket"), "{told}");
    assert_eq!(field.journal().len(), 0);
}
