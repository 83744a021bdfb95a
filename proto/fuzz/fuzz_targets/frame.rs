#![no_main]
//! See `turnpike_fuzz_checks::frame`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz_checks::frame::run(data));
