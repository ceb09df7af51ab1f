//! What holds of any bytes that come as a message or stand in a configuration file. The tests check it over the files in `tests/corpus`, the targets in `fuzz/`
//! over whatever cargo-fuzz finds; what does not hold is a panic.
#![allow(clippy::expect_used, reason = "a check that fails has to end")]

use std::collections::BTreeMap;

use bot_messages::Contract;
use serde_json::Value;

use crate::{config, contract::tests_support::contract, envelope::Envelope};

/// More of a mistake is not told.
const ERROR_BYTES_MAX: usize = 4096;
const CONFIG_ERROR_BYTES_MAX: usize = 64 * 1024;

/// A body is read, or its mistake told with a code; and what is read is the same after it was written and read again.
pub fn envelope(bytes: &[u8]) {
    match Envelope::decode(bytes) {
        Ok(read) => {
            let again = Envelope::decode(&read.encode()).expect("what was read can be written");
            // What is written has microseconds.
            assert_eq!(again.timestamp.timestamp_micros(), read.timestamp.timestamp_micros());
            assert_eq!(Envelope { timestamp: read.timestamp, ..again }, read);
        }
        Err(e) => assert!(e.to_string().len() <= ERROR_BYTES_MAX, "{e}"),
    }
}

/// A file is read, or all its mistakes are told, in so many words.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let contract = Contract { actions: vec!["build".into()], ..contract("BuildBot", &["repository.pushed"]) };
    if let Err(e) = config::read::<BTreeMap<String, Value>>("bot.yaml", text, &BTreeMap::new(), &contract) {
        let told = e.to_string();
        assert!(told.starts_with("bot.yaml") && told.len() <= CONFIG_ERROR_BYTES_MAX, "{} bytes", told.len());
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
        corpus::each(HERE, "envelope", envelope);
        corpus::each(HERE, "configuration", configuration);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn envelope_that_was_changed(bytes in corpus::changed(HERE, "envelope")) {
            envelope(&bytes);
        }

        #[test]
        fn configuration_that_was_changed(bytes in corpus::changed(HERE, "configuration")) {
            configuration(&bytes);
        }
    }
}
