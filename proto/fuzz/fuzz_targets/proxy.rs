#![no_main]
//! See `turnpike_fuzz_checks::proxy`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz_checks::proxy::run(data));
