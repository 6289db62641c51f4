//! libFuzzer on the target `session_streams`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("session_streams")(bytes));
