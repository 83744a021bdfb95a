#![no_main]
//! See `turnpike_fuzz::wire`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz::wire::run(data));
