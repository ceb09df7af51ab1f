//! DeployBot ends at every place between two steps of a deployment, once at each, and goes on as another process. Which
//! places there are, a deployment that nothing ends tells by itself: a new step is among them.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use bot_clients::{ArchiveLimits, Kind, Objects, list_tree, pack};
use bot_messages::{Event, ObjectRef, Revision, pipeline::DeployStage, test::TestCompleted};
use deploy_bot::DeployBot;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tests::{cast::Cast, processes_naming};

use crate::stage::Stage;

const CONFIG: &str = "
bot: {name: DeployBot, version: '1', enabled: true}
constraints: {max_concurrent_jobs: 4, timeout: 120, retry_policy: {max_attempts: 3, backoff: fixed}}
# Its commands note each run in a file that no walls may hide.
settings: {check_every: 1s, stop_grace: 2s, sandbox: process-group}
";
const SERVE: &str = "exec python3 -m http.server --bind 127.0.0.1 $PORT";

/// What a deployment is to come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    /// A folder, and a page that is served.
    Served,
    /// The same; but it is not healthy, and is taken back.
    TakenBack,
    /// By commands, which note each run.
    Commands,
}

impl Target {
    fn environment(self) -> &'static str {
        if self == Self::Commands { "there" } else { "local" }
    }
}

/// Applications outlive their bot, and must not outlive the test.
struct Applications(PathBuf);

impl Drop for Applications {
    fn drop(&mut self) {
        for pid in processes_naming(&self.0.to_string_lossy()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A release of one page.
pub(crate) async fn stored(objects: &Objects, page: &str) -> ObjectRef {
    let (tree, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(tree.path().join("page"), page).unwrap();
    let (packed, limits) = (place.path().join("packed"), ArchiveLimits { entries_max: 10, bytes_max: 1 << 20 });
    pack(tree.path(), &list_tree(tree.path(), 10).unwrap(), &packed, &limits).unwrap();
    objects.put_file(&packed, Kind::Artifact, "application/zstd").await.unwrap()
}

struct Ground {
    stage: Stage,
    objects: Objects,
    home: PathBuf,
    crashes: PathBuf,
    deployments: u64,
    // Dropped last: after the bot.
    #[expect(dead_code, reason = "what it is there for happens when it goes")]
    applications: Applications,
}

impl Ground {
    async fn lay() -> Self {
        let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (home, crashes, config) = (root.join("bot"), root.join("crashes"), root.join("config"));
        for folder in [&crashes, &config, &root.join("there")] {
            fs::create_dir_all(folder).unwrap();
        }
        let noted = root.join("there/put");
        let environments = format!(
            "
local: {{repositories: ['*'], refs: ['**'], target: {{type: directory, path: environments/local}}, health: {{deadline: 20s}}, keep: 2}}
there:
  repositories: ['*']
  refs: ['**']
  health: {{deadline: 20s}}
  target:
    type: command
    deploy: 'echo \"$LOTA_HEX\" >> \"$NOTED\"'
    verify: 'test \"$(tail -n 1 \"$NOTED\")\" = \"$LOTA_HEX\"'
    env: {{NOTED: {}}}
",
            noted.display()
        );
        fs::write(config.join("environments.yaml"), environments).unwrap();
        fs::write(config.join("repositories.yaml"), "- {match: '**', trust: own}\n").unwrap();
        let publishers = "publishers: [{name: outside, says: [test.completed], repositories: ['**']}]\n";
        fs::write(config.join("publishers.yaml"), publishers).unwrap();
        fs::write(&noted, "").unwrap();
        let variables = vec![
            ("LOTA_CONFIG_DIR", config.to_string_lossy().into_owned()),
            ("LOTA_TEST_CRASHES", crashes.to_string_lossy().into_owned()),
        ];
        let contract = bot_core::contract_of::<DeployBot>();
        let cast =
            Cast { slug: "deploy-bot", contract, config: CONFIG.to_owned(), heard: TestCompleted::TYPE, variables };
        let objects = Objects::directory(&home.join("objects")).unwrap();
        let applications = Applications(root);
        let stage = Stage::set_for(dir, cast).await;
        Self { stage, objects, home, crashes, deployments: 0, applications }
    }

    /// Deploys something new. With a place: the bot ends there. Gives the places that were reached.
    async fn deploy(&mut self, target: Target, at: Option<&str>) -> BTreeSet<String> {
        self.deployments += 1;
        let (number, starts) = (self.deployments, self.stage.starts());
        let page = format!("page {number}");
        let artifact = stored(&self.objects, &page).await;
        let path = if target == Target::TakenBack { "/missing" } else { "/page" };
        let stage: DeployStage = match target {
            Target::Commands => DeployStage::default(),
            _ => serde_json::from_value(json!({"serve": {"run": SERVE}, "health": {"path": path, "deadline": "2s"}}))
                .unwrap(),
        };
        let tested = TestCompleted {
            artifact: artifact.clone(),
            revision: Revision { sequence: Some(number), ..Revision::example() },
            deploy: [(target.environment().to_owned(), stage)].into(),
            ..TestCompleted::example()
        };
        let reached = self.crashes.join("reached");
        fs::write(&reached, "").unwrap();
        if let Some(place) = at {
            fs::write(self.crashes.join("at"), place).unwrap();
        }
        let id = format!("push-{number}");
        self.stage.event("outside", &id, TestCompleted::TYPE, serde_json::to_value(tested).unwrap()).await;
        let in_correlation = |s: &Stage, kind: &str| {
            s.said_of(kind).into_iter().filter(|m| m["correlation_id"] == id.as_str()).collect::<Vec<_>>()
        };
        let ends = |s: &Stage| [in_correlation(s, "deploy.completed"), in_correlation(s, "deploy.failed")].concat();
        self.stage.until(&format!("the end of {target:?} at {at:?}"), |s| !ends(s).is_empty()).await;
        if at.is_some() {
            // What comes after the end of a job, its last message and the mark that it was sent, may come later.
            let gone = self.crashes.join("at");
            self.stage.until(&format!("its end at {at:?}"), |s| !gone.exists() && s.starts() > starts).await;
        }
        self.holds(target, at, number, &artifact, &ends(&self.stage)).await;
        fs::read_to_string(reached).unwrap().lines().map(str::to_owned).collect()
    }

    /// One terminal event, one switch (and one back), the right thing there, and a history that says how it came to that.
    async fn holds(&mut self, target: Target, at: Option<&str>, number: u64, artifact: &ObjectRef, ends: &[Value]) {
        let (end, switches) = if target == Target::TakenBack { ("deploy.failed", 2) } else { ("deploy.completed", 1) };
        assert_eq!(ends.len(), 1, "at {at:?}: {ends:#?}");
        assert_eq!(ends[0]["type"], end, "at {at:?}: {ends:#?}");
        let job = ends[0]["payload"]["data"]["job_id"].as_str().unwrap();
        let root = self.home.join("bots/deploy-bot/environments").join(target.environment());
        let journal = fs::read_to_string(journal_of(&root)).unwrap();
        let lines = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert_eq!(lines.filter(|line| line["job"] == job).count(), switches, "at {at:?}:\n{journal}");
        if target == Target::Commands {
            let noted = fs::read_to_string(self.home.with_file_name("there").join("put")).unwrap();
            let runs = noted.lines().filter(|line| *line == artifact.digest.hex()).count();
            assert_eq!(runs, 1, "at {at:?}: the command ran {runs} times, though it could be asked whether it had");
        } else {
            let page = fs::read_to_string(root.join("current/page")).unwrap();
            let is_new = page == format!("page {number}");
            assert_eq!(is_new, target == Target::Served, "at {at:?}: {page}");
            let port = fs::read_to_string(root.join("port")).unwrap();
            let url = format!("http://127.0.0.1:{}/page", port.trim());
            let http =
                reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_secs(5)).build().unwrap();
            let served = http.get(url).send().await.unwrap().text().await.unwrap();
            assert_eq!(served, page, "at {at:?}: another release is served than the link names");
        }
        self.explains(target, at, job).await;
    }

    async fn explains(&mut self, target: Target, at: Option<&str>, job: &str) {
        let state = if target == Target::TakenBack { "rolled_back" } else { "succeeded" };
        // The end of a job reaches the desk by a timer, a moment after it is said.
        let attempt = loop {
            let attempt = self.asked(target, job).await;
            if !attempt["ended_at"].is_null() {
                break attempt;
            }
        };
        assert_eq!(attempt["state"], state, "at {at:?}: {attempt:#}");
        let steps: Vec<&str> =
            attempt["steps"].as_array().unwrap().iter().map(|step| step["what"].as_str().unwrap()).collect();
        let again = steps.iter().filter(|step| step.starts_with("begun again, attempt 2")).count();
        match at {
            None | Some("job: committed" | "inbox: read" | "inbox: handled" | "inbox: committed") => {
                assert_eq!(again, 0, "{at:?}: {steps:#?}");
            }
            // Its messages go out while it runs, and it may begin beside what led to it.
            Some("inbox: acknowledged") => {}
            Some(place) if place.starts_with("relay: ") || place.starts_with("timer: ") => {}
            Some(_) => assert_eq!(again, 1, "at {at:?}: {steps:#?}"),
        }
        let switched = steps.iter().filter(|step| step.starts_with("the journal says switch")).count();
        assert!(switched <= 1, "at {at:?}: {steps:#?}");
    }
}

impl Ground {
    /// What the environment's history says of a job.
    async fn asked(&mut self, target: Target, job: &str) -> Value {
        let asked = self.stage.said_of("deploy.reported").len();
        let question = json!({"environment": target.environment()});
        self.stage.event("operator", &format!("report-{asked}"), "deploy.report_requested", question).await;
        self.stage.until("the history", |s| s.said_of("deploy.reported").len() > asked).await;
        let report = self.stage.said_of("deploy.reported").pop().unwrap();
        let attempts = report["payload"]["data"]["attempts"].as_array().unwrap().clone();
        let of_job = attempts.iter().find(|attempt| attempt["job_id"] == job);
        of_job.unwrap_or_else(|| panic!("{job} in {attempts:#?}")).clone()
    }
}

fn journal_of(root: &Path) -> PathBuf {
    root.join("journal.jsonl")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_goes_on_from_every_place_at_which_its_bot_ends() {
    let mut ground = Ground::lay().await;
    // Something is there that can be taken away and brought back.
    ground.deploy(Target::Served, None).await;
    ground.deploy(Target::Commands, None).await;
    let mut tried = BTreeSet::new();
    for target in [Target::Served, Target::TakenBack, Target::Commands] {
        let reached = ground.deploy(target, None).await;
        assert!(reached.len() > 20, "{reached:?}");
        for place in &reached - &tried {
            ground.deploy(target, Some(&place)).await;
            tried.insert(place);
        }
    }
    // Every step that the history shows has a place on each side of it.
    for step in ["begun-", "started", "unpacked", "intent", "switched", "verdict", "script-"] {
        for side in ["done", "committed"] {
            assert!(tried.contains(&format!("step {step}: {side}")), "{step} {side} in {tried:#?}");
        }
    }
}
