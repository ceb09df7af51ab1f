//! The bot's handlers and timers on a clock of their own, without jobs: what they say and start, and in whose name. What
//! jobs do to a machine is in `tests/`.
mod gates;
mod people;

use std::{fs, time::Duration};

use bot_core::{Effect, GaveUp, Job};
use bot_messages::{
    Code, Digest, FailureReason, SafeError,
    deploy::{Attempt, AttemptState, Gate},
    pipeline::When,
};
use bot_test::{Acts, Rehearsal};
use words::End;

use super::*;

const ENVIRONMENTS: &str = "
local: {repositories: ['*'], refs: ['refs/heads/*'], target: {type: directory, path: local}}
staging: {repositories: ['shop/*'], refs: [refs/heads/main], target: {type: directory, path: staging}}
live:
  repositories: ['shop/*']
  refs: [refs/heads/main]
  promote_from: staging
  approval: {required: true, expires: 4h}
  freeze: [{from: 2026-12-20T00:00:00Z, until: 2027-01-04T00:00:00Z, reason: holidays}]
  target: {type: directory, path: live}
proven: {repositories: ['*'], refs: ['**'], requires: [build.completed, test.completed], target: {type: directory, path: p}}
asked: {repositories: ['*'], refs: ['**'], approval: {required: true, expires: 4h}, target: {type: directory, path: a}}
";

fn bot_of(environments: &str) -> (tempfile::TempDir, anyhow::Result<DeployBot>) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("environments.yaml"), environments).unwrap();
    let publishers =
        "publishers: [{name: ci, says: [test.completed, deploy.requested], repositories: ['https://**']}]\n";
    fs::write(dir.path().join("publishers.yaml"), publishers).unwrap();
    let mut tools = Tools::default();
    tools.dir = dir.path().join("bot");
    tools.objects = dir.path().join("objects").to_string_lossy().into_owned();
    tools.config_dir = dir.path().to_owned();
    let bot = DeployBot::new(Settings::default(), tools);
    (dir, bot)
}

struct Stage {
    _dir: tempfile::TempDir,
    r: Rehearsal<DeployBot>,
}

fn stage() -> Stage {
    let (dir, bot) = bot_of(ENVIRONMENTS);
    Stage { _dir: dir, r: Rehearsal::new(Arc::new(bot.unwrap())) }
}

fn digest(letter: char) -> Digest {
    Digest::from_hex(&letter.to_string().repeat(64)).unwrap()
}

/// The test of the push with this number; its artifact is named by a letter.
fn tested(letter: char, push: u64, environments: &[&str]) -> TestCompleted {
    let example = <TestCompleted as Event>::example();
    TestCompleted {
        artifact: ObjectRef { digest: digest(letter), ..example.artifact },
        revision: Revision { sequence: Some(push), ..Revision::example() },
        deploy: environments.iter().map(|name| ((*name).to_owned(), DeployStage::default())).collect(),
        ..<TestCompleted as Event>::example()
    }
}

/// Types of what is said and kinds of jobs that begin, each behind its correlation.
fn told(acts: &Acts) -> Vec<String> {
    let word = |effect: &Effect| match effect {
        Effect::Say { event_type, .. } => (*event_type).to_owned(),
        Effect::Start { key, .. } => format!("job for {key}"),
        other => panic!("{other:?}"),
    };
    acts.iter().map(|(correlation, effect)| format!("{correlation} {}", word(effect))).collect()
}

/// The only event of its type.
fn event<E: Event>(acts: &Acts) -> E {
    let found: Vec<&serde_json::Value> = acts
        .iter()
        .filter_map(|(_, effect)| match effect {
            Effect::Say { event_type, data, .. } if *event_type == E::TYPE => Some(data),
            _ => None,
        })
        .collect();
    assert_eq!(found.len(), 1, "{} in {:?}", E::TYPE, told(acts));
    serde_json::from_value(found[0].clone()).unwrap()
}

/// The only job that begins, and the correlation it belongs to.
fn job_of(acts: &Acts) -> (String, DeployJob) {
    let jobs: Vec<(String, DeployJob)> = acts
        .iter()
        .filter_map(|(correlation, effect)| match effect {
            Effect::Start { payload, .. } => {
                Some((correlation.clone(), serde_json::from_value(payload.clone()).unwrap()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(jobs.len(), 1, "one job in {:?}", told(acts));
    jobs[0].clone()
}

impl Stage {
    /// A push of its own correlation `push-<number>` passed its tests.
    fn push(&mut self, letter: char, push: u64, environments: &[&str]) -> Acts {
        self.r.hear(&format!("push-{push}"), "test-bot", &tested(letter, push, environments)).unwrap()
    }

    fn ask<E: Event>(&mut self, event: &E) -> Acts {
        self.r.hear("ask", "operator", event).unwrap()
    }

    /// Someone asks for an artifact.
    fn deploy(&mut self, environment: &str, letter: char) -> Acts {
        let requested_by = Some("ada".into());
        self.ask(&DeployRequested { environment: environment.into(), digest: digest(letter), requested_by })
    }

    /// A job ends like this.
    fn end(&mut self, job: &(String, DeployJob), state: AttemptState) -> Acts {
        let (correlation, job) = job;
        let digest = job.want.digest().cloned();
        let current = digest.clone();
        let end = End { job_id: "job-1".into(), state, why: "so it ended".into(), digest, current };
        self.r.take(correlation, job.ended(end).list)
    }

    fn report(&mut self, environment: &str) -> DeployReported {
        event(&self.ask(&DeployReportRequested { environment: environment.into(), attempts_max: None }))
    }

    fn attempt(&mut self, environment: &str, number: u64) -> Attempt {
        let report = self.report(environment);
        let attempt = report.attempts.iter().find(|attempt| attempt.number == number);
        attempt.unwrap_or_else(|| panic!("no attempt {number} in {report:#?}")).clone()
    }

    fn note(&self) -> &str {
        self.r.notes.last().map_or("", String::as_str)
    }
}

fn only_branch(branch: &str) -> DeployStage {
    DeployStage { when: Some(When { branch: branch.into(), ..When::default() }), ..DeployStage::default() }
}

#[test]
fn what_passed_goes_where_the_pipeline_and_the_operator_agree() {
    let mut stage = stage();
    let mut event = tested('a', 1, &["local", "staging"]);
    event.deploy.insert("staging".into(), only_branch("main"));
    let acts = stage.r.hear("push-1", "test-bot", &event).unwrap();
    assert_eq!(told(&acts), ["push-1 job for local", "push-1 job for staging"]);
    let noted = "local: aaaaaaaaaaaa goes there. staging: aaaaaaaaaaaa goes there.";
    assert_eq!(stage.note(), noted, "`lota push --follow` counts the deployments in it");
    let attempt = stage.attempt("staging", 1);
    assert_eq!((attempt.state, attempt.by.as_str()), (AttemptState::Running, "a push of refs/heads/main"));
}

#[test]
fn a_wish_that_is_not_granted_is_told_in_one_sentence() {
    let mut stage = stage();
    let mut event = tested('a', 1, &["prod", "staging"]);
    event.deploy.insert("local".into(), only_branch("release"));
    event.revision.git_ref = "refs/heads/topic".into();
    assert!(stage.r.hear("push-1", "test-bot", &event).unwrap().is_empty());
    let told = "local: the pipeline file sends it there only for branch release, and this is refs/heads/topic. \
                prod: there is no such environment in environments.yaml, which has: asked, live, local, proven, staging. \
                staging: environments.yaml takes nothing from refs/heads/topic: only from refs/heads/main.";
    assert_eq!(stage.note(), told);

    let mut event = tested('a', 1, &["staging"]);
    event.revision.repository = "evil/api".into();
    assert!(stage.r.hear("push-2", "test-bot", &event).unwrap().is_empty());
    let told = "staging: environments.yaml takes nothing from the repository evil/api: only from shop/*.";
    assert_eq!(stage.note(), told);
    assert!(stage.push('a', 1, &[]).is_empty());
    assert_eq!(stage.note(), "the pipeline file asks for no deployment");
}

#[test]
fn proofs_are_joined_by_commit_and_digest_in_any_order() {
    let built = |letter: char, push: u64| BuildCompleted {
        artifact: tested(letter, push, &[]).artifact,
        revision: tested(letter, push, &[]).revision,
        ..<BuildCompleted as Event>::example()
    };
    for built_first in [true, false] {
        let mut stage = stage();
        if built_first {
            assert!(stage.r.hear("push-1", "build-bot", &built('a', 1)).unwrap().is_empty());
        }
        let first = stage.push('a', 1, &["proven", "local"]);
        assert_eq!(told(&first).len(), if built_first { 2 } else { 1 });
        if !built_first {
            assert_eq!(stage.note(), "local: aaaaaaaaaaaa goes there. proven: aaaaaaaaaaaa waits for build.completed.");
            let mut other = built('a', 1);
            other.revision.commit = "b".repeat(40).parse().unwrap();
            assert!(stage.r.hear("push-1", "build-bot", &other).unwrap().is_empty(), "of another commit");
            let refused: DeployFailed = event(&stage.deploy("proven", 'a'));
            let why = "proven requires build.completed of aaaaaaaaaaaa at 4f2d9c1e, and nobody has said it";
            assert_eq!((refused.error.message.as_str(), refused.error.code), (why, Code::PermissionDenied));
            let second = stage.r.hear("push-1", "build-bot", &built('a', 1)).unwrap();
            assert_eq!(told(&second), ["push-1 job for proven"], "local has it already");
        }
    }
}

#[test]
fn what_was_not_tested_or_may_not_go_there_is_refused_with_the_reason() {
    let mut stage = stage();
    let why = |acts: Acts| {
        assert_eq!(told(&acts), ["ask deploy.failed"]);
        let failed: DeployFailed = event(&acts);
        assert_eq!(
            (failed.error.code, failed.job_id, failed.reason),
            (Code::PermissionDenied, None, FailureReason::Error)
        );
        failed.error.message
    };
    let untested = why(stage.deploy("staging", 'a'));
    assert!(untested.starts_with("aaaaaaaaaaaa was never seen to pass its tests"), "{untested}");
    let unknown = why(stage.deploy("prod", 'a'));
    assert!(unknown.starts_with("prod: there is no such environment"), "{unknown}");

    let mut elsewhere = tested('b', 1, &["staging"]);
    elsewhere.revision.git_ref = "refs/heads/topic".into();
    stage.r.hear("push-1", "test-bot", &elsewhere).unwrap();
    let told = why(stage.deploy("staging", 'b'));
    assert_eq!(told, "staging: environments.yaml takes nothing from refs/heads/topic: only from refs/heads/main.");

    stage.push('c', 2, &["local"]);
    let unnamed = why(stage.deploy("staging", 'c'));
    let expected = "the pipeline file of 4f2d9c1e does not say how cccccccccccc goes to staging: it names local; name \
                    staging there and push";
    assert_eq!(unnamed, expected, "an application that is served would be taken down by it");
}

#[test]
fn another_ci_can_vouch_where_the_broker_lets_it() {
    let mut stage = stage();
    let acts = stage.r.hear("ci-1", "ci", &tested('a', 1, &["local"])).unwrap();
    assert_eq!(told(&acts), ["ci-1 job for local"]);
    let shelf = stage.r.state(&proofs::key(&digest('a'))).shelf;
    assert_eq!(shelf.newest_test(&digest('a')).unwrap().publisher, "ci", "whose word it was is kept");
}

#[test]
fn nobody_vouches_or_asks_for_a_repository_that_is_not_listed_for_them() {
    let mut stage = stage();
    let mut elsewhere = tested('a', 1, &["local"]);
    elsewhere.revision.url = "/srv/git/api".into();
    let refused = |outcome: Result<Acts, bot_core::Fail>| outcome.unwrap_err().message();
    let told = refused(stage.r.hear("ci-1", "ci", &elsewhere));
    assert!(told.contains("ci may not speak for `/srv/git/api`") && told.contains("publishers.yaml"), "{told}");
    let told = refused(stage.r.hear("x-1", "stranger", &tested('a', 1, &["local"])));
    assert!(told.contains("stranger is not listed"), "{told}");
    assert!(stage.r.state(&proofs::key(&digest('a'))).shelf.is_empty(), "a proof was kept");
    stage.r.hear("push-1", "test-bot", &elsewhere).unwrap();
    let asked = DeployRequested { environment: "local".into(), digest: digest('a'), requested_by: None };
    assert!(refused(stage.r.hear("ci-2", "ci", &asked)).contains("may not speak"));
    assert!(stage.r.hear("ask", "operator", &asked).is_ok());
}

#[test]
fn an_artifact_of_two_revisions_goes_where_either_may() {
    let mut stage = stage();
    stage.push('a', 1, &["staging"]);
    for number in 0..30 {
        let mut topic = tested('a', number, &["staging"]);
        topic.revision.git_ref = format!("refs/heads/topic-{number}");
        stage.r.hear("push-2", "test-bot", &topic).unwrap();
        stage.push('a', 1, &["staging"]);
    }
    let acts = stage.deploy("staging", 'a');
    assert_eq!(told(&acts), ["ask deploy.held"], "behind the first push");
    let state = serde_json::to_vec(&stage.r.state(&proofs::key(&digest('a')))).unwrap();
    assert!(state.len() < 20_000, "what is remembered of an artifact is bounded: {}", state.len());
}

#[test]
fn proofs_and_history_are_bounded() {
    let mut stage = stage();
    for number in 0..100_u64 {
        let mut event = tested('a', number, &[]);
        event.artifact.digest = Digest::from_hex(&format!("a{number:063x}")).unwrap();
        stage.r.hear("push", "test-bot", &event).unwrap();
        stage.r.pass(Duration::from_secs(60));
    }
    let key = |number: u64| Digest::from_hex(&format!("a{number:063x}")).unwrap();
    let shelf = stage.r.state("proofs:a").shelf;
    let known: Vec<u64> = (0..100).filter(|number| shelf.newest_test(&key(*number)).is_some()).collect();
    assert_eq!(known, (68..100).collect::<Vec<u64>>(), "the newest of a shelf");
    stage.r.pass(Duration::from_secs(91 * 24 * 3600));
    stage.push('a', 200, &[]);
    assert!(stage.r.state("proofs:a").shelf.newest_test(&key(99)).is_none(), "too old to be believed");

    for push in 0..250 {
        let acts = stage.push('b', push, &["local"]);
        stage.end(&job_of(&acts), AttemptState::Succeeded);
    }
    let state = stage.r.state("environment:local");
    let attempts = serde_json::to_value(&state).unwrap()["desk"]["attempts"].as_array().unwrap().len();
    assert!(
        attempts > 100 && attempts <= 200 && desk::bytes(&state) < 200 * 1024,
        "{attempts}, {}",
        desk::bytes(&state)
    );
    assert_eq!(stage.report("local").attempts.len(), 20);
    let all = DeployReportRequested { environment: "local".into(), attempts_max: Some(1000) };
    assert_eq!(event::<DeployReported>(&stage.ask(&all)).attempts.len(), 50);
}

#[test]
fn a_job_that_was_given_up_ends_with_one_event() {
    let mut stage = stage();
    let (_, job) = job_of(&stage.push('a', 1, &["local"]));
    let release = match &job.want {
        Want::Release(release) => release.clone(),
        Want::Back { .. } => panic!("a push goes on"),
    };
    let end = GaveUp {
        job_id: "job-1".into(),
        reason: FailureReason::Cancelled,
        error: SafeError::new(Code::Cancelled, "cancelled: wrong branch", stage.r.now),
        attempts: 1,
        duration_ms: 7,
    };
    let expected = DeployFailed {
        environment: "local".into(),
        revision: Some(release.revision.clone()),
        job_id: Some("job-1".into()),
        digest: release.digest().clone(),
        reason: FailureReason::Cancelled,
        error: end.error.clone(),
        current: None,
        log_tail: Vec::new(),
        duration_ms: 7,
    };
    let given_up = job.gave_up(&stage.r.bot, &end);
    let acts = stage.r.take("push-1", given_up.list);
    assert_eq!(acts, [("push-1".to_owned(), Effects::<DeployBot>::none().say(expected).list[0].clone())]);
    assert_eq!(stage.attempt("local", 1).state, AttemptState::Cancelled);

    let want = Want::Back { to: None, reason: "wrong prices".into() };
    let back = DeployJob { environment: "local".into(), number: 2, want, by: "ada".into(), by_hand: true };
    let given_up = back.gave_up(&stage.r.bot, &end);
    let acts = stage.r.take("ask-1", given_up.list);
    assert_eq!(told(&acts), ["ask-1 deploy.refused"], "nothing was ever there");
    assert_eq!(event::<DeployRefused>(&acts).error, end.error);
}

#[test]
fn mistakes_in_the_operators_file_stop_the_start() {
    let (_dir, bot) = bot_of("local: {refs: [], keep: 1}\n");
    let told = format!("{:#}", bot.err().unwrap());
    for mistake in ["environments.yaml cannot be used:", "local.repositories: is missing", "local.keep: expected 2"] {
        assert!(told.contains(mistake), "{told}");
    }
}

#[test]
fn the_shipped_files_are_read() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../deploy/config");
    let environments = fs::read_to_string(format!("{shipped}/environments.yaml")).unwrap();
    let (_dir, bot) = bot_of(&environments);
    let bot = bot.unwrap();
    assert_eq!(bot.environments.keys().collect::<Vec<_>>(), ["local"]);
    assert!(bot.environments["local"].admits(&bot_messages::Revision::example()).is_ok());
    let config = fs::read_to_string(format!("{shipped}/deploy-bot.yaml")).unwrap();
    let config: bot_core::BotConfig<Settings> = serde_saphyr::from_str(&config).unwrap();
    let settings = config.settings;
    assert_eq!(settings, Settings::default(), "what is shipped are the defaults");
}

#[test]
fn its_contract_names_what_the_fleet_lets_it_do() {
    let contract = bot_core::contract_of::<DeployBot>();
    let hears = [
        "approval.denied",
        "approval.granted",
        "build.completed",
        "deploy.freeze_requested",
        "deploy.report_requested",
        "deploy.requested",
        "deploy.rollback_requested",
        "deploy.unfreeze_requested",
        "test.completed",
    ];
    assert_eq!(contract.hears, hears);
    assert!(!contract.says.iter().any(|said| contract.hears.contains(said)), "it never asks itself");
    assert_eq!(contract.jobs, ["collect", "deploy"]);
}
