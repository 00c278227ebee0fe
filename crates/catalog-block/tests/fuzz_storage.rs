//! The fuzz bodies of storage on random inputs (as many as TINAMOU_FUZZ_ROUNDS says, if set), with
//! the memory of the whole process bounded.
//!
//! The test starts itself again under a limit of address space: a hostile image that made the
//! program ask for more would end it.

use std::process::Command;

#[path = "../../../fuzz/storage.rs"]
#[expect(unreachable_pub, reason = "shared with the fuzz targets")]
mod storage;

/// Kilobytes of address space.
const LIMIT: &str = "700000";

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }
}

fn rounds(other: u64) -> u64 {
    std::env::var("TINAMOU_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(other)
}

/// Runs a body on random bytes; `first` makes the first byte.
fn run(name: &str, body: fn(&[u8]), count: u64, most: u64, head: &[u8]) {
    if std::env::var_os("TINAMOU_FUZZ_CHILD").is_none() {
        let exe = std::env::current_exe().unwrap();
        let script = format!("ulimit -v {LIMIT}; exec \"$0\" --exact {name} --nocapture");
        let mut child = Command::new("sh");
        child.args(["-c", &script]).arg(exe).env("TINAMOU_FUZZ_CHILD", "1");
        let seed = std::env::var("TINAMOU_FUZZ_SEED").unwrap_or_default();
        let status = child.env("TINAMOU_FUZZ_SEED", seed).status().unwrap();
        assert!(status.success(), "{name}: {status}");
        return;
    }
    let seed = std::env::var("TINAMOU_FUZZ_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut random = Random(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
    for _ in 0..rounds(count) {
        let mut input = head.to_vec();
        if head.is_empty() {
            input.push(u8::try_from(random.next() % 128).unwrap());
        }
        for _ in 0..random.next() % most {
            input.push(u8::try_from(random.next() % 256).unwrap());
        }
        // What a failure is repeated with.
        let shown = input.clone();
        let result = std::panic::catch_unwind(|| body(&shown));
        assert!(result.is_ok(), "{name}: {input:?}");
    }
}

#[test]
fn qcow2() {
    run("qcow2", storage::qcow2, 1500, 40, &[]);
}

#[test]
fn luks() {
    run("luks", storage::luks, 150, 20, &[]);
}

#[test]
fn raw() {
    run("raw", storage::raw, 2000, 60, &[]);
    // Small numbers, so that they fit.
    run("raw", storage::raw, 2000, 40, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn nbd() {
    run("nbd", storage::nbd, 4000, 80, &[1]);
    run("nbd", storage::nbd, 4000, 80, &[1, 0x66, 0x8e, 0x33, 0xef, 0, 1, 0]);
    let hello = [b"\0NBDMAGICIHAVEOPT".as_slice(), &[0, 3]].concat();
    run("nbd", storage::nbd, 4000, 200, &hello);
}
