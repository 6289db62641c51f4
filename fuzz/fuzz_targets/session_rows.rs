//! libFuzzer on the target `session_rows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("session_rows")(bytes));
