//! libFuzzer on the target `devices_words`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("devices_words")(bytes));
