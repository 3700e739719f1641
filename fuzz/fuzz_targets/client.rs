//! Any bytes as X-Forwarded-For: only a trusted peer is believed.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::limits::fuzz_client(data));
