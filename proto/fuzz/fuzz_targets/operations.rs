#![no_main]
//! See `turnpike_fuzz_checks::operations`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz_checks::operations::run(data));
