//! libFuzzer on the target `smp_forward`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("smp_forward")(bytes));
