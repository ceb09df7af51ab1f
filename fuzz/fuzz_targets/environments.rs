//! Any bytes as environments.yaml.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| deploy_bot::fuzz::environments(bytes));
