//! libFuzzer on the target `agent_link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("agent_link")(bytes));
