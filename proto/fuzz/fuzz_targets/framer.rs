#![no_main]
//! See `turnpike_fuzz_checks::framer`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz_checks::framer::run(data));
