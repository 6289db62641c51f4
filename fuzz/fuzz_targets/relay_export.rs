//! libFuzzer on the target `relay_export`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("relay_export")(bytes));
