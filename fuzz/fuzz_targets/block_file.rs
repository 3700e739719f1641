//! Any bytes as a block file: the decoder neither panics nor believes a length that is not there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dingospeed::store::fuzz_block_file(data));
