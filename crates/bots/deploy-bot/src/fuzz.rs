//! What holds of any bytes that stand in environments.yaml. The tests check it over the files in `tests/corpus`, the targets in `fuzz/`
//! over whatever cargo-fuzz finds; what does not hold is a panic.

use std::path::Path;

use crate::environments::{self, Base};

/// Of all mistakes.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A file is read, or its mistakes are told, in so many words.
pub fn environments(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let base = Base { bot: Path::new("/bot"), config: Path::new("/config") };
    if let Err(mistakes) = environments::parse(text, base) {
        let bytes: usize = mistakes.iter().map(|mistake| mistake.what.len()).sum();
        assert!(!mistakes.is_empty() && bytes <= ERROR_BYTES_MAX, "{bytes} bytes");
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
        corpus::each(HERE, "environments", environments);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn environments_that_was_changed(bytes in corpus::changed(HERE, "environments")) {
            environments(&bytes);
        }
    }
}
