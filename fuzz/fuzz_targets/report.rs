//! Any bytes as a test report.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| test_bot::fuzz::report(bytes));
