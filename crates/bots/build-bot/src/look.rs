//! What a schedule of BuildBot's configuration does: it looks where a ref of a remote points to, and says that as a push.
use bot_core::{Effects, Fail, GaveUp, Job, JobCx, Outcome};
use bot_messages::{
    Code, CommitId, Revision,
    pipeline::Trigger,
    repository::{RepositoryPushed, name_of_url},
};
use bot_pipeline::Folder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{BuildBot, credential::Credential, git::Place, mirrors::FetchError, remote::Remote, work_dir};

const NAME_CHARS_MAX: usize = 200;

/// What a look is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Only {
    /// Polling: nothing is said of a commit that is known.
    Changed,
}

/// The `data` of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Look {
    pub(crate) url: String,
    /// The full ref.
    #[serde(rename = "ref")]
    pub(crate) git_ref: String,
    /// The repository's name in the fleet; absent: by its URL.
    #[serde(default)]
    pub(crate) repository: String,
    /// Absent: whatever the ref points to is built.
    #[serde(default)]
    pub(crate) only: Option<Only>,
}

impl Look {
    /// The error says what was expected.
    pub(crate) fn read(data: &Value) -> Result<Self, String> {
        let mut look = Self::deserialize(data).map_err(|e| {
            format!(
                "`data`: {e}; expected {{url: …, ref: refs/heads/main}}, and perhaps `repository` and `only: changed`"
            )
        })?;
        if look.repository.is_empty() {
            look.repository = name_of_url(&look.url);
        }
        if look.repository.is_empty() || look.repository.chars().count() > NAME_CHARS_MAX {
            return Err(format!(
                "`data.repository`: expected a name of 1 to {NAME_CHARS_MAX} characters, such as shop/api"
            ));
        }
        Ok(look)
    }
}

/// Looks once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LookJob {
    pub(crate) look: Look,
    /// What was pushed to the ref last, as far as BuildBot knew when the time came.
    pub(crate) known: Option<CommitId>,
}

impl Job for LookJob {
    type Bot = BuildBot;
    const KIND: &'static str = "look";

    /// While one look waits for its server, those after it must not take the places of builds.
    fn exclusive(&self) -> Option<String> {
        Some(format!("look {} {}", self.look.url, self.look.git_ref))
    }

    async fn run(&self, bot: &BuildBot, cx: &JobCx<BuildBot>) -> Outcome<BuildBot> {
        let commit = self.tip(bot, cx).await?;
        let Look { url, git_ref, repository, only } = self.look.clone();
        if only == Some(Only::Changed) && self.known.as_ref() == Some(&commit) {
            let note = format!("{git_ref} of {repository} is still at {}", commit.short());
            cx.line(&note);
            return Ok(Effects::ignored(note));
        }
        cx.line(&format!("{git_ref} of {repository} is at {}", commit.short()));
        let event = if only == Some(Only::Changed) { Trigger::Push } else { Trigger::Schedule };
        Ok(Effects::none().say(RepositoryPushed {
            before: self.known.clone().filter(|known| *known != commit),
            revision: Revision { repository, url, git_ref, commit, sequence: None },
            pusher: None,
            title: None,
            event: Some(event),
            bundle: None,
        }))
    }

    /// Nothing: no commit is known that could have failed, and the next time comes.
    fn gave_up(&self, _: &BuildBot, end: &GaveUp) -> Effects<BuildBot> {
        let Look { url, git_ref, .. } = &self.look;
        tracing::warn!(job_id = end.job_id, url, git_ref, "not looked at this time: {}", end.error.message);
        Effects::none()
    }
}

impl LookJob {
    async fn tip(&self, bot: &BuildBot, cx: &JobCx<BuildBot>) -> Result<CommitId, Fail> {
        let Look { url, git_ref, repository, .. } = &self.look;
        let reject = |code: Code, why: String| Fail::reject(code, anyhow::anyhow!(why));
        // Again, as the list may be another since the time came.
        let listed = bot.admits(repository, url, git_ref).map_err(|(code, why)| reject(code, why))?;
        let remote = Remote::parse(url, bot.config.allow_unencrypted);
        let remote = remote.map_err(|why| reject(Code::InvalidField, why))?;
        let credential = listed.credential.as_ref().map(|name| Credential::find(name, &bot.secrets, &remote));
        let credential = credential.transpose().map_err(|why| reject(Code::FetchFailed, why))?;
        let sandbox = bot.sandbox().await?;
        let name = bot_pipeline::name_of(&cx.id);
        let label = format!("{name}:");
        if !cx.is_first_claim() {
            sandbox.reap_stale(&label).await.map_err(Fail::retry)?;
        }
        let folder = Folder::make(&work_dir(&bot.tools), &name, cx.token).await.map_err(Fail::retry)?;
        let (tree, home) = (folder.tree(), folder.git_home());
        let place = Place { sandbox, repository: &tree, home: &home, label: &label, stop: &cx.cancelled };
        let tip = bot.mirrors.tip(&remote, credential.as_ref(), git_ref, place).await;
        if let Err(e) = folder.remove().await {
            tracing::warn!(job_id = cx.id, "the job's folder stays until the next start: {e}");
        }
        tip.map_err(|e| match e {
            FetchError::Refused(_) => Fail::reject(Code::FetchFailed, e),
            // Not put off without end where the host is left alone: looks would pile up, and the next time comes.
            FetchError::Unreachable(_) | FetchError::Later(..) | FetchError::Machine(_) => Fail::retry(e),
        })
    }
}

#[cfg(test)]
mod tests {
    use bot_core::{Bot, Handle, Meta, TimerDue};
    use serde_json::json;

    use super::*;
    use crate::{Pushes, tests::bot};

    fn meta(publisher: &str) -> Meta {
        Meta {
            id: "m-1".into(),
            publisher: publisher.into(),
            correlation_id: "c-1".into(),
            priority: bot_messages::Priority::Medium,
            attempt: 1,
            now: chrono::DateTime::UNIX_EPOCH,
        }
    }

    fn poll() -> Value {
        json!({"url": "/srv/git/api", "ref": "refs/heads/main", "only": "changed"})
    }

    fn push(commit: &str, event: Option<Trigger>) -> RepositoryPushed {
        let look = Look::read(&poll()).unwrap();
        let Look { url, git_ref, repository, .. } = look;
        let commit = commit.repeat(40).parse().unwrap();
        let revision = Revision { repository, url, git_ref, commit, sequence: None };
        RepositoryPushed { revision, before: None, pusher: None, title: None, event, bundle: None }
    }

    #[test]
    fn a_schedule_is_about_a_listed_repository_with_a_full_ref() {
        let (_dir, bot) = bot();
        assert_eq!(bot.schedule_key(&poll()), Ok("api".into()));
        let named = json!({"url": "/srv/git/api", "ref": "refs/tags/v1", "repository": "shop/api"});
        assert_eq!(bot.schedule_key(&named), Ok("shop/api".into()));
        for (field, value, want) in [
            ("url", json!("/elsewhere/api"), "repositories.yaml"),
            ("url", json!("ext::sh -c id"), "expected https://"),
            ("ref", json!("main"), "expected the full name"),
            ("only", json!("new"), "unknown variant `new`, expected `changed`"),
            ("branch", json!("main"), "unknown field `branch`"),
            ("ref", Value::Null, "expected {url: …, ref: refs/heads/main}"),
            ("repository", json!("x".repeat(201)), "1 to 200 characters"),
        ] {
            let mut data = poll();
            data[field] = value;
            let why = bot.schedule_key(&data).unwrap_err();
            assert!(why.contains(want), "{why}");
        }
        assert!(bot.schedule_key(&Value::Null).unwrap_err().contains("`data`"));
    }

    #[test]
    fn the_samples_in_the_shipped_file_can_be_taken_as_they_are() {
        let text = include_str!("../../../../deploy/config/build-bot.yaml");
        let commented = text.lines().filter_map(|line| line.strip_prefix("  # "));
        let of_list = commented.filter(|line| line.starts_with("- ") || line.starts_with("  "));
        let samples: Vec<Value> = serde_saphyr::from_str(&of_list.collect::<Vec<_>>().join("\n")).unwrap();
        let only: Vec<_> = samples.iter().map(|sample| Look::read(&sample["data"]).unwrap().only).collect();
        assert_eq!(only, [None, Some(Only::Changed)]);
    }

    #[test]
    fn when_it_is_due_a_job_begins_that_knows_the_last_commit() {
        let (_dir, bot) = bot();
        let mut state: Option<Pushes> = None;
        let due = TimerDue { name: "poll".into(), data: poll() };
        let look = Look::read(&poll()).unwrap();
        let begun = |known: Option<CommitId>| Effects::none().start("api", &LookJob { look: look.clone(), known });
        assert_eq!(bot.on_schedule(&due, &mut state, &meta("build-bot")).unwrap(), begun(None));
        let heard = push("a", None);
        bot.handle(heard.clone(), &mut state, &meta("ci")).unwrap();
        assert_eq!(bot.on_schedule(&due, &mut state, &meta("build-bot")).unwrap(), begun(Some(heard.revision.commit)));
    }

    #[test]
    fn what_was_pushed_while_it_looked_is_not_built_again() {
        let (_dir, bot) = bot();
        let mut state: Option<Pushes> = None;
        let mut starts = |push: RepositoryPushed, by: &str| {
            let effects = bot.handle(push, &mut state, &meta(by)).unwrap();
            assert_eq!(effects.list.is_empty(), effects.note.is_some());
            effects.list.len()
        };
        assert_eq!(starts(push("a", None), "ci"), 1);
        let own = BuildBot::ABOUT.name.parse::<bot_messages::BotName>().unwrap().slug();
        assert_eq!(starts(push("a", Some(Trigger::Push)), &own), 0);
        assert_eq!(starts(push("a", Some(Trigger::Schedule)), "build-bot"), 1, "the clock asked for it");
        assert_eq!(starts(push("a", None), "ci"), 1, "so did someone");
        assert_eq!(starts(push("b", Some(Trigger::Push)), "build-bot"), 1);
    }
}
