//! Any bytes as what is known of a commit: a torn listing never passes for the whole.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::store::fuzz_listing(data));
