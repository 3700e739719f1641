//! Any bytes as a request target: no route leaves its directory, each is read back the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::hub::fuzz_route(data));
