//! What is tested: unpacked from the object store by its digest (git never runs here), and the pipeline in it.
use std::path::Path;

use bot_clients::{ArchiveError, ArchiveLimits, ObjectError, Objects, read_pipeline, unpack};
use bot_core::Fail;
use bot_messages::{
    Code, Digest,
    pipeline::{FILE_BYTES_MAX, FILE_NAME, Pipeline},
};
use bot_pipeline::Folder;
use serde::{Deserialize, de::IgnoredAny};

use crate::{Config, OBJECTS, blocking, bytes, reports::read_regular};

/// Unpacks an object over the tree.
pub(crate) async fn lay(
    folder: &Folder,
    objects: &Objects,
    what: &str,
    digest: &Digest,
    config: &Config,
) -> Result<(), Fail> {
    let archive = folder.file("archive");
    objects.get_file(digest, &archive, bytes(config.archive_mib)).await.map_err(|e| fetch_failed(what, e))?;
    let limits = ArchiveLimits { entries_max: config.entries, bytes_max: bytes(config.tree_mib) };
    let (from, into) = (archive.clone(), folder.tree());
    let unpacked = blocking(move || unpack(&from, &into, &limits)).await?;
    unpacked.map_err(|e| unpack_failed(what, digest, e))?;
    tokio::fs::remove_file(&archive).await.map_err(Fail::retry)
}

/// The pipeline of the source, and whether it is all right that it has no suites.
pub(crate) async fn pipeline(folder: &Folder) -> Result<(Pipeline, bool), Fail> {
    let tree = folder.tree();
    let read = blocking(move || read_pipeline(&tree).map(|found| (found, asks_for_no_tests(&tree))));
    let ((pipeline, origin), asks_for_none) = read.await?.map_err(|e| Fail::reject(Code::InvalidPipeline, e))?;
    Ok((pipeline, origin == "static" || asks_for_none))
}

/// What is missing or damaged stays so; a disk or a store that refuses may work next time.
fn fetch_failed(what: &str, error: ObjectError) -> Fail {
    let code = match &error {
        ObjectError::NotFound { .. } | ObjectError::Damaged { .. } => Code::FetchFailed,
        ObjectError::TooLarge { .. } => Code::LimitExceeded,
        failed => {
            let of_store = failed.is_of_store();
            let error = anyhow::Error::from(error).context(format!("could not fetch the {what}"));
            return if of_store { Fail::outside(OBJECTS, error) } else { Fail::Retry(error) };
        }
    };
    Fail::reject(code, anyhow::Error::from(error).context(format!("could not fetch the {what}")))
}

fn unpack_failed(what: &str, digest: &Digest, error: ArchiveError) -> Fail {
    let code = match &error {
        ArchiveError::Io { .. } => None,
        ArchiveError::TooMuch { .. } => Some(Code::LimitExceeded),
        _ => Some(Code::FetchFailed),
    };
    let error = anyhow::Error::from(error).context(format!("could not unpack the {what} {}", digest.short()));
    match code {
        Some(code) => Fail::reject(code, error),
        None => Fail::retry(error),
    }
}

/// Whether the pipeline file says in so many words that there is nothing to test: `test: {suites: {}}`. Reading it as a
/// pipeline does not tell that from a file that forgot its tests.
fn asks_for_no_tests(tree: &Path) -> bool {
    #[derive(Deserialize)]
    struct File {
        test: Option<Stage>,
    }
    #[derive(Deserialize)]
    struct Stage {
        suites: Option<IgnoredAny>,
    }
    let Ok(text) = read_regular(tree, &tree.join(FILE_NAME), FILE_BYTES_MAX as u64) else {
        return false;
    };
    serde_saphyr::from_str::<File>(&text).is_ok_and(|f| f.test.is_some_and(|t| t.suites.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = text {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
        }
        dir
    }

    #[test]
    fn no_tests_are_asked_for_only_in_so_many_words() {
        for (text, asked) in [
            ("version: 1\ntest: {suites: {}}\n", true),
            ("version: 1\ntest: {}\n", false),
            ("version: 1\ntest:\n  suites:\n", false),
            ("version: 1\n", false),
            (": :", false),
        ] {
            assert_eq!(asks_for_no_tests(tree(Some(text)).path()), asked, "{text}");
        }
        assert!(!asks_for_no_tests(tree(None).path()));
    }
}
