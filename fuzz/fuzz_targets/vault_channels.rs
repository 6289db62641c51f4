//! libFuzzer on the target `vault_channels`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("vault_channels")(bytes));
