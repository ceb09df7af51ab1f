//! Corpora: small files of interesting inputs in a package's `tests/corpus/<reader>`. Tests read them each time, as they
//! are and changed at random; the targets in `fuzz/` begin with them.
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use proptest::{
    prelude::*,
    sample::{Index, select},
};

/// Holds `check` against every file of a corpus; `package` is its `CARGO_MANIFEST_DIR`. A check panics where it fails.
pub fn each(package: &str, reader: &str, check: fn(&[u8])) {
    for (name, bytes) in files(package, reader) {
        let held = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
        assert!(held.is_ok(), "the check of {reader} failed with tests/corpus/{reader}/{name}");
    }
}

/// Files of a corpus, each with up to six changes: bytes in the place of others, a part once more, a part of another file.
pub fn changed(package: &str, reader: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let files: Vec<Vec<u8>> = files(package, reader).into_iter().map(|(_, bytes)| bytes).collect();
    let part = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..12),
        select(TOKENS).prop_map(|token| token.as_bytes().to_vec()),
        (select(files.clone()), any::<Index>(), any::<Index>()).prop_map(|(file, from, to)| {
            let (from, to) = (from.index(file.len() + 1), to.index(file.len() + 1));
            file[from.min(to)..from.max(to)].to_vec()
        }),
    ];
    let change = (any::<Index>(), 0..40_usize, part, 1..4_usize);
    (select(files), prop::collection::vec(change, 0..6)).prop_map(|(mut bytes, changes)| {
        for (place, removed, part, times) in changes {
            let from = place.index(bytes.len() + 1);
            let to = (from + removed).min(bytes.len());
            bytes.splice(from..to, part.repeat(times));
        }
        bytes
    })
}

/// What readers stumble over.
const TOKENS: &[&str] = &[
    "\0",
    "\u{feff}",
    "\n",
    "\r",
    "-1",
    "1e999",
    "99999999999999999999",
    "null",
    "~",
    "true",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "&a ",
    "*a",
    "<<: ",
    "- ",
    ": ",
    "!!binary ",
    "<![CDATA[",
    "]]>",
    "&#0;",
    "<!DOCTYPE a [",
    "\u{1b}[",
    "../",
    "/",
];

fn files(package: &str, reader: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(package).join("tests/corpus").join(reader);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("the corpus {} cannot be read: {e}", dir.display()));
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus {} is empty", dir.display());
    files
}
