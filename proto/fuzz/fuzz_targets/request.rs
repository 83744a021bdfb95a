#![no_main]
//! See `turnpike_fuzz_checks::request`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz_checks::request::run(data));
