//! Any bytes as a request head: one that passes has one reading.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::proxy::fuzz_head(data));
