//! Any bytes as the body of a message.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bot_core::fuzz::envelope(bytes));
