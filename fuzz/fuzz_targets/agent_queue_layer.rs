//! libFuzzer on the target `agent_queue_layer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("agent_queue_layer")(bytes));
