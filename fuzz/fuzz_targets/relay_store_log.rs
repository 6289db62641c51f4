//! libFuzzer on the target `relay_store_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("relay_store_log")(bytes));
