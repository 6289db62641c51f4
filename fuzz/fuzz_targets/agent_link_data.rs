//! libFuzzer on the target `agent_link_data`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("agent_link_data")(bytes));
