//! Any bytes as a Content-Range, an entity tag, a condition.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::hub::fuzz_content_range(data));
