#![no_main]

#[path = "../storage.rs"]
#[expect(dead_code, reason = "one body per target")]
mod storage;

libfuzzer_sys::fuzz_target!(|data: &[u8]| storage::luks(data));
