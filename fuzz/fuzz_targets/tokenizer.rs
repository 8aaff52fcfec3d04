//! Lets the fuzzer call `fuzz::tokenizer`.
#![no_main]

// The library panics at some files, which is caught; only what nobody catches is a finding.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| ())),
    |data: &[u8]| fuzz::tokenizer(data)
);
