//! What holds of any bytes that tests write as a report. The tests check it over the files in `tests/corpus`, the targets in `fuzz/`
//! over whatever cargo-fuzz finds; what does not hold is a panic.
#![allow(clippy::expect_used, reason = "a check that fails has to end")]

use std::path::Path;

use bot_messages::pipeline::ReportFormat;

use crate::{
    coverage::Lines,
    formats,
    report::{FAILURES_MAX, SLOWEST_MAX, TESTS_MAX},
};

/// More of a mistake is not told.
const TOLD_BYTES_MAX: usize = 4096;

/// In each format: what is kept is bounded, and what is counted is what was said.
pub fn report(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let named = [
        ReportFormat::Junit,
        ReportFormat::Libtest,
        ReportFormat::Nextest,
        ReportFormat::GoTestJson,
        ReportFormat::Tap,
    ];
    for format in named.map(Some).into_iter().chain([None]) {
        match formats::read_file(&text, format) {
            Ok(r) => {
                let kept =
                    r.tests.len() <= TESTS_MAX && r.failures.len() <= FAILURES_MAX && r.slowest.len() <= SLOWEST_MAX;
                assert!(kept && r.failures.len() <= r.failed as usize, "{format:?}: {r:?}");
                let told: usize = r.failures.iter().map(|f| f.name.len() + f.message.len()).sum();
                assert!(told <= FAILURES_MAX * TOLD_BYTES_MAX, "{format:?}: {told} bytes of failures");
            }
            Err(e) => assert!(!e.is_empty() && e.len() <= TOLD_BYTES_MAX, "{format:?}: {} bytes", e.len()),
        }
    }
}

/// LCOV or Cobertura: no more lines ran than there are, and a report added to itself says the same.
pub fn coverage(bytes: &[u8]) {
    let mut lines = Lines::default();
    match lines.read(&String::from_utf8_lossy(bytes), Path::new("/tree")) {
        Ok(()) => {
            let once = lines.count();
            assert!(once.covered <= once.total, "{once:?}");
            let mut twice = lines.clone();
            twice.add(&lines).expect("nothing new is added");
            assert_eq!(twice.count(), once);
        }
        Err(e) => assert!(!e.is_empty() && e.len() <= TOLD_BYTES_MAX, "{} bytes", e.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bot_test::corpus;
    use proptest::prelude::*;

    const HERE: &str = env!("CARGO_MANIFEST_DIR");

    #[test]
    fn the_corpora_hold() {
        corpus::each(HERE, "report", report);
        corpus::each(HERE, "coverage", coverage);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn report_that_was_changed(bytes in corpus::changed(HERE, "report")) {
            report(&bytes);
        }

        #[test]
        fn coverage_that_was_changed(bytes in corpus::changed(HERE, "coverage")) {
            coverage(&bytes);
        }
    }
}
