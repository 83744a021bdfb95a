#![no_main]
//! See `turnpike_fuzz::operations`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz::operations::run(data));
