#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diodesync_fuzz::release::module(data));
