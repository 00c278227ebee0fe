//! Crash safety: a writer is killed at random moments; what it flushed is there, and the image is
//! clean or has at worst clusters that nothing uses.
//!
//! The writer is this very test, started again with a variable set. After each flush it prints how
//! many writes the flush covers. Formats are in turns: raw, and qcow2 with small clusters, compressed
//! clusters (zlib, zstd), lazy counts, extended entries and an external data file. The number of rounds is `TINAMOU_CRASHES`
//! (200 without).

#![expect(clippy::disallowed_methods, reason = "a test reads what its child prints")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use block::{BlockClass, Creation, Fix, Flags, Graph, Node};

static CLASSES: &[&BlockClass] = &[&block::FILE, &block::RAW, &block_formats::qcow2::CLASS];
const SIZE: u64 = 8 << 20;
const UNIT: u64 = 4096;

/// Formats and their options; `COMPRESSED` is none, writes are compressed then.
const KINDS: [(&str, &[(&str, &str)]); 9] = [
    ("qcow2", &[]),
    ("raw", &[]),
    ("qcow2", &[("cluster_size", "4096")]),
    ("qcow2", &[("extended_l2", "on"), ("cluster_size", "16384")]),
    ("qcow2", &[("lazy_refcounts", "on"), ("refcount_bits", "8")]),
    ("qcow2", &[("data_file", "DATA")]),
    ("qcow2", &[("data_file", "DATA"), ("data_file_raw", "on"), ("lazy_refcounts", "on")]),
    ("qcow2", &[("COMPRESSED", ""), ("cluster_size", "4096")]),
    (
        "qcow2",
        &[
            ("COMPRESSED", ""),
            ("cluster_size", "4096"),
            ("compression_type", "zstd"),
            ("lazy_refcounts", "on"),
        ],
    ),
];

fn is_compressed(kind: (&str, &[(&str, &str)])) -> bool {
    kind.1.iter().any(|(name, _)| *name == "COMPRESSED")
}

fn open(path: &str, format: &str) -> Arc<Node> {
    Graph::new(CLASSES).open_image(path, Some(format), Flags::default()).unwrap()
}

/// The n-th write of a seed: its place and its byte.
fn write_of(seed: u64, n: u64) -> (u64, u8) {
    let mixed = (seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let place = (mixed >> 20) % (SIZE / UNIT) * UNIT;
    (place, u8::try_from(n % 255 + 1).unwrap())
}

fn child(path: &str, format: &str, seed: u64) {
    let node = open(path, format);
    let compressed = std::env::var_os("TINAMOU_CRASH_COMPRESSED").is_some();
    for n in 0.. {
        let (at, byte) = write_of(seed, n);
        let data = [byte; UNIT as usize];
        if compressed {
            assert!(node.driver().write_compressed(at, &data).unwrap());
        } else {
            node.write(at, &data).unwrap();
        }
        if n % 10 == 9 {
            node.flush().unwrap();
            println!("flushed {}", n + 1);
            std::io::stdout().flush().unwrap();
        }
    }
}

fn rounds() -> u64 {
    std::env::var("TINAMOU_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

/// Kills a writer after a while; how many writes were flushed by then.
fn kill_a_writer(path: &str, kind: (&str, &[(&str, &str)]), seed: u64) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if is_compressed(kind) {
        command.env("TINAMOU_CRASH_COMPRESSED", "1");
    }
    let mut child = command
        .args(["--exact", "killed_writers_lose_nothing_that_was_flushed", "--nocapture"])
        .env("TINAMOU_CRASH_IMAGE", path)
        .env("TINAMOU_CRASH_FORMAT", kind.0)
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

/// Makes an image of a kind.
fn create(kind: (&str, &[(&str, &str)]), filename: &str) {
    let data = format!("{filename}.data");
    let options = kind.1.iter().filter(|(name, _)| *name != "COMPRESSED");
    let options = options.map(|(name, value)| {
        let value = if *value == "DATA" { &data } else { *value };
        ((*name).to_owned(), value.to_owned())
    });
    let new = Creation {
        filename: filename.into(),
        size: SIZE,
        options: options.collect(),
        ..Creation::default()
    };
    let class = if kind.0 == "raw" { &block::RAW } else { &block_formats::qcow2::CLASS };
    (class.create.unwrap())(&new).unwrap();
}

/// Checks the tables and mends them; how many leaks there were.
fn mend(filename: &str, round: u64) -> u64 {
    let flags = Flags { check: true, ..Flags::default() };
    let node = Graph::new(CLASSES).open_image(filename, Some("qcow2"), flags).unwrap();
    let found = node.driver().check(Fix::None).unwrap();
    assert_eq!(found.corruptions, 0, "round {round}: {:?}", found.messages);
    let report = node.driver().check(Fix::All).unwrap();
    assert_eq!(report.corruptions + report.leaks, 0, "round {round}: {:?}", report.messages);
    found.leaks
}

/// What was flushed is there; a later write may be there or not.
fn compare(node: &Node, round: u64, flushed: u64) {
    let mut places = vec![(0, Vec::new()); usize::try_from(SIZE / UNIT).unwrap()];
    for n in 0..flushed + 5000 {
        let (at, byte) = write_of(round, n);
        let place = &mut places[usize::try_from(at / UNIT).unwrap()];
        if n < flushed {
            place.0 = byte;
        } else {
            place.1.push(byte);
        }
    }
    let mut back = vec![0; usize::try_from(SIZE).unwrap()];
    node.read(0, &mut back).unwrap();
    for (n, (expected, later)) in places.iter().enumerate() {
        let unit = &back[n * UNIT as usize..(n + 1) * UNIT as usize];
        let fine = |byte: &u8| byte == expected || later.contains(byte);
        // One write may have been cut at any byte; the raw disk has no promise about its unit.
        assert!(unit.iter().all(fine), "round {round} unit {n}: {} not {expected}", unit[0]);
    }
}

#[test]
fn killed_writers_lose_nothing_that_was_flushed() {
    if let Ok(path) = std::env::var("TINAMOU_CRASH_IMAGE") {
        let seed = std::env::var("TINAMOU_CRASH_SEED").unwrap().parse().unwrap();
        return child(&path, &std::env::var("TINAMOU_CRASH_FORMAT").unwrap(), seed);
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut writes, mut leaks, mut leaky) = (0, 0, 0);
    let mut each = [(0u64, 0u64, 0u64); KINDS.len()];
    for round in 0..rounds() {
        let kind = KINDS[usize::try_from(round).unwrap() % KINDS.len()];
        let filename = dir.path().join(format!("{round}.img")).display().to_string();
        create(kind, &filename);
        let flushed = kill_a_writer(&filename, kind, round);
        writes += flushed;
        let own = &mut each[usize::try_from(round).unwrap() % KINDS.len()];
        (own.0, own.1) = (own.0 + 1, own.1 + flushed);
        if kind.0 == "qcow2" {
            let found = mend(&filename, round);
            leaks += found;
            leaky += u64::from(found > 0);
            own.2 += found;
        }
        compare(&open(&filename, kind.0), round, flushed);
        std::fs::remove_file(&filename).unwrap();
        _ = std::fs::remove_file(format!("{filename}.data"));
    }
    for ((format, options), (kills, writes, leaks)) in KINDS.iter().zip(each) {
        println!("{format} {options:?}: {kills} kills, {writes} flushed writes, {leaks} leaks");
    }
    println!(
        "{} kills: {writes} flushed writes there, no corruption, {leaks} leaked clusters in {leaky} images, all mended",
        rounds()
    );
}
