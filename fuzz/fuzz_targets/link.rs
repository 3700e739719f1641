//! Any bytes as a Link or Location: none leads to Xet, none leaves the mirror unseen.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::hub::fuzz_link(data));
