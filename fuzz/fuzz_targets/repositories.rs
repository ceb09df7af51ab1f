//! Any bytes as repositories.yaml.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bot_pipeline::fuzz::repositories(bytes));
