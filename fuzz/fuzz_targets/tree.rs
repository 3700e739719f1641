//! Any bytes as a listing or an info of the Hub.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::hub::fuzz_tree(data));
