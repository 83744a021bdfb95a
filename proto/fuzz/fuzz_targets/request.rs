#![no_main]
//! See `turnpike_fuzz::request`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz::request::run(data));
