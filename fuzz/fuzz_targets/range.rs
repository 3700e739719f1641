//! Any bytes as a Range: what is asked lies within the file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::hub::fuzz_range(data));
