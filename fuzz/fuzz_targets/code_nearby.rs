//! libFuzzer on the target `code_nearby`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("code_nearby")(bytes));
