//! Lets the fuzzer call `fuzz::data_url`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::data_url(data));
