//! libFuzzer on the target `ratchet_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("ratchet_message")(bytes));
