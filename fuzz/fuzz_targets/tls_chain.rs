//! libFuzzer on the target `tls_chain`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("tls_chain")(bytes));
