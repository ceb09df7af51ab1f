//! What a job takes out of a mirror: the tree of a commit as a tar, and the names of the files that it changed. Not knowing
//! these is an answer: then conditions on paths count as holding.
use std::{fs::File, io::Read, path::Path};

use bot_messages::CommitId;

use crate::git::{Git, GitError, Place};

/// Names of a push that changed more are not read.
const NAMES_BYTES_MAX: u64 = 16 << 20;
/// In the job's git home.
const NAMES: &str = "changed.names";

/// With a ref a commit stays, and the next fetch need not send what it shares. A commit without a base is compared with its
/// first parent.
const SCRIPT: &str = r#"
"$@" cat-file -e "$COMMIT^{commit}" 2>/dev/null || exit 3
"$@" update-ref "$KEPT" "$COMMIT" && "$@" archive --format=tar --output="$TAR" "$COMMIT" || exit 4
if [ -z "$BASE" ]; then
    BASE=$("$@" rev-parse --verify --quiet "$COMMIT^1")
elif ! "$@" cat-file -e "$BASE^{commit}" 2>/dev/null; then
    exit 5
fi
"$@" diff-tree -r -z --name-only --no-renames --no-commit-id --root --output="$NAMES" $BASE "$COMMIT" || exit 6
"#;

/// How it went.
pub(crate) enum Taken {
    /// The tar is written. Without the names it says why.
    Whole { changed: Result<Vec<String>, String> },
    /// The mirror has no such commit.
    Missing,
    /// git's own words.
    Failed(String),
}

/// The ref that keeps a commit in its mirror.
pub(crate) fn kept(commit: &CommitId) -> String {
    format!("refs/lota/commits/{commit}")
}

/// Writes the tree of `commit` into the file `tar` of the job's git home; compares it with `base`.
pub(crate) async fn take(
    git: &Git,
    place: Place<'_>,
    commit: &CommitId,
    base: Option<&CommitId>,
    tar: &str,
) -> Result<Taken, GitError> {
    let inside = |file: &str| place.inside().home.join(file).display().to_string();
    let variables = [
        ("COMMIT", commit.to_string()),
        ("KEPT", kept(commit)),
        ("BASE", base.map(CommitId::to_string).unwrap_or_default()),
        ("TAR", inside(tar)),
        ("NAMES", inside(NAMES)),
    ];
    let said = git.script(place, SCRIPT, variables).await?;
    let changed = match (said.exit, base) {
        (0, _) => read(&place.home.join(NAMES)),
        (3, _) => return Ok(Taken::Missing),
        (5, Some(base)) => Err(format!("commit {base}, which came before, is not in the repository any more")),
        (6, _) => Err(format!("git diff-tree failed: {}", said.text())),
        _ => return Ok(Taken::Failed(format!("git archive failed: {}", said.text()))),
    };
    Ok(Taken::Whole { changed })
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
