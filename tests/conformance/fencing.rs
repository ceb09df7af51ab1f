//! A DeployBot that stands still in the middle of a deployment, is taken over, and comes back.
use std::{
    fs,
    path::{Path, PathBuf},
};

use bot_clients::Objects;
use bot_messages::{Event, Revision, pipeline::DeployStage, test::TestCompleted};
use deploy_bot::DeployBot;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::cast::Cast;

use crate::{deployments::stored, replicas::Database, stage::Stage};

const CONFIG: &str = "
bot: {name: DeployBot, version: '1', enabled: true}
constraints: {max_concurrent_jobs: 4, timeout: 120, retry_policy: {max_attempts: 3, backoff: fixed}}
settings: {check_every: 1s, sandbox: process-group}
";

/// One environment, which two instances can reach: on one machine, as after one was restarted beside one that hangs.
struct Ground {
    stage: Stage,
    objects: Objects,
    there: PathBuf,
    crashes: PathBuf,
    _database: Database,
}

impl Ground {
    async fn lay() -> Self {
        let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let [config, crashes, there, place] = ["config", "crashes", "there", "objects"].map(|name| root.join(name));
        for folder in [&config, &crashes] {
            fs::create_dir(folder).unwrap();
        }
        let local = format!(
            "local: {{repositories: ['*'], refs: ['**'], target: {{type: directory, path: {}}}}}\n",
            there.display()
        );
        fs::write(config.join("environments.yaml"), local).unwrap();
        fs::write(config.join("repositories.yaml"), "- {match: '**', trust: own}\n").unwrap();
        let publishers = "publishers: [{name: outside, says: [test.completed], repositories: ['**']}]\n";
        fs::write(config.join("publishers.yaml"), publishers).unwrap();
        let database = Database::of("deploy_bot");
        let mut variables = database.variables();
        for (name, path) in [("LOTA_CONFIG_DIR", &config), ("LOTA_TEST_CRASHES", &crashes), ("LOTA_OBJECTS", &place)] {
            variables.push((name, path.display().to_string()));
        }
        let contract = bot_core::contract_of::<DeployBot>();
        let cast =
            Cast { slug: "deploy-bot", contract, config: CONFIG.to_owned(), heard: TestCompleted::TYPE, variables };
        let objects = Objects::directory(&place).unwrap();
        Self { stage: Stage::set_for(dir, cast).await, objects, there, crashes, _database: database }
    }

    async fn push(&self, number: u64) {
        let tested = TestCompleted {
            artifact: stored(&self.objects, &format!("page {number}")).await,
            revision: Revision { sequence: Some(number), ..Revision::example() },
            deploy: [("local".to_owned(), DeployStage::default())].into(),
            ..TestCompleted::example()
        };
        let (id, tested) = (format!("push-{number}"), serde_json::to_value(tested).unwrap());
        self.stage.event("outside", &id, TestCompleted::TYPE, tested).await;
    }

    fn there(&self) -> (String, String) {
        let read = |name: &str| fs::read_to_string(self.there.join(name)).unwrap();
        (read("current/page"), read("journal.jsonl"))
    }
}

/// The ends of the deployment that a push led to.
fn ends(stage: &Stage, number: u64) -> Vec<Value> {
    let all = [stage.said_of("deploy.completed"), stage.said_of("deploy.failed")].concat();
    all.into_iter().filter(|end| end["correlation_id"] == format!("push-{number}")).collect()
}

async fn is_refused_when_it_comes_back(place: &str) {
    let mut ground = Ground::lay().await;
    ground.stage.until("the first to work", |s| s.sessions() == 1).await;
    ground.stage.start_replica(1);
    let waits = "another instance of DeployBot works: this one waits to take its place";
    ground.stage.until("the second to wait", |s| s.logged_by(1, waits) == 1).await;

    let at: &Path = &ground.crashes.join("at");
    fs::write(at, format!("freeze {place}")).unwrap();
    ground.push(1).await;
    ground.stage.until("the first to stand still", |_| !at.exists()).await;
    assert_eq!(ground.stage.logged_by(1, "session begun"), 0, "the second takes nothing as long as the first works");
    ground.push(2).await;
    ground.stage.until("the second to take its place", |s| s.logged_by(1, "session begun") == 1).await;
    for number in [1, 2] {
        ground.stage.until("the end of both", |s| !ends(s, number).is_empty()).await;
    }
    let before = ground.there();
    assert_eq!(before.0, "page 2");

    ground.stage.send(Signal::SIGCONT);
    // Refused where it writes, or stopped by the store's word before it comes to that: whichever it meets first.
    let noticed = ["was taken over and changes nothing", "job was taken over"];
    ground.stage.until("the first to be refused", |s| noticed.iter().any(|words| s.logged(words) > 0)).await;
    // It ends, since another has its place, and waits behind that one.
    ground.stage.until("it to wait", |s| s.logged(waits) == 1).await;
    assert_eq!(ground.there(), before);
    for number in [1, 2] {
        let ends = ends(&ground.stage, number);
        assert_eq!((ends.len(), &ends[0]["type"]), (1, &"deploy.completed".into()), "{ends:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stood_still_before_its_switch_is_refused_when_it_comes_back() {
    is_refused_when_it_comes_back("step intent: committed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stood_still_within_its_switch_is_refused_when_it_comes_back() {
    is_refused_when_it_comes_back("deployment: switch 0 of the job is in the journal").await;
}
