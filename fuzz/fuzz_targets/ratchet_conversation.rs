//! libFuzzer on the target `ratchet_conversation`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("ratchet_conversation")(bytes));
