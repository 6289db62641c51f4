//! libFuzzer on the target `evidence_shown`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("evidence_shown")(bytes));
