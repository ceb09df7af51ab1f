//! `lota push`: says that a commit arrived, and follows what comes of it.
use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use bot_clients::Kind;
use bot_messages::{
    Event, ObjectRef, Revision,
    pipeline::Trigger,
    repository::{RepositoryPushed, name_of_url},
};
use uuid::Uuid;

use super::{
    follow::{Following, Taps},
    git::{self, Found},
    operator::{Operator, Saying},
    sight,
    terminal::{Out, bytes, note, seen_enough, short},
};
use crate::{
    home::{FleetRecord, Home},
    objects::Settings,
    place::Place,
};

/// As [`Revision::repository`] allows.
const NAME_CHARS_MAX: usize = 200;

/// What `lota push` takes.
/// In `lota push --help`.
pub(crate) const PUSH_HELP: &str = "\
Exit codes with --follow:
  0    built, tested and deployed; or tested, and no deployment was asked for from this ref, or it still waits
       (the last line says which)
  1    the build, the tests or a deployment failed, or a deployment that the pipeline file asks for was refused
  124  --timeout was over; it goes on in the fleet
Without --follow: 0 once the broker has the push.";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// A git repository on this machine (or a folder in it), or a URL
    #[arg(value_name = "PATH|URL", default_value = ".")]
    target: String,
    /// A branch, a tag or, of a repository on this machine, a commit [default: what is checked out]
    #[arg(long = "ref", value_name = "REF")]
    git_ref: Option<String>,
    /// The repository's name in the fleet [default: the folder's name, or the end of the URL]
    #[arg(long)]
    name: Option<String>,
    /// Build it as asked for by hand, even if the same was built before
    #[arg(long)]
    no_cache: bool,
    /// Wait for the end, and let the exit code say how it was
    #[arg(long, short)]
    follow: bool,
    /// Show what the jobs print, too
    #[arg(long, short, requires = "follow")]
    verbose: bool,
    /// Hand the commit over in the object store, even if the bots could read the repository
    #[arg(long)]
    bundle: bool,
    /// Seconds that --follow waits
    #[arg(long, value_name = "S", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    timeout: u64,
}

impl PushArgs {
    /// A push that is waited for.
    pub(crate) fn followed(target: &str, git_ref: Option<&str>) -> Self {
        Self {
            target: target.to_owned(),
            git_ref: git_ref.map(str::to_owned),
            name: None,
            no_cache: false,
            follow: true,
            verbose: false,
            bundle: false,
            timeout: 3600,
        }
    }
}

pub(crate) async fn run(home: &Home, args: PushArgs) -> anyhow::Result<ExitCode> {
    seen_enough(follow(home, args).await.map(|(code, _)| code))
}

/// Pushes, and follows where that is asked for. Also says the correlation of all that comes of it.
pub(crate) async fn follow(home: &Home, args: PushArgs) -> anyhow::Result<(ExitCode, String)> {
    let fleet = home.fleet()?;
    let found = find(&args).await?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of_url(&found.url),
    };
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        bail!(
            "the repository's name has {} characters: expected 1 to {NAME_CHARS_MAX}; give one with --name",
            name.chars().count()
        );
    }
    if found.uncommitted > 0 {
        note(&format!(
            "{} changed or new files are not committed, so they are no part of this push",
            found.uncommitted
        ));
    }
    let bundle =
        if needs_bundle(&args, &fleet, &found).await? { Some(store_bundle(home, &found).await?) } else { None };
    let Found { url, git_ref, commit, title, .. } = found;
    let revision = Revision { repository: name, url, git_ref, commit, sequence: None };
    let headline = format!("{}@{} ({})", revision.repository, revision.commit.short(), revision.git_ref);
    let event = args.no_cache.then_some(Trigger::Manual);
    let event = RepositoryPushed { revision, before: None, pusher: None, title, event, bundle };
    say(home, &args, &event, &headline).await
}

async fn say(
    home: &Home,
    args: &PushArgs,
    event: &RepositoryPushed,
    headline: &str,
) -> anyhow::Result<(ExitCode, String)> {
    let id = Uuid::now_v7().to_string();
    let saying = Saying {
        event_type: RepositoryPushed::TYPE.to_owned(),
        data: serde_json::to_value(event)?,
        id: Some(id.clone()),
        ..Saying::default()
    };
    // Before the push, so that nothing of what follows is missed.
    let taps = if args.follow { Some(Taps::open(home).await?) } else { None };
    let operator = Operator::connect(home).await?;
    let following = taps.map(|taps| Following::new(home, taps, &id, args.verbose, Duration::from_secs(args.timeout)));
    let said = operator.say(saying).await;
    operator.close().await;
    let said = said?;
    let mut out = Out::stdout();
    out.line(&format!("pushed {headline}"))?;
    out.line(&out.paint.dim(&format!("  id and correlation {}", said.id)))?;
    let code = match following {
        Some(following) => following.until_end(&mut out).await?,
        None => {
            out.line(&out.paint.dim(&format!("  lota show {} tells what came of it", short(&said.correlation_id))))?;
            ExitCode::SUCCESS
        }
    };
    Ok((code, said.correlation_id))
}

async fn find(args: &PushArgs) -> anyhow::Result<Found> {
    let (target, wanted) = (args.target.as_str(), args.git_ref.as_deref());
    if wanted.is_some_and(|w| w.is_empty() || w.starts_with('-')) {
        bail!("--ref is `{}`: expected a branch, a tag or a commit", wanted.unwrap_or_default());
    }
    if !is_url(target) || Path::new(target).exists() {
        return git::local(Path::new(target), wanted).await;
    }
    if holds_secret(target) {
        bail!(
            "the URL holds a user or password, and messages must not: leave it out, and give the bots the credential (config/repositories.yaml)"
        );
    }
    if args.bundle {
        bail!("--bundle is for a repository on this machine; the fleet fetches {target} itself");
    }
    git::remote(target, wanted).await
}

/// `scheme://…` or `user@host:path`.
fn is_url(target: &str) -> bool {
    target.contains("://") || target.split_once(':').is_some_and(|(host, _)| host.contains('@') && !host.contains('/'))
}

/// Over HTTP a user alone can be a token; over SSH it is only a name.
fn holds_secret(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| scheme.starts_with("http") || user.contains(':'))
}

/// Whether the commit has to be handed over, because the fleet cannot fetch it from where it is.
async fn needs_bundle(args: &PushArgs, fleet: &FleetRecord, found: &Found) -> anyhow::Result<bool> {
    let Some(folder) = &found.folder else { return Ok(false) };
    if args.bundle {
        return Ok(true);
    }
    let why = sight::hidden(fleet.place.as_ref(), Place::here().as_ref(), &git::reads(folder).await?);
    if let Some(why) = &why {
        note(&format!("{why}, so the commit goes as a bundle"));
    }
    Ok(why.is_some())
}

async fn store_bundle(home: &Home, found: &Found) -> anyhow::Result<ObjectRef> {
    let dir = tempfile::tempdir().context("no temporary folder for the bundle")?;
    note(&format!("packing {} with its history", found.commit.short()));
    let file = git::bundle(found, dir.path()).await?;
    let objects = Settings::read(home)?.open()?;
    let stored = objects.put_file(&file, Kind::Bundle, "application/x-git-bundle").await?;
    note(&format!("stored a bundle of {} as {}", bytes(stored.size), stored.digest.short()));
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        for url in ["https://h/a", "git@h:a/b.git", "ssh://h/a", "file:///a"] {
            assert!(is_url(url), "{url}");
        }
        for path in [".", "/a/b", "a:b", "../x@y", "x/y@z:w"] {
            assert!(!is_url(path), "{path}");
        }
    }

    #[test]
    fn credentials_never_travel_in_a_url() {
        for url in ["https://token@h/a", "https://u:p@h/a", "ssh://u:p@h/a", "http://u:p%40@h"] {
            assert!(holds_secret(url), "{url}");
        }
        for url in ["https://h/a@b", "ssh://git@h/a", "git@h:a.git", "file:///a"] {
            assert!(!holds_secret(url), "{url}");
        }
    }
}
