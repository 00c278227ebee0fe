//! Writes that the host cuts short, because files may grow to a limit only: the tool says so and
//! ends with status 1, as the peer does, and leaves no image that is taken for a good one.

use std::path::Path;
use std::process::{Command, Output};

const OURS: &str = env!("CARGO_BIN_EXE_tinamou-img");

/// Runs the tool; files may have so many KiB (`None`: any number).
fn run(dir: &Path, limit: Option<u32>, args: &[&str]) -> Output {
    // Blocks of 512 bytes in some shells, of 1024 in others: bash's are said to be 1024.
    let script = limit.map_or(String::new(), |n| format!("ulimit -f {n}; "));
    let script = format!("{script}exec \"$0\" \"$@\"");
    Command::new("bash").current_dir(dir).args(["-c", &script, OURS]).args(args).output().unwrap()
}

fn failed(out: &Output, text: &str) {
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert_eq!(String::from_utf8_lossy(&out.stderr), format!("{text}\n"));
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let bytes: Vec<u8> = (0u32..4 << 20).map(|n| u8::try_from(n % 251 + 1).unwrap()).collect();
    std::fs::write(dir.join("s.raw"), &bytes).unwrap();
    let to = |format, name| ["convert", "-f", "raw", "-O", format, "s.raw", name].to_vec();
    // Messages of QEMU 10.0.2 in the same place.
    let out = run(dir, Some(1024), &to("raw", "d.raw"));
    failed(
        &out,
        "qemu-img: d.raw: error while converting raw: Could not resize file: File too large",
    );
    let out = run(dir, Some(1024), &to("qcow2", "d.qcow2"));
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let (head, tail) = text.trim_end().rsplit_once(": ").unwrap();
    assert!(head.starts_with("qemu-img: error while writing at byte "), "{text}");
    assert_eq!(tail, "File too large");
    // What a writer had before it was cut short is there, and the tables are whole.
    assert!(run(dir, None, &["create", "-q", "-f", "qcow2", "e.qcow2", "4M"]).status.success());
    let dd = ["dd", "-f", "raw", "-O", "raw", "bs=64k", "count=8", "if=s.raw", "of=half.raw"];
    assert!(run(dir, None, &dd).status.success());
    let half = ["convert", "-n", "-f", "raw", "-O", "qcow2", "half.raw", "e.qcow2"];
    assert!(run(dir, None, &half).status.success());
    let mut whole = half;
    whole[6] = "s.raw";
    let out = run(dir, Some(1024), &whole);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let check = run(dir, None, &["check", "-q", "e.qcow2"]);
    assert!([Some(0), Some(3)].contains(&check.status.code()), "{check:?}");
    assert!(run(dir, None, &whole).status.success());
    let same = ["compare", "-f", "raw", "-F", "qcow2", "s.raw", "e.qcow2"];
    assert!(run(dir, None, &same).status.success());
}
