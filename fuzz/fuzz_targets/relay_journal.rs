//! libFuzzer on the target `relay_journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("relay_journal")(bytes));
