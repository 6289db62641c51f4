//! libFuzzer on the target `agent_envelope`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("agent_envelope")(bytes));
