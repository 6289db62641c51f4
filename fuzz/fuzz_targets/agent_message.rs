//! libFuzzer on the target `agent_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("agent_message")(bytes));
