#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diodesync_fuzz::submitted::deb(data));
