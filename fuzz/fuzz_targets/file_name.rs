//! Any text as a file name: plain, short, and no two the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::store::fuzz_file_name(data));
