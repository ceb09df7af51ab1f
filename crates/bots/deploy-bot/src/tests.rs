//! The handlers, compared by their effects; the shipped configuration; what is said of a job that was given up. What
//! jobs do to a machine is in `tests/`.
use std::fs;

use bot_messages::{deploy::DeployFailed, pipeline::When};
use chrono::DateTime;

use super::*;

const ENVIRONMENTS: &str = "
staging: {repositories: ['shop/*'], refs: [refs/heads/main], target: {type: directory, path: staging}}
local: {repositories: ['*'], refs: ['refs/heads/*'], target: {type: directory, path: local}}
";

fn bot_of(environments: &str) -> (tempfile::TempDir, anyhow::Result<DeployBot>) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("environments.yaml"), environments).unwrap();
    let mut tools = Tools::default();
    tools.dir = dir.path().join("bot");
    tools.objects = dir.path().join("objects").to_string_lossy().into_owned();
    tools.config_dir = dir.path().to_owned();
    let bot = DeployBot::new(Settings::default(), tools);
    (dir, bot)
}

fn bot() -> (tempfile::TempDir, DeployBot) {
    let (dir, bot) = bot_of(ENVIRONMENTS);
    (dir, bot.unwrap())
}

fn meta() -> Meta {
    Meta {
        id: "message-1".into(),
        publisher: "test-bot".into(),
        correlation_id: "correlation-1".into(),
        priority: bot_messages::Priority::Medium,
        attempt: 1,
        now: DateTime::from_timestamp(1_793_534_400, 0).unwrap(),
    }
}

fn tested(deploy: &[(&str, DeployStage)]) -> TestCompleted {
    let deploy = deploy.iter().map(|(name, stage)| ((*name).to_owned(), stage.clone())).collect();
    TestCompleted { deploy, ..bot_messages::Event::example() }
}

fn only_branch(branch: &str) -> DeployStage {
    DeployStage { when: Some(When { branch: branch.into(), ..When::default() }), ..DeployStage::default() }
}

fn job(name: &str, event: &TestCompleted, by: Option<&str>) -> DeployJob {
    let stage = event.deploy.get(name).cloned().unwrap_or_default();
    DeployJob::of(name, &event.artifact, &event.revision, &stage, by.map(str::to_owned))
}

fn by_hand(job: DeployJob) -> DeployJob {
    DeployJob { by_hand: true, ..job }
}

#[test]
fn what_passed_goes_where_the_pipeline_and_the_operator_agree() {
    let (_dir, bot) = bot();
    let event = tested(&[("staging", only_branch("main")), ("local", DeployStage::default())]);
    let effects = bot.handle(event.clone(), &mut Artifact::default(), &meta()).unwrap();
    let expected = Effects::none()
        .start("local", &job("local", &event, None))
        .start("staging", &job("staging", &event, None))
        .note("local: 3f8a3f8a3f8a goes there. staging: 3f8a3f8a3f8a goes there.");
    assert_eq!(effects, expected);
    assert_eq!(job("staging", &event, None).exclusive().as_deref(), Some("environment:staging"));
}

#[test]
fn a_wish_that_is_not_granted_is_told_in_one_sentence() {
    let (_dir, bot) = bot();
    let mut event = tested(&[
        ("local", only_branch("release")),
        ("prod", DeployStage::default()),
        ("staging", DeployStage::default()),
    ]);
    event.revision.git_ref = "refs/heads/topic".into();
    let effects = bot.handle(event, &mut Artifact::default(), &meta()).unwrap();
    let told = "local: the pipeline file sends it there only for branch release, and this is refs/heads/topic. \
                prod: there is no such environment in environments.yaml, which has: local, staging. \
                staging: environments.yaml takes nothing from refs/heads/topic: only from refs/heads/main.";
    assert_eq!(effects, Effects::ignored(told));

    let mut event = tested(&[("staging", DeployStage::default())]);
    event.revision.repository = "evil/api".into();
    let effects = bot.handle(event, &mut Artifact::default(), &meta()).unwrap();
    assert_eq!(
        effects,
        Effects::ignored("staging: environments.yaml takes nothing from the repository evil/api: only from shop/*.")
    );
}

#[test]
fn no_wish_and_no_environments_are_ignored() {
    let (_dir, bot) = bot();
    let effects = bot.handle(tested(&[]), &mut Artifact::default(), &meta()).unwrap();
    assert_eq!(effects, Effects::ignored("the pipeline file asks for no deployment"));

    let (_dir, bot) = bot_of("");
    let event = tested(&[("local", DeployStage::default())]);
    let effects = bot.unwrap().handle(event, &mut Artifact::default(), &meta()).unwrap();
    let told = "local: there is no such environment in environments.yaml, which has: none.";
    assert_eq!(effects, Effects::ignored(told));
}

fn requested(environment: &str) -> DeployRequested {
    DeployRequested { environment: environment.into(), ..bot_messages::Event::example() }
}

fn refused(environment: &str, revision: Option<Revision>, why: &str) -> Effects<DeployBot> {
    let DeployRequested { digest, .. } = requested(environment);
    Effects::none().say(DeployFailed {
        environment: environment.into(),
        revision,
        job_id: None,
        digest,
        reason: FailureReason::Error,
        error: SafeError::new(Code::PermissionDenied, why, meta().now),
        current: None,
        log_tail: Vec::new(),
        duration_ms: 0,
    })
}

#[test]
fn what_was_tested_can_be_asked_for() {
    let (_dir, bot) = bot();
    let mut state = Artifact::default();
    let event = tested(&[]);
    let asked = requested("staging");
    assert_eq!(Handle::<TestCompleted>::key(&bot, &event), Handle::<DeployRequested>::key(&bot, &asked));
    bot.handle(event.clone(), &mut state, &meta()).unwrap();
    let effects = bot.handle(asked, &mut state, &meta()).unwrap();
    assert_eq!(effects, Effects::none().start("staging", &by_hand(job("staging", &event, Some("ada")))));
}

#[test]
fn what_was_not_tested_or_may_not_go_there_is_refused() {
    let (_dir, bot) = bot();
    let mut state = Artifact::default();
    let untested = "3f8a3f8a3f8a was never seen to pass its tests: only what a test.completed vouches for is deployed";
    let effects = bot.handle(requested("staging"), &mut state, &meta()).unwrap();
    assert_eq!(effects, refused("staging", None, untested));

    let mut event = tested(&[]);
    event.revision.git_ref = "refs/heads/topic".into();
    bot.handle(event.clone(), &mut state, &meta()).unwrap();
    let effects = bot.handle(requested("staging"), &mut state, &meta()).unwrap();
    let elsewhere = "staging: environments.yaml takes nothing from refs/heads/topic: only from refs/heads/main.";
    assert_eq!(effects, refused("staging", Some(event.revision.clone()), elsewhere));

    let effects = bot.handle(requested("prod"), &mut state, &meta()).unwrap();
    let unknown = "prod: there is no such environment in environments.yaml, which has: local, staging.";
    assert_eq!(effects, refused("prod", Some(event.revision), unknown));
}

#[test]
fn an_artifact_of_two_revisions_goes_where_either_may() {
    let (_dir, bot) = bot();
    let mut state = Artifact::default();
    let main = tested(&[]);
    bot.handle(main.clone(), &mut state, &meta()).unwrap();
    for number in 0..VOUCHED_MAX {
        let mut topic = tested(&[]);
        topic.revision.git_ref = format!("refs/heads/topic-{number}");
        bot.handle(topic, &mut state, &meta()).unwrap();
        bot.handle(main.clone(), &mut state, &meta()).unwrap();
    }
    assert_eq!(state.vouched.len(), VOUCHED_MAX, "what is remembered is bounded");
    let effects = bot.handle(requested("staging"), &mut state, &meta()).unwrap();
    assert_eq!(effects, Effects::none().start("staging", &by_hand(job("staging", &main, Some("ada")))));
}

#[test]
fn a_rollback_needs_an_environment() {
    let (_dir, bot) = bot();
    let wanted: DeployRollbackRequested = bot_messages::Event::example();
    let back = Want::Back { to: None, reason: "wrong prices".into() };
    let job = DeployJob { environment: "staging".into(), want: back, requested_by: Some("ada".into()), by_hand: true };
    let effects = bot.handle(wanted.clone(), &mut Artifact::default(), &meta()).unwrap();
    assert_eq!(effects, Effects::none().start("staging", &job));

    let elsewhere = DeployRollbackRequested { environment: "prod".into(), ..wanted };
    let refused = bot.handle(elsewhere, &mut Artifact::default(), &meta()).unwrap_err();
    let why = "prod: there is no such environment in environments.yaml, which has: local, staging.";
    assert_eq!(refused, Fail::reject(Code::Rejected, anyhow::anyhow!(why)));
}

#[test]
fn a_job_that_was_given_up_ends_with_one_event() {
    let (_dir, bot) = bot();
    let event = tested(&[("local", DeployStage::default())]);
    let end = GaveUp {
        job_id: "job-1".into(),
        reason: FailureReason::Cancelled,
        error: SafeError::new(Code::Cancelled, "cancelled: wrong branch", meta().now),
        attempts: 1,
        duration_ms: 7,
    };
    let expected = DeployFailed {
        environment: "local".into(),
        revision: Some(event.revision.clone()),
        job_id: Some("job-1".into()),
        digest: event.artifact.digest.clone(),
        reason: FailureReason::Cancelled,
        error: end.error.clone(),
        current: None,
        log_tail: Vec::new(),
        duration_ms: 7,
    };
    assert_eq!(job("local", &event, None).gave_up(&bot, &end), Effects::none().say(expected));
    let back = Want::Back { to: None, reason: "wrong prices".into() };
    let back = DeployJob { environment: "local".into(), want: back, requested_by: None, by_hand: true };
    assert_eq!(back.gave_up(&bot, &end), Effects::ignored("local: cancelled: wrong branch"), "nothing was ever there");
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
    assert_eq!(contract.hears, ["deploy.requested", "deploy.rollback_requested", "test.completed"]);
    assert_eq!(contract.says, ["deploy.started", "deploy.completed", "deploy.failed", "deploy.rolled_back"]);
    assert_eq!(contract.jobs, ["deploy"]);
}
