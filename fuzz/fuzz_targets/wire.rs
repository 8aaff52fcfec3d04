//! Lets the fuzzer call `fuzz::wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::wire(data));
