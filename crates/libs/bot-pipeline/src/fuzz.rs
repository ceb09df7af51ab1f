//! What holds of any bytes that stand in repositories.yaml or publishers.yaml. The tests check it over the files in `tests/corpus`, the targets in `fuzz/`
//! over whatever cargo-fuzz finds; what does not hold is a panic.

use bot_messages::pipeline::YamlMistake;

use crate::{publishers, repositories};

/// Of all mistakes.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A file is read, or its mistakes are told, in so many words.
pub fn repositories(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    repositories::parse(text).map_or_else(told, drop);
}

/// The same.
pub fn publishers(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    publishers::parse(text).map_or_else(told, drop);
}

#[allow(clippy::needless_pass_by_value, reason = "what a result ends in")]
fn told(mistakes: Vec<YamlMistake>) {
    let bytes: usize = mistakes.iter().map(|mistake| mistake.message.len()).sum();
    assert!(!mistakes.is_empty() && bytes <= ERROR_BYTES_MAX, "{bytes} bytes");
}

#[cfg(test)]
mod tests {
    use super::*;
    use bot_test::corpus;
    use proptest::prelude::*;

    const HERE: &str = env!("CARGO_MANIFEST_DIR");

    #[test]
    fn the_corpora_hold() {
        corpus::each(HERE, "repositories", repositories);
        corpus::each(HERE, "publishers", publishers);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn repositories_that_was_changed(bytes in corpus::changed(HERE, "repositories")) {
            repositories(&bytes);
        }

        #[test]
        fn publishers_that_were_changed(bytes in corpus::changed(HERE, "publishers")) {
            publishers(&bytes);
        }
    }
}
