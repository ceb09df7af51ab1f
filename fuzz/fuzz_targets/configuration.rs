//! Any bytes as a bot's configuration file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bot_core::fuzz::configuration(bytes));
