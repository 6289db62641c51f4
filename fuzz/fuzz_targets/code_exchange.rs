//! libFuzzer on the target `code_exchange`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("code_exchange")(bytes));
