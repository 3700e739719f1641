//! Any bytes as JSON: no sign of Xet is left, all else is as it was.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::hub::fuzz_strip_xet(data));
