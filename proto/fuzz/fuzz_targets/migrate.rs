#![no_main]
//! See `turnpike_fuzz_checks::migrate`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_fuzz_checks::migrate::run(data));
