//! libFuzzer on the target `crypto_kem`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("crypto_kem")(bytes));
