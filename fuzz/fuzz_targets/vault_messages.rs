//! libFuzzer on the target `vault_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("vault_messages")(bytes));
