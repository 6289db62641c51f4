//! libFuzzer on the target `smp_server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("smp_server")(bytes));
