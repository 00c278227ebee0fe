//! Crash safety: a writer is killed at random moments; what it flushed is there, and the image is
//! clean or has at worst clusters that nothing uses.
//!
//! The writer is this very test, started again with a variable set. After each flush it prints how
//! many writes the flush covers. The number of rounds is `TINAMOU_CRASHES` (20 without).

#![expect(clippy::disallowed_methods, reason = "a test reads what its child prints")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use block::{BlockClass, Creation, Fix, Flags, Graph, Node};

static CLASSES: &[&BlockClass] = &[&block::FILE, &block::RAW, &block_formats::qcow2::CLASS];
const SIZE: u64 = 8 << 20;
const UNIT: u64 = 4096;

fn open(path: &str) -> Arc<Node> {
    Graph::new(CLASSES).open_image(path, Some("qcow2"), Flags::default()).unwrap()
}

/// The n-th write of a seed: its place and its byte.
fn write_of(seed: u64, n: u64) -> (u64, u8) {
    let mixed = (seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let place = (mixed >> 20) % (SIZE / UNIT) * UNIT;
    (place, u8::try_from(n % 255 + 1).unwrap())
}

fn child(path: &str, seed: u64) {
    let node = open(path);
    for n in 0.. {
        let (at, byte) = write_of(seed, n);
        node.write(at, &[byte; UNIT as usize]).unwrap();
        if n % 10 == 9 {
            node.flush().unwrap();
            println!("flushed {}", n + 1);
            std::io::stdout().flush().unwrap();
        }
    }
}

fn rounds() -> u64 {
    std::env::var("TINAMOU_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

/// Kills a writer after a while; how many writes were flushed by then.
fn kill_a_writer(path: &str, seed: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_writers_lose_nothing_that_was_flushed", "--nocapture"])
        .env("TINAMOU_CRASH_IMAGE", path)
        .env("TINAMOU_CRASH_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (send, receive) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut last = 0;
        for line in out.lines().map_while(Result::ok) {
            // The harness writes on the same line before the first one.
            if let Some((_, n)) = line.split_once("flushed ") {
                last = n.parse().unwrap_or(last);
                _ = send.send(());
            }
        }
        last
    });
    // The first flush, so that there is something to lose; then a moment of its own.
    receive.recv().unwrap();
    std::thread::sleep(Duration::from_micros(seed.wrapping_mul(7919) % 30_000));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn killed_writers_lose_nothing_that_was_flushed() {
    if let Ok(path) = std::env::var("TINAMOU_CRASH_IMAGE") {
        let seed = std::env::var("TINAMOU_CRASH_SEED").unwrap().parse().unwrap();
        return child(&path, seed);
    }
    let dir = tempfile::tempdir().unwrap();
    let kinds: [&[(&str, &str)]; 4] = [
        &[],
        &[("cluster_size", "4096")],
        &[("extended_l2", "on"), ("cluster_size", "16384")],
        &[("lazy_refcounts", "on"), ("refcount_bits", "8")],
    ];
    for round in 0..rounds() {
        let options = kinds[usize::try_from(round).unwrap() % kinds.len()];
        let filename = dir.path().join(format!("{round}.qcow2")).display().to_string();
        let options = options.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let new =
            Creation { filename: filename.clone(), size: SIZE, options, ..Creation::default() };
        (block_formats::qcow2::CLASS.create.unwrap())(&new).unwrap();
        let flushed = kill_a_writer(&filename, round);
        let flags = Flags { check: true, ..Flags::default() };
        let node = Graph::new(CLASSES).open_image(&filename, Some("qcow2"), flags).unwrap();
        let report = node.driver().check(Fix::None).unwrap();
        assert_eq!(report.corruptions, 0, "round {round}: {:?}", report.messages);
        let report = node.driver().check(Fix::All).unwrap();
        assert_eq!(report.corruptions + report.leaks, 0, "round {round}: {:?}", report.messages);
        drop(node);
        let node = open(&filename);
        // A later write that was not flushed may be there or not: any byte written there since.
        for place in (0..SIZE).step_by(UNIT as usize) {
            let all: Vec<u64> =
                (0..flushed + 5000).filter(|n| write_of(round, *n).0 == place).collect();
            let sure = all.iter().rev().find(|n| **n < flushed);
            let mut back = [0; UNIT as usize];
            node.read(place, &mut back).unwrap();
            let later = all.iter().filter(|n| **n >= flushed).map(|n| write_of(round, *n).1);
            let expected = sure.map_or(0, |n| write_of(round, *n).1);
            let fine = back.iter().all(|b| *b == back[0])
                && (back[0] == expected || later.into_iter().any(|byte| byte == back[0]));
            assert!(fine, "round {round} place {place}: {} not {expected}", back[0]);
        }
        std::fs::remove_file(&filename).unwrap();
    }
}
