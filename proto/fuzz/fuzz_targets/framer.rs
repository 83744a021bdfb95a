#![no_main]
//! See `turnpike_fuzz::framer`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz::framer::run(data));
