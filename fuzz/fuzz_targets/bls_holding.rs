//! libFuzzer on the target `bls_holding`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("bls_holding")(bytes));
