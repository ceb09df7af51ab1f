//! Asking git which commit is meant, and having it pack that commit. The one place of the client that starts a process:
//! always `git`, with arguments of its own, a limit of time, and no prompt.
#![allow(
    clippy::disallowed_methods,
    reason = "runs git on the operator's own repository, with fixed arguments and a limit of time"
)]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use bot_messages::CommitId;
use tokio::process::Command;

use super::sight;

const LOCAL_LIMIT: Duration = Duration::from_secs(15);
const REMOTE_LIMIT: Duration = Duration::from_secs(60);
const BUNDLE_LIMIT: Duration = Duration::from_secs(600);
/// Of what git said, in an error.
const SAID_CHARS_MAX: usize = 600;
/// What a hook of git leaves in the environment would make git look at another repository.
const FOREIGN: [&str; 6] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
];

/// A commit, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What the fleet's git can fetch from: an absolute path or a URL.
    pub(super) url: String,
    pub(super) git_ref: String,
    pub(super) commit: CommitId,
    /// First line of the commit message, where it can be read.
    pub(super) title: Option<String>,
    /// The repository's folder, where it is on this machine.
    pub(super) folder: Option<PathBuf>,
    /// Files that differ from the commit that is checked out.
    pub(super) uncommitted: usize,
}

/// A commit of a repository on this machine; `path` may be a folder in it.
pub(super) async fn local(path: &Path, wanted: Option<&str>) -> anyhow::Result<Found> {
    let folder = top(path).await?;
    let (git_ref, commit) = resolve(&folder, wanted).await?;
    let title =
        git(Some(&folder), &["log", "-1", "--no-show-signature", "--format=%s", commit.as_str(), "--"], LOCAL_LIMIT)
            .await;
    let changes = git(Some(&folder), &["status", "--porcelain"], LOCAL_LIMIT).await;
    let url = folder
        .to_str()
        .with_context(|| format!("{} is no UTF-8: rename it, or use --bundle from another folder", folder.display()))?;
    Ok(Found {
        url: url.to_owned(),
        git_ref,
        commit,
        title: title.ok().filter(|t| !t.is_empty()),
        // A bare repository has nothing that is not committed, and says so by an error.
        uncommitted: changes.map_or(0, |c| c.lines().count()),
        folder: Some(folder),
    })
}

async fn top(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::fs::canonicalize(path).with_context(|| {
        format!("there is no {}: expected a git repository on this machine, or a URL", path.display())
    })?;
    let folder = if path.is_dir() { path } else { path.parent().map(Path::to_owned).unwrap_or_default() };
    let is_bare = git(Some(&folder), &["rev-parse", "--is-bare-repository"], LOCAL_LIMIT)
        .await
        .with_context(|| format!("{} is in no git repository", folder.display()))?;
    let what = if is_bare == "true" { "--absolute-git-dir" } else { "--show-toplevel" };
    Ok(PathBuf::from(git(Some(&folder), &["rev-parse", what], LOCAL_LIMIT).await?))
}

async fn resolve(folder: &Path, wanted: Option<&str>) -> anyhow::Result<(String, CommitId)> {
    let asked = wanted.unwrap_or("HEAD");
    let commit = git(
        Some(folder),
        &["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{asked}^{{commit}}")],
        LOCAL_LIMIT,
    )
    .await;
    let Ok(commit) = commit else {
        match wanted {
            None => bail!("{} has no commit yet: commit something first", folder.display()),
            Some(asked) => bail!("{} has no branch, tag or commit `{asked}`", folder.display()),
        }
    };
    let commit: CommitId = commit.parse()?;
    let full = ["rev-parse", "--symbolic-full-name", "--verify", "--quiet", "--end-of-options", asked];
    let full = git(Some(folder), &full, LOCAL_LIMIT).await.unwrap_or_default();
    if full.starts_with("refs/") {
        return Ok((full, commit));
    }
    // A bare commit, or a detached HEAD: the fleet fetches by ref, so some branch has to hold it.
    let holders =
        ["for-each-ref", "--count=1", "--format=%(refname)", "--contains", commit.as_str(), "refs/heads", "refs/tags"];
    let holder = git(Some(folder), &holders, LOCAL_LIMIT).await.unwrap_or_default();
    if holder.is_empty() {
        bail!(
            "no branch or tag of {} holds commit {}: make one (`git branch NAME {}`), or name it with --ref",
            folder.display(),
            commit.short(),
            commit.short()
        );
    }
    Ok((holder, commit))
}

/// A commit of a repository elsewhere.
pub(super) async fn remote(url: &str, wanted: Option<&str>) -> anyhow::Result<Found> {
    let peeled = wanted.map(|w| format!("{w}^{{}}"));
    let answer = match (wanted, &peeled) {
        (Some(wanted), Some(peeled)) => git(None, &["ls-remote", "--", url, wanted, peeled], REMOTE_LIMIT).await,
        _ => git(None, &["ls-remote", "--symref", "--", url, "HEAD"], REMOTE_LIMIT).await,
    };
    let answer = answer.with_context(|| format!("git cannot read {url}"))?;
    let Some((git_ref, commit)) = pick(&answer, wanted) else {
        match wanted {
            Some(wanted) => bail!(
                "{url} has no branch or tag `{wanted}`; a commit alone is not enough, since refs are what one can ask for"
            ),
            None => bail!("{url} has no HEAD: name a branch with --ref"),
        }
    };
    Ok(Found { url: url.to_owned(), git_ref, commit: commit.parse()?, title: None, folder: None, uncommitted: 0 })
}

/// The full ref and its commit in what `git ls-remote` printed. Branches go before tags; of a tag, what it points to.
fn pick(answer: &str, wanted: Option<&str>) -> Option<(String, String)> {
    let lines: Vec<(&str, &str)> = answer.lines().filter_map(|l| l.split_once('\t')).collect();
    let commit_of =
        |name: &str| lines.iter().find(|(id, n)| *n == name && !id.starts_with("ref:")).map(|(id, _)| (*id).to_owned());
    let Some(wanted) = wanted else {
        let target = lines
            .iter()
            .find(|(id, n)| *n == "HEAD" && id.starts_with("ref: "))
            .map_or("HEAD", |(id, _)| id[5..].trim());
        return Some((target.to_owned(), commit_of("HEAD")?));
    };
    let names = [wanted.to_owned(), format!("refs/heads/{wanted}"), format!("refs/tags/{wanted}")];
    let mut names = names.into_iter().filter(|n| n.starts_with("refs/"));
    names.find_map(|name| {
        let commit = commit_of(&format!("{name}^{{}}")).or_else(|| commit_of(&name))?;
        Some((name, commit))
    })
}

/// What a folder would hold if all of it were committed now: files of commits and new ones, without what git ignores.
/// Relative to it. None: it is in no work tree of git.
pub(crate) async fn files(folder: &Path) -> Option<Vec<PathBuf>> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "-z"];
    let names = git(Some(folder), &list, LOCAL_LIMIT).await.ok()?;
    let is_there = |path: &PathBuf| folder.join(path).symlink_metadata().is_ok_and(|meta| !meta.is_dir());
    Some(names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).filter(is_there).collect())
}

/// The branch and commit that are checked out; none of it where there is none.
pub(crate) async fn head(folder: &Path) -> (Option<String>, Option<CommitId>) {
    let branch = git(Some(folder), &["symbolic-ref", "--quiet", "HEAD"], LOCAL_LIMIT).await.ok();
    let commit = git(Some(folder), &["rev-parse", "--verify", "--quiet", "HEAD"], LOCAL_LIMIT).await.ok();
    (branch, commit.and_then(|id| id.parse().ok()))
}

/// The folders that a git which fetches from this repository reads.
pub(super) async fn reads(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folders = vec![
        folder.to_owned(),
        inner(folder, &["--absolute-git-dir"]).await?,
        // Of a further work tree: the repository's own.
        inner(folder, &["--git-common-dir"]).await?,
        inner(folder, &["--git-path", "refs"]).await?,
    ];
    let objects = inner(folder, &["--git-path", "objects"]).await?;
    sight::with_borrowed(folders, &objects).context("the folders of the repository cannot be read")
}

/// A folder of the repository, asked for with `rev-parse`.
async fn inner(folder: &Path, asked: &[&str]) -> anyhow::Result<PathBuf> {
    let path = git(Some(folder), &[&["rev-parse"], asked].concat(), LOCAL_LIMIT).await?;
    std::fs::canonicalize(folder.join(&path)).with_context(|| format!("{path} of the repository cannot be found"))
}

/// Packs a commit with its history into `dir`. From a repository of its own that borrows the objects: the operator's is
/// not written to, and the ref in the bundle is the commit's whatever happens to the branch meanwhile.
pub(super) async fn bundle(found: &Found, dir: &Path) -> anyhow::Result<PathBuf> {
    let Some(folder) = &found.folder else {
        bail!("--bundle is for a repository on this machine; {} is fetched by the fleet itself", found.url)
    };
    let format = if found.commit.as_str().len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    let objects = inner(folder, &["--git-path", "objects"]).await?;
    let borrower = dir.join("borrower.git");
    let place = borrower.to_string_lossy().into_owned();
    git(None, &["init", "--quiet", "--bare", "--template=", format, "--", &place], LOCAL_LIMIT).await?;
    let info = borrower.join("objects/info");
    std::fs::create_dir_all(&info)?;
    std::fs::write(info.join("alternates"), format!("{}\n", objects.display()))?;
    let shallow = folder.join(git(Some(folder), &["rev-parse", "--git-path", "shallow"], LOCAL_LIMIT).await?);
    if shallow.exists() {
        std::fs::copy(&shallow, borrower.join("shallow")).context("a shallow repository's list cannot be copied")?;
    }
    git(Some(&borrower), &["update-ref", &found.git_ref, found.commit.as_str()], LOCAL_LIMIT).await?;
    let file = dir.join("push.bundle");
    let name = file.to_string_lossy().into_owned();
    git(Some(&borrower), &["bundle", "create", "--quiet", &name, &found.git_ref], BUNDLE_LIMIT)
        .await
        .with_context(|| format!("git cannot pack {}", found.git_ref))?;
    Ok(file)
}

/// What git prints, or what it complained about.
async fn git(folder: Option<&Path>, args: &[&str], limit: Duration) -> anyhow::Result<String> {
    let mut command = Command::new("git");
    // A repository may name programs for these; asking about a commit must not run them.
    command.args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "log.showSignature=false"]);
    if let Some(folder) = folder {
        command.arg("-C").arg(folder);
    }
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
        .args(args)
        .envs([("GIT_TERMINAL_PROMPT", "0"), ("GIT_OPTIONAL_LOCKS", "0"), ("LC_ALL", "C")])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let verb = args.first().copied().unwrap_or_default();
    let Ok(output) = tokio::time::timeout(limit, command.output()).await else {
        bail!("git {verb} did not end within {} s", limit.as_secs())
    };
    let output = output.context("git cannot be started: install it, or add it to PATH")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(SAID_CHARS_MAX).collect();
    bail!("git {verb}: {}", if said.is_empty() { output.status.to_string() } else { said })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn repository() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("shop");
        std::fs::create_dir_all(repo.join("src")).unwrap();
        git(Some(&repo), &["init", "--quiet", "-b", "main"], LOCAL_LIMIT).await.unwrap();
        commit(&repo, "One").await;
        (dir, std::fs::canonicalize(repo).unwrap())
    }

    async fn commit(repo: &Path, title: &str) {
        let args = ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--allow-empty", "-m", title];
        git(Some(repo), &args, LOCAL_LIMIT).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_of_a_repository_names_its_branch_and_commit() {
        let (_dir, repo) = repository().await;
        std::fs::write(repo.join("new"), "x").unwrap();
        let found = local(&repo.join("src"), None).await.unwrap();
        assert_eq!(
            (found.git_ref.as_str(), found.title.as_deref(), found.uncommitted),
            ("refs/heads/main", Some("One"), 1)
        );
        assert_eq!((found.url.as_str(), found.folder.as_deref()), (repo.to_str().unwrap(), Some(repo.as_path())));
        let by_commit = local(&repo, Some(found.commit.as_str())).await.unwrap();
        assert_eq!(by_commit.git_ref, "refs/heads/main", "some branch that holds it");
        assert!(local(&repo, Some("--all")).await.unwrap_err().to_string().contains("no branch, tag or commit"));
        assert!(local(Path::new("/proc"), None).await.unwrap_err().to_string().contains("no git repository"));
    }

    #[tokio::test]
    async fn a_remote_is_asked_for_its_refs() {
        let (_dir, repo) = repository().await;
        let here = local(&repo, None).await.unwrap();
        git(Some(&repo), &["-c", "user.name=t", "-c", "user.email=t@t", "tag", "-m", "first", "v1"], LOCAL_LIMIT)
            .await
            .unwrap();
        let url = format!("file://{}", repo.display());
        for (wanted, git_ref) in
            [(None, "refs/heads/main"), (Some("main"), "refs/heads/main"), (Some("v1"), "refs/tags/v1")]
        {
            let there = remote(&url, wanted).await.unwrap();
            assert_eq!((there.git_ref.as_str(), &there.commit), (git_ref, &here.commit));
        }
        assert!(remote(&url, Some("gone")).await.unwrap_err().to_string().contains("no branch or tag `gone`"));
        assert!(remote("file:///nowhere", None).await.is_err());
    }

    #[tokio::test]
    async fn a_bundle_holds_the_commit_under_its_ref() {
        let (dir, repo) = repository().await;
        let found = local(&repo, None).await.unwrap();
        commit(&repo, "Two").await;
        let file = bundle(&found, dir.path()).await.unwrap();
        let heads = git(None, &["bundle", "list-heads", file.to_str().unwrap()], LOCAL_LIMIT).await.unwrap();
        assert_eq!(heads, format!("{} refs/heads/main", found.commit));
    }

    #[test]
    fn the_first_ref_that_is_meant_is_picked() {
        let answer = "aaa\trefs/heads/x/main\nbbb\trefs/heads/main\nccc\trefs/tags/main\nddd\trefs/tags/main^{}\n";
        assert_eq!(pick(answer, Some("main")), Some(("refs/heads/main".into(), "bbb".into())));
        assert_eq!(pick(answer, Some("refs/tags/main")), Some(("refs/tags/main".into(), "ddd".into())));
        assert_eq!(pick(answer, Some("other")), None);
        let head = "ref: refs/heads/trunk\tHEAD\neee\tHEAD\n";
        assert_eq!(pick(head, None), Some(("refs/heads/trunk".into(), "eee".into())));
    }
}
