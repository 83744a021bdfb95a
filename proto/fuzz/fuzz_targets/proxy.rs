#![no_main]
//! See `turnpike_fuzz::proxy`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz::proxy::run(data));
