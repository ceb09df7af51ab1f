//! A bot that dies at any point of a job, and another that goes on from there.
use bot_core::Job;
use bot_messages::deploy::{Attempt, AttemptState, DeployCompleted};
use bot_test::JobRecord;

use crate::field::{Ended, Field, cx, killed_after, stage};

/// Whatever happened: one terminal event, one switch (and one back), one process, the right page.
pub(crate) async fn one_of_each(field: &Field, id: &str, ended: &Ended, good: bool, page: &str) {
    let (terminal, switches) = if good { ("deploy.completed", 1) } else { ("deploy.failed", 2) };
    assert_eq!(ended.terminal(), [terminal], "{id}: {:?}", ended.outcome);
    assert_eq!(ended.said().iter().filter(|said| **said == "deploy.started").count(), 1, "{id}");
    assert_eq!(field.switches(id), switches, "{id}: {:#?}", field.journal());
    assert_eq!(field.processes().len(), 1, "{id}");
    assert_eq!(field.page().await.as_deref(), Some(page), "{id}");
}

/// Whoever reads the history sees each step once, in order, and where the bot had died.
pub(crate) fn explains(attempt: &Attempt, ended: &Ended, was_killed: bool) {
    let steps: Vec<&str> = attempt.steps.iter().map(|step| step.what.as_str()).collect();
    let begun = steps.iter().filter(|step| **step == "begun").count();
    let again = steps.iter().filter(|step| step.starts_with("begun again, attempt 2")).count();
    // One that died before it could write anything down is begun for the second time, and says only that.
    assert!(begun + again >= 1 && begun <= 1 && again == usize::from(was_killed), "{steps:?}");
    for step in ["unpacked", "switching from"] {
        assert_eq!(steps.iter().filter(|told| told.starts_with(step)).count(), 1, "{steps:?}");
    }
    assert_eq!(attempt.job_id.is_some(), !ended.record.effects().is_empty());
    assert!(!attempt.why.is_empty() && attempt.ended_at.is_some(), "{attempt:#?}");
}

/// Kills the bot at every fourth point at which it waits for something, and starts another.
async fn killed_everywhere(mode: &str, good: bool, first: usize) {
    let mut field = Field::new();
    let one = field.artifact("0", "good").await;
    field.run("job-first", &field.deploy_job(&one)).await.event::<DeployCompleted>();
    let mut page = "0".to_owned();
    for polls in (first..).step_by(4) {
        let id = format!("job-{polls}");
        let artifact = field.artifact(&polls.to_string(), mode).await;
        let (job, record) = (field.deploy_job(&artifact), JobRecord::new());
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
        if good {
            page = polls.to_string();
        }
        one_of_each(&field, &id, &ended, good, &page).await;
        let attempt = field.explained(&artifact, stage("exec \"$HOME/site\""), &ended);
        let expected = if good { AttemptState::Succeeded } else { AttemptState::RolledBack };
        assert_eq!(attempt.state, expected, "{attempt:#?}");
        explains(&attempt, &ended, !is_last);
        if is_last {
            assert!(polls > 10, "it was never killed late: {polls}");
            break;
        }
    }
}

#[tokio::test]
async fn a_good_release_comes_up_once_killed_at_each_first_of_four() {
    killed_everywhere("good", true, 1).await;
}

#[tokio::test]
async fn a_good_release_comes_up_once_killed_at_each_second_of_four() {
    killed_everywhere("good", true, 2).await;
}

#[tokio::test]
async fn a_good_release_comes_up_once_killed_at_each_third_of_four() {
    killed_everywhere("good", true, 3).await;
}

#[tokio::test]
async fn a_good_release_comes_up_once_killed_at_each_fourth_of_four() {
    killed_everywhere("good", true, 4).await;
}

#[tokio::test]
async fn a_bad_release_is_taken_back_once_killed_at_each_first_of_four() {
    killed_everywhere("exit", false, 1).await;
}

#[tokio::test]
async fn a_bad_release_is_taken_back_once_killed_at_each_second_of_four() {
    killed_everywhere("exit", false, 2).await;
}

#[tokio::test]
async fn a_bad_release_is_taken_back_once_killed_at_each_third_of_four() {
    killed_everywhere("exit", false, 3).await;
}

#[tokio::test]
async fn a_bad_release_is_taken_back_once_killed_at_each_fourth_of_four() {
    killed_everywhere("exit", false, 4).await;
}
