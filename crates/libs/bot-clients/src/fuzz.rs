//! What holds of any bytes that come as an archive. The tests check it over the files in `tests/corpus`, the targets in `fuzz/`
//! over whatever cargo-fuzz finds; what does not hold is a panic.
#![allow(clippy::expect_used, reason = "a check that fails has to end")]

use std::fs;

use crate::archive::{ArchiveLimits, list_tree, unpack};

const LIMITS: ArchiveLimits = ArchiveLimits { entries_max: 200, bytes_max: 1 << 20 };

/// What comes out is within the limits and below its folder, and nothing is beside it.
pub fn archive(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder");
    let (packed, into) = (dir.path().join("packed"), dir.path().join("into"));
    fs::write(&packed, bytes).expect("a file");
    let done = unpack(&packed, &into, &LIMITS);
    if let Ok(done) = done {
        assert!(done.entries <= LIMITS.entries_max && done.bytes <= LIMITS.bytes_max, "{done:?}");
        for name in list_tree(&into, 1000).expect("a tree") {
            let place = into.join(&name);
            let target = place.canonicalize().unwrap_or_else(|_| into.join("nowhere"));
            let root = into.canonicalize().expect("a folder");
            assert!(
                target.starts_with(&root) || target.starts_with(&into),
                "{} leads to {}",
                name.display(),
                target.display()
            );
        }
    }
    let beside = fs::read_dir(dir.path()).expect("a folder").count();
    assert_eq!(beside, 2, "something lies beside the folder");
}

#[cfg(test)]
mod tests {
    use super::*;
    use bot_test::corpus;
    use proptest::prelude::*;

    const HERE: &str = env!("CARGO_MANIFEST_DIR");

    #[test]
    fn the_corpora_hold() {
        corpus::each(HERE, "archive", archive);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn archive_that_was_changed(bytes in corpus::changed(HERE, "archive")) {
            archive(&bytes);
        }
    }
}
