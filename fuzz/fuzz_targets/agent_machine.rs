//! libFuzzer on the target `agent_machine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("agent_machine")(bytes));
