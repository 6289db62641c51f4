//! libFuzzer on the target `crypto_keys`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("crypto_keys")(bytes));
