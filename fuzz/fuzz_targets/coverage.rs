//! Any bytes as a coverage report.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| test_bot::fuzz::coverage(bytes));
