//! libFuzzer on the target `session_link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("session_link")(bytes));
