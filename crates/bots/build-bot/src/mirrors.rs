//! Bare mirrors, one per repository URL: fetching exactly one commit, and writing its tree as a tar. A mirror is only
//! a cache: one that is damaged, too large or unused for long is removed and made again.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bot_core::{Breaker, BreakerOptions, Tools};
use bot_messages::{CommitId, Revision};
use bot_pipeline::{remove_tree, size_of};
use sha2::{Digest, Sha256};

use crate::{
    credential::Credential,
    git::{Answer, Git, GitError, Place},
    remote::Remote,
    take::{Taken, kept, take},
};

/// Above all that a repository says itself: every file comes out as it was committed. `export-ignore` would leave
/// files out of the source, `export-subst`, `ident`, `filter` and `text` would change them.
const ATTRIBUTES: &str = "* -export-ignore -export-subst -filter -ident -text !working-tree-encoding\n";
/// Its time of change says when the mirror was used last.
const USED: &str = "lota-last-used";
/// Hosts with a breaker of their own; whatever comes after shares one.
const BREAKERS_MAX: usize = 200;

/// The source could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// It is not there, or not for us: another attempt changes nothing.
    #[error("{0}")]
    Refused(String),
    /// The server or the way to it.
    #[error("{0}")]
    Unreachable(String),
    /// The breaker is open.
    #[error("{1}")]
    Later(Duration, String),
    /// This machine.
    #[error("{0}")]
    Machine(String),
}

impl From<GitError> for FetchError {
    fn from(e: GitError) -> Self {
        match e {
            GitError::TimedOut { .. } => Self::Unreachable(e.to_string()),
            GitError::TooMuch { .. } => Self::Refused(e.to_string()),
            GitError::Stopped | GitError::Credential(_) | GitError::Sandbox(_) => Self::Machine(e.to_string()),
        }
    }
}

/// One commit, wanted by one job.
pub(crate) struct Wanted<'a> {
    pub(crate) remote: &'a Remote,
    pub(crate) credential: Option<&'a Credential>,
    pub(crate) revision: &'a Revision,
    /// A bundle file that holds it; then the remote is not asked.
    pub(crate) bundle: Option<&'a Path>,
    /// Where git runs; its `repository` is set here.
    pub(crate) place: Place<'a>,
    /// File name of the tar in the job's git home.
    pub(crate) tar: &'a str,
    /// What the ref pointed to before, where that is known.
    pub(crate) base: Option<&'a CommitId>,
}

/// All mirrors of this bot.
#[derive(Debug)]
pub(crate) struct Mirrors {
    dir: PathBuf,
    git: Git,
    bytes_max: u64,
    count_max: usize,
    tools: Tools,
    locks: Mutex<BTreeMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    breakers: Mutex<BTreeMap<String, Breaker>>,
}

impl Mirrors {
    pub(crate) fn new(dir: PathBuf, git: Git, bytes_max: u64, count_max: usize, tools: Tools) -> Self {
        Self { dir, git, bytes_max, count_max, tools, locks: Mutex::default(), breakers: Mutex::default() }
    }

    /// Fetches the commit where the mirror lacks it, and writes its tree. One job at a time per mirror. Says which files
    /// it changed, or why that is not known.
    pub(crate) async fn fetch(&self, wanted: &Wanted<'_>) -> Result<Result<Vec<String>, String>, FetchError> {
        let mirror = self.dir.join(name_of(wanted.remote, &wanted.revision.commit));
        let lock = self.lock_of(&mirror);
        let _one_at_a_time = lock.lock().await;
        if !mirror.exists() {
            self.make_room().await;
        }
        let place = Place { repository: &mirror, ..wanted.place };
        // A damaged mirror cannot be told from an odd server by what git says, so any other failure gets a new one.
        let mut changed = Err("it was not looked at".to_owned());
        for is_last in [false, true] {
            let fetched = self.fetch_into(wanted, place).await;
            match fetched {
                Err(Trouble::Odd(why)) if is_last => return Err(FetchError::Unreachable(why)),
                Err(Trouble::Odd(why)) => {
                    tracing::warn!(mirror = %mirror.display(), why, "the mirror is made anew");
                    remove_tree(&mirror).await.map_err(|e| machine(&e))?;
                }
                Err(Trouble::Told(e)) => return Err(e),
                Ok(files) => {
                    changed = files;
                    break;
                }
            }
        }
        std::fs::write(mirror.join(USED), "").map_err(|e| machine(&e))?;
        let size = size_of(&mirror).await;
        if size > self.bytes_max {
            tracing::warn!(mirror = %mirror.display(), size, "larger than settings.mirror_mib: removed");
            remove_tree(&mirror).await.map_err(|e| machine(&e))?;
        }
        Ok(changed)
    }

    async fn fetch_into(&self, wanted: &Wanted<'_>, place: Place<'_>) -> Result<Result<Vec<String>, String>, Trouble> {
        let commit = &wanted.revision.commit;
        self.prepare(place, commit.as_str().len() == 64).await?;
        let is_kept = place.repository.join(kept(commit)).exists();
        let fetched = match wanted.bundle {
            _ if is_kept => Ok(()),
            Some(bundle) => self.unbundle(wanted, place, bundle).await,
            None => self.fetch_remote(wanted, place).await,
        };
        // What cannot be had now may have come with another commit before.
        match (take(&self.git, place, commit, wanted.base, wanted.tar).await?, fetched) {
            (Taken::Whole { changed }, _) => Ok(changed),
            (Taken::Missing, Err(trouble)) => Err(trouble),
            (Taken::Missing, Ok(())) if is_kept => Err(Trouble::Odd(format!("{commit} is gone from the mirror"))),
            (Taken::Missing, Ok(())) => Err(FetchError::Refused(format!("{commit} is no commit")).into()),
            (Taken::Failed(why), _) => Err(Trouble::Odd(why)),
        }
    }

    /// An empty mirror, where there is none or a half-made one.
    async fn prepare(&self, place: Place<'_>, is_sha256: bool) -> Result<(), Trouble> {
        let attributes = place.repository.join("info/attributes");
        if attributes.exists() {
            return Ok(());
        }
        remove_tree(place.repository).await.map_err(|e| machine(&e))?;
        std::fs::create_dir_all(place.repository).map_err(|e| machine(&e))?;
        let format = if is_sha256 { "--object-format=sha256" } else { "--object-format=sha1" };
        let made = self.git.offline(place, &[], &["init", "--quiet", "--bare", "--template=", format]).await?;
        if !made.is_yes() {
            return Err(FetchError::Machine(format!("git init failed: {}", made.text())).into());
        }
        // Last, so that it says that all went well.
        let write = || {
            std::fs::create_dir_all(place.repository.join("info"))
                .and_then(|()| std::fs::write(&attributes, ATTRIBUTES))
        };
        write().map_err(|e| machine(&e))?;
        Ok(())
    }

    async fn has(&self, place: Place<'_>, commit: &str) -> Result<bool, Trouble> {
        let object = format!("{commit}^{{commit}}");
        Ok(self.git.offline(place, &[], &["cat-file", "-e", &object]).await?.is_yes())
    }

    async fn unbundle(&self, wanted: &Wanted<'_>, place: Place<'_>, bundle: &Path) -> Result<(), Trouble> {
        let name = bundle.display().to_string();
        let reads = [bundle.to_owned()];
        let done = self.git.offline(place, &reads, &["bundle", "unbundle", &name]).await?;
        let commit = &wanted.revision.commit;
        if !done.is_yes() {
            let why = format!("the bundle that came with {} cannot be used: {}", commit.short(), done.text());
            return Err(FetchError::Refused(why).into());
        }
        if self.has(place, commit.as_str()).await? {
            return Ok(());
        }
        let held = done.lines.join(", ");
        Err(FetchError::Refused(format!("the bundle does not hold commit {commit}; it holds {held}")).into())
    }

    /// Where a ref of the remote points to now; of an annotated tag, the commit. `place` needs no repository.
    pub(crate) async fn tip(
        &self,
        remote: &Remote,
        credential: Option<&Credential>,
        git_ref: &str,
        place: Place<'_>,
    ) -> Result<CommitId, FetchError> {
        let looked = self.behind_breaker(remote, async {
            let (url, peeled) = (remote.location.as_str(), format!("{git_ref}^{{}}"));
            is_visible(remote)?;
            let args = ["ls-remote", "--quiet", "--", url, git_ref, &peeled];
            let answer = self.git.online(place, remote, credential, &args).await?;
            if !answer.is_yes() {
                return Err(trouble(url, &answer));
            }
            let at = |name: &str| answer.lines.iter().find_map(|line| line.strip_suffix(name)?.strip_suffix('\t'));
            let Some(commit) = at(&peeled).or_else(|| at(git_ref)) else {
                return Err(FetchError::Refused(format!("{url} has no {git_ref}")).into());
            };
            commit.parse().map_err(|e| FetchError::Refused(format!("{url} names {git_ref} as {e}")).into())
        });
        looked.await.map_err(|trouble| match trouble {
            Trouble::Told(e) => e,
            Trouble::Odd(why) => FetchError::Unreachable(why),
        })
    }

    async fn fetch_remote(&self, wanted: &Wanted<'_>, place: Place<'_>) -> Result<(), Trouble> {
        self.behind_breaker(wanted.remote, self.ask_remote(wanted, place)).await
    }

    /// What speaks to a host, unless that host is left alone for now.
    async fn behind_breaker<T>(
        &self,
        remote: &Remote,
        call: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let breaker = remote.host.as_deref().map(|host| self.breaker_of(host));
        let permit = breaker.as_ref().map(Breaker::permit).transpose();
        let permit = permit.map_err(|d| FetchError::Later(d.retry_in, d.to_string()))?;
        let done = call.await;
        match (permit, &done) {
            (Some(permit), Err(Trouble::Told(FetchError::Unreachable(_)))) => permit.failed(),
            // Ended by us: it says nothing about the server.
            (Some(permit), Err(Trouble::Told(FetchError::Machine(_)))) => drop(permit),
            (Some(permit), _) => permit.succeeded(),
            (None, _) => {}
        }
        done
    }

    /// By the commit's id; from a server that does not give single commits, by the ref it was pushed to.
    async fn ask_remote(&self, wanted: &Wanted<'_>, place: Place<'_>) -> Result<(), Trouble> {
        let (url, commit) = (wanted.remote.location.as_str(), wanted.revision.commit.as_str());
        let git_ref = wanted.revision.git_ref.as_str();
        is_visible(wanted.remote)?;
        let by_id = format!("+{commit}:{}", kept(&wanted.revision.commit));
        let answer = self.git.online(place, wanted.remote, wanted.credential, &fetch_args(url, &by_id)).await?;
        if answer.is_yes() {
            return Ok(());
        }
        if !is_unknown_object(&answer) {
            return Err(trouble(url, &answer));
        }
        let by_ref = format!("+{git_ref}:refs/lota/fetched");
        let answer = self.git.online(place, wanted.remote, wanted.credential, &fetch_args(url, &by_ref)).await?;
        if !answer.is_yes() && is_unknown_ref(&answer) {
            let why = format!("commit {commit} is not in {url}, and neither is {git_ref}: push it again");
            return Err(FetchError::Refused(why).into());
        }
        if !answer.is_yes() {
            return Err(trouble(url, &answer));
        }
        if self.has(place, commit).await? {
            return Ok(());
        }
        let found = self.git.offline(place, &[], &["rev-parse", "refs/lota/fetched"]).await?;
        let why = format!(
            "commit {commit} is not in {url}: {git_ref} is at {} there, and its history does not hold the commit; was it replaced by a forced push?",
            found.text()
        );
        Err(FetchError::Refused(why).into())
    }

    fn breaker_of(&self, host: &str) -> Breaker {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let host = if breakers.len() < BREAKERS_MAX || breakers.contains_key(host) { host } else { "others" };
        let make = || self.tools.breaker(&format!("git:{host}"), BreakerOptions::default());
        breakers.entry(host.to_owned()).or_insert_with(make).clone()
    }

    fn lock_of(&self, mirror: &Path) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Only those somebody holds are worth keeping.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(mirror.to_owned()).or_default().clone()
    }

    /// Removes mirrors nobody uses until there is room for one more.
    async fn make_room(&self) {
        let used =
            |path: &Path| path.join(USED).metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut mirrors: Vec<_> = entries.map(|entry| (used(&entry.path()), entry.path())).collect();
        mirrors.sort();
        let surplus = (mirrors.len() + 1).saturating_sub(self.count_max);
        for (_, mirror) in mirrors.into_iter().take(surplus) {
            let lock = self.lock_of(&mirror);
            if let Ok(_held) = lock.try_lock()
                && let Err(e) = remove_tree(&mirror).await
            {
                tracing::warn!(mirror = %mirror.display(), "cannot be removed: {e}");
            }
        }
    }
}

/// What may be done about a failure.
enum Trouble {
    /// Known: passed on.
    Told(FetchError),
    /// Unknown: the mirror may be damaged.
    Odd(String),
}

impl<E: Into<FetchError>> From<E> for Trouble {
    fn from(e: E) -> Self {
        Self::Told(e.into())
    }
}

/// A local path is a folder; of other remotes it is not known.
fn is_visible(remote: &Remote) -> Result<(), FetchError> {
    let url = &remote.location;
    if remote.host.is_some() || Path::new(url).is_dir() {
        return Ok(());
    }
    Err(FetchError::Refused(format!("{url} is not a folder on this machine, or this bot may not see it")))
}

fn machine(e: &std::io::Error) -> FetchError {
    FetchError::Machine(format!("the folder of mirrors: {e}"))
}

/// By where it comes from; SHA-1 and SHA-256 repositories do not mix.
fn name_of(remote: &Remote, commit: &CommitId) -> String {
    let hash = Sha256::digest(format!("{} {}", commit.as_str().len(), remote.location));
    format!("{}.git", &hex::encode(hash)[..32])
}

fn fetch_args<'a>(url: &'a str, refspec: &'a str) -> [&'a str; 10] {
    // A local clone may be shallow; then so is the mirror.
    let shallow = "--update-shallow";
    let no_head = "--no-write-fetch-head";
    ["fetch", "--quiet", "--force", "--no-tags", "--no-recurse-submodules", no_head, shallow, "--", url, refspec]
}

fn says(answer: &Answer, any_of: &[&str]) -> bool {
    let text = answer.lines.join("\n").to_lowercase();
    any_of.iter().any(|part| text.contains(part))
}

fn is_unknown_object(answer: &Answer) -> bool {
    says(
        answer,
        &["not our ref", "unadvertised object", "couldn't find remote ref", "did not send all necessary objects"],
    )
}

fn is_unknown_ref(answer: &Answer) -> bool {
    says(answer, &["couldn't find remote ref"])
}

/// git's own words decide whether another attempt may help.
fn trouble(url: &str, answer: &Answer) -> Trouble {
    let no_use = [
        "authentication failed",
        "could not read username",
        "permission denied",
        "host key verification failed",
        // With a credential no redirect is followed: the URL has to be the right one.
        "error: 301",
        "error: 302",
        "error: 307",
        "error: 308",
        "error: 401",
        "error: 403",
        "not found",
        "does not exist",
        "does not appear to be a git repository",
        "access denied",
        "mismatched algorithms",
        "transport '",
    ];
    let outside = [
        "could not resolve",
        "connection refused",
        "connection reset",
        "connection timed out",
        "connection closed",
        "failed to connect",
        "network is unreachable",
        "no route to host",
        "operation timed out",
        "operation too slow",
        "timed out",
        "early eof",
        "hung up unexpectedly",
        "unexpected disconnect",
        "rpc failed",
        "error: 429",
        "error: 5",
        "unable to access",
    ];
    let why = format!("{url} cannot be fetched: {}", answer.text());
    if says(answer, &no_use) {
        FetchError::Refused(why).into()
    } else if says(answer, &outside) {
        FetchError::Unreachable(why).into()
    } else {
        Trouble::Odd(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gits_words_decide_whether_it_is_tried_again() {
        let kind = |line: &str| {
            let answer = Answer { exit: 128, lines: vec![line.to_owned()] };
            match trouble("u", &answer) {
                Trouble::Told(FetchError::Refused(_)) => "refused",
                Trouble::Told(FetchError::Unreachable(_)) => "unreachable",
                Trouble::Told(_) => "other",
                Trouble::Odd(_) => "odd",
            }
        };
        for (line, want) in [
            ("fatal: unable to access 'https://h/a/': Could not resolve host: h", "unreachable"),
            ("fatal: unable to access 'https://h/a/': The requested URL returned error: 503", "unreachable"),
            ("fatal: unable to access 'https://h/a/': The requested URL returned error: 403", "refused"),
            ("fatal: unable to access 'https://h/a/': The requested URL returned error: 301", "refused"),
            ("remote: Repository not found.", "refused"),
            ("fatal: '/x' does not appear to be a git repository", "refused"),
            ("ssh: connect to host h port 22: Connection refused", "unreachable"),
            ("git@h: Permission denied (publickey).", "refused"),
            ("fatal: loose object 12 is corrupt", "odd"),
        ] {
            assert_eq!(kind(line), want, "{line}");
        }
    }

    #[test]
    fn a_url_has_one_mirror_per_hash_algorithm() {
        let remote = Remote::parse("/srv/a", false).unwrap();
        let (short, long) = ("a".repeat(40).parse().unwrap(), "a".repeat(64).parse().unwrap());
        assert_eq!(name_of(&remote, &short), name_of(&remote, &short));
        assert_ne!(name_of(&remote, &short), name_of(&remote, &long));
    }
}
