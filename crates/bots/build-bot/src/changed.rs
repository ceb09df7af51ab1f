//! Which files a push changed, asked of the mirror that has the commit. Not knowing is an answer: then conditions on
//! paths count as holding.
use std::{fs::File, io::Read, path::Path};

use bot_messages::CommitId;

use crate::git::{Git, GitError, Place};

/// Names of a push that changed more are not read.
const NAMES_BYTES_MAX: u64 = 16 << 20;
/// In the job's git home.
const NAMES: &str = "changed.names";

/// Paths of the files that differ between `base` and `commit`; without a base, from the first parent of the commit.
/// The inner error says why they cannot be known.
pub(crate) async fn changed(
    git: &Git,
    place: Place<'_>,
    commit: &CommitId,
    base: Option<&CommitId>,
) -> Result<Result<Vec<String>, String>, GitError> {
    let commit = commit.as_str();
    let base = match base {
        Some(base) => {
            let object = format!("{base}^{{commit}}");
            if !git.offline(place, &[], &["cat-file", "-e", &object]).await?.is_yes {
                return Ok(Err(format!("commit {base}, which came before, is not in the repository any more")));
            }
            Some(base.as_str().to_owned())
        }
        None => {
            let parent = git.offline(place, &[], &["rev-parse", "--verify", "--quiet", &format!("{commit}^1")]).await?;
            parent.is_yes.then(|| parent.text())
        }
    };
    let output = format!("--output={}", place.inside().home.join(NAMES).display());
    let mut args = vec!["diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-commit-id", "--root", &output];
    args.extend(base.as_deref());
    args.push(commit);
    let done = git.offline(place, &[], &args).await?;
    if !done.is_yes {
        return Ok(Err(format!("git diff-tree failed: {}", done.text())));
    }
    Ok(read(&place.home.join(NAMES)))
}

fn read(file: &Path) -> Result<Vec<String>, String> {
    let mut bytes = Vec::new();
    let opened = File::open(file).map(|file| file.take(NAMES_BYTES_MAX + 1));
    opened.and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|e| format!("their names cannot be read: {e}"))?;
    if bytes.len() as u64 > NAMES_BYTES_MAX {
        return Err(format!("their names take more than {NAMES_BYTES_MAX} bytes"));
    }
    let names = bytes.split(|b| *b == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}
