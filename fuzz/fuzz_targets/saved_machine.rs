#![no_main]

#[path = "../bodies.rs"]
#[expect(dead_code, reason = "one body per target")]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::saved_machine(data));
