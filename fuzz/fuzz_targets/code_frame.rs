//! libFuzzer on the target `code_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("code_frame")(bytes));
