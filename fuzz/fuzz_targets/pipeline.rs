//! Any bytes as a pipeline file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bot_messages::fuzz::pipeline(bytes));
