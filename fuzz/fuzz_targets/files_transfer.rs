//! libFuzzer on the target `files_transfer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("files_transfer")(bytes));
