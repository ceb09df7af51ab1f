//! Targets of the operator's own commands: what they are told, what they may not tell, and bots that die between them.
#![allow(clippy::unwrap_used, reason = "test support: a broken assumption ends the test")]
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use bot_core::{Fail, Job};
use bot_messages::{
    Code, FailureReason, ObjectRef,
    alert::AlertTriggered,
    deploy::{AttemptState, DeployCompleted, DeployFailed, DeployRolledBack},
    pipeline::DeployStage,
};
use bot_test::{JobRecord, Rehearsal};

use crate::{
    field::{Ended, Field, cx, killed_after},
    killed::explains,
};

const CANARY: &str = "canary-7f3a";

/// What is outside: a machine with one place for one release, reached over the network alone.
#[derive(Default)]
struct World {
    current: String,
    /// How often each release was put there.
    deploys: BTreeMap<String, u32>,
    /// Never healthy.
    broken: Vec<String>,
    /// Nothing can be put there any more.
    full: bool,
    /// Nobody reaches it any more.
    closed: bool,
    tokens: Vec<String>,
}

impl World {
    fn heed(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            _ if self.closed => false,
            ["deploy" | "rollback", _] if self.full => false,
            ["deploy" | "rollback", hex] => {
                (*hex).clone_into(&mut self.current);
                *self.deploys.entry(self.current.clone()).or_default() += 1;
                true
            }
            ["deploy" | "rollback"] => {
                self.current.clear();
                true
            }
            ["verify", hex] => self.current == *hex && !self.broken.contains(&self.current),
            ["token", token] => {
                self.tokens.push((*token).to_owned());
                true
            }
            _ => false,
        }
    }
}

/// The world, and a field whose scripts reach it.
fn field(verify: bool) -> (Arc<Mutex<World>>, Field) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = Arc::<Mutex<World>>::default();
    let served = Arc::clone(&world);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let _ = BufReader::new(&mut stream).read_line(&mut line);
            let answer = if served.lock().unwrap().heed(&line) { "ok" } else { "no" };
            let _ = writeln!(stream, "{answer}");
        }
    });
    let say =
        "say() { exec 3<>/dev/tcp/127.0.0.1/$WORLD; echo \"$1\" >&3; read -r answer <&3; test \"$answer\" = ok; };";
    let verify = if verify { format!("\n    verify: '{say} say \"verify $LOTA_HEX\"'") } else { String::new() };
    let environments = format!(
        "local:
  repositories: ['shop/*']
  refs: [refs/heads/*]
  health: {{deadline: 1s}}
  target:
    type: command
    path: environments/local
    env: {{WORLD: '{port}'}}
    secrets: [API_TOKEN]
    deploy: '{say} test -e \"$LOTA_RELEASE/page\"; echo \"using $API_TOKEN\"; say \"token $API_TOKEN\"; say \"deploy $LOTA_HEX\"'
    rollback: '{say} say \"rollback $LOTA_HEX\"'{verify}
    url: https://shop.example.org/
"
    );
    let field = Field::with(&environments, &[("API_TOKEN", &format!("{CANARY}\n"))]);
    (world, field)
}

fn plain(field: &Field, artifact: &ObjectRef) -> deploy_bot::DeployJob {
    field.job_of_stage(artifact, DeployStage::default())
}

fn has_no_secret(field: &Field, ended: &Ended) {
    let all =
        format!("{:?} {:?} {:?} {:?}", ended.outcome, ended.record.effects(), ended.record.lines(), field.journal());
    assert!(!all.contains(CANARY), "{all}");
}

#[tokio::test]
async fn commands_put_it_there_and_their_secrets_stay_secret() {
    let (world, field) = field(true);
    let one = field.artifact("one", "good").await;
    let ended = field.run("job-1", &plain(&field, &one)).await;
    let completed: DeployCompleted = ended.event();
    assert_eq!(completed.url.as_deref(), Some("https://shop.example.org/"));
    assert_eq!(world.lock().unwrap().current, one.digest.hex());
    assert_eq!(world.lock().unwrap().tokens, [CANARY]);
    assert_eq!(ended.record.lines(), ["using ***"]);
    has_no_secret(&field, &ended);

    let again = field.run("job-2", &plain(&field, &one)).await;
    assert_eq!(again.terminal(), ["deploy.completed"]);
    assert_eq!(world.lock().unwrap().deploys[one.digest.hex()], 1, "it was seen there");
    world.lock().unwrap().current.clear();
    field.run("job-3", &plain(&field, &one)).await.event::<DeployCompleted>();
    assert_eq!(world.lock().unwrap().current, one.digest.hex(), "someone had taken it away");

    let two = field.artifact("two", "good").await;
    field.run("job-4", &plain(&field, &two)).await.event::<DeployCompleted>();
    let back: DeployRolledBack = field.run("job-5", &field.rollback_job(None)).await.event();
    assert_eq!((back.to, world.lock().unwrap().current.as_str()), (Some(one.digest.clone()), one.digest.hex()));
    assert!(!field.root().join("work").exists(), "what scripts worked in is gone");
}

#[tokio::test]
async fn what_is_not_seen_there_is_taken_back_by_the_command_for_it() {
    let (world, field) = field(true);
    let bad = field.artifact("bad", "good").await;
    world.lock().unwrap().broken.push(bad.digest.hex().to_owned());
    let ended = field.run("job-1", &plain(&field, &bad)).await;
    assert_eq!(ended.said(), ["deploy.started", "deploy.rolled_back", "deploy.failed"]);
    assert_eq!(world.lock().unwrap().current, "", "nothing was there before");

    let one = field.artifact("one", "good").await;
    field.run("job-2", &plain(&field, &one)).await.event::<DeployCompleted>();
    let ended = field.run("job-3", &plain(&field, &bad)).await;
    let failed: DeployFailed = ended.event();
    assert_eq!((failed.reason, failed.error.code), (FailureReason::Failed, Code::HealthCheckFailed));
    let said = "the command `verify` of local ended with exit code 1, until the deadline of 1 s";
    assert!(failed.error.message.starts_with(said), "{}", failed.error.message);
    assert_eq!((failed.current, world.lock().unwrap().current.as_str()), (Some(one.digest.clone()), one.digest.hex()));
    has_no_secret(&field, &ended);
}

#[tokio::test]
async fn a_rollback_that_fails_too_calls_someone() {
    let (world, field) = field(true);
    let (one, two) = (field.artifact("one", "good").await, field.artifact("two", "good").await);
    field.run("job-1", &plain(&field, &one)).await.event::<DeployCompleted>();
    world.lock().unwrap().full = true;
    let ended = field.run("job-0", &plain(&field, &two)).await;
    assert_eq!(ended.said(), ["deploy.started", "deploy.rolled_back", "deploy.failed"], "it was never away");

    world.lock().unwrap().closed = true;
    let ended = field.run("job-2", &plain(&field, &two)).await;
    assert_eq!(ended.said(), ["deploy.started", "deploy.failed"], "it is not back, so that is not said");
    let failed: DeployFailed = ended.event();
    let message = &failed.error.message;
    assert!(message.starts_with("the command `deploy` of local ended with exit code 1"), "{message}");
    assert!(message.contains("; going back failed too: the command `rollback` of local ended"), "{message}");
    assert!(message.contains("what is there is not known"), "{message}");
    let acts = Rehearsal::new(field.bot.clone()).take("push-2", ended.outcome.as_ref().unwrap().list.clone());
    let alerts = acts.iter().filter_map(|(_, effect)| match effect {
        bot_core::Effect::Say { event_type: "alert.triggered", data, .. } => Some(data.clone()),
        _ => None,
    });
    let alerts: Vec<AlertTriggered> = alerts.map(|data| serde_json::from_value(data).unwrap()).collect();
    assert_eq!(alerts.len(), 1);
    assert!(alerts[0].summary.contains("local needs a person") && alerts[0].summary.contains("going back failed too"));
    has_no_secret(&field, &ended);
}

#[tokio::test]
async fn a_missing_secret_is_told_before_anything_is_touched() {
    let (world, field) = field(true);
    let one = field.artifact("one", "good").await;
    std::fs::remove_file(field.root().join("../../../config/deploy-secrets/API_TOKEN")).unwrap();
    let ended = field.run("job-1", &plain(&field, &one)).await;
    let Err(Fail::Reject { error, .. }) = ended.outcome else { panic!("{:?}", ended.outcome) };
    let told = format!("{error:#}");
    assert!(told.contains("no secret `API_TOKEN`") && told.contains("deploy-secrets/API_TOKEN"), "{told}");
    assert_eq!((field.journal().len(), world.lock().unwrap().current.as_str()), (0, ""));
}

/// Kills the bot at every third point at which it waits for something, and starts another.
#[tokio::test]
async fn a_bot_that_dies_between_any_two_steps_asks_before_it_repeats() {
    let (world, mut field) = field(true);
    let (mut found, mut polls) = (0, 1);
    loop {
        let id = format!("job-{polls}");
        let artifact = field.artifact(&polls.to_string(), "good").await;
        let (job, record) = (plain(&field, &artifact), JobRecord::new());
        let (bot, cx) = (field.bot.clone(), cx(&id, &record));
        let killed = killed_after(polls, job.run(&bot, &cx)).await;
        let is_last = killed.is_some();
        let ended = match killed {
            Some(outcome) => Ended { outcome, record },
            None => {
                field.restart();
                field.attempt(&id, &job, &record).await
            }
        };
        assert_eq!(ended.terminal(), ["deploy.completed"], "{id}: {:?}", ended.outcome);
        assert_eq!((field.switches(&id), world.lock().unwrap().current.as_str()), (1, artifact.digest.hex()), "{id}");
        let attempt = field.explained(&artifact, DeployStage::default(), &ended);
        assert_eq!(attempt.state, AttemptState::Succeeded, "{attempt:#?}");
        explains(&attempt, &ended, !is_last);
        let steps = format!("{:?}", ended.record.effects());
        found += u32::from(steps.contains("an earlier attempt had put it there"));
        if is_last {
            break;
        }
        polls += 3;
    }
    assert!(polls > 10 && found > 0, "it was never killed late: {polls}, {found}");
}
