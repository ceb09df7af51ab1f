//! What holds of any bytes that stand in a pipeline file. The tests check it over the files in `tests/corpus`, the targets in `fuzz/`
//! over whatever cargo-fuzz finds; what does not hold is a panic.
#![allow(clippy::expect_used, reason = "a check that fails has to end")]

use crate::pipeline::Pipeline;

/// More of a mistake is not told.
const ERROR_BYTES_MAX: usize = 4096;

/// A file is read or its mistake told, briefly; and what is read is the same after it was written and read again.
pub fn pipeline(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Pipeline::parse(text) {
        Ok(read) => {
            let written = serde_saphyr::to_string(&read).expect("a pipeline can be written");
            assert_eq!(Pipeline::parse(&written).as_ref(), Ok(&read), "{written}");
        }
        Err(mistake) => {
            let told = mistake.to_string();
            assert!(!told.is_empty() && told.len() <= ERROR_BYTES_MAX, "{} bytes: {told}", told.len());
        }
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
        corpus::each(HERE, "pipeline", pipeline);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn pipeline_that_was_changed(bytes in corpus::changed(HERE, "pipeline")) {
            pipeline(&bytes);
        }
    }
}
