//! libFuzzer on the target `devices_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("devices_frame")(bytes));
