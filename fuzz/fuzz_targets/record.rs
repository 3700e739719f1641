//! Any bytes as a kept answer: what is read back is what was written, damage is noticed.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::store::fuzz_record(data));
