#![no_main]

#[path = "../wild.rs"]
mod wild;

libfuzzer_sys::fuzz_target!(|data: &[u8]| wild::wild(data));
