//! libFuzzer on the target `daemon_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("daemon_request")(bytes));
