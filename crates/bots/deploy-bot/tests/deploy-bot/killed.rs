//! A bot that dies at any point of a job, and another that goes on from there.
use bot_core::Job;
use bot_messages::deploy::DeployCompleted;
use bot_test::JobRecord;

use crate::field::{Ended, Field, cx, killed_after};

/// Whatever happened: one terminal event, one switch (and one back), one process, the right page.
pub(crate) async fn one_of_each(field: &Field, id: &str, ended: &Ended, good: bool, page: &str) {
    let (terminal, switches) = if good { ("deploy.completed", 1) } else { ("deploy.failed", 2) };
    assert_eq!(ended.terminal(), [terminal], "{id}: {:?}", ended.outcome);
    assert_eq!(ended.said().iter().filter(|said| **said == "deploy.started").count(), 1, "{id}");
    assert_eq!(field.switches(id), switches, "{id}: {:#?}", field.journal());
    assert_eq!(field.processes().len(), 1, "{id}");
    assert_eq!(field.page().await.as_deref(), Some(page), "{id}");
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
