//! libFuzzer on the target `backup_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| junto_fuzz::target("backup_file")(bytes));
