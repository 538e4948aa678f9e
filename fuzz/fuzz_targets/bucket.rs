#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keywheel_fuzz::bucket::bucket(data));
