//! A write that the host cuts short goes on where it was; what cannot be written stops the machine,
//! and is written when there is room.
//!
//! The writer is this very test, started again with a limit of its files (`ulimit -f`); the test
//! lifts the limit (prlimit(1)) between the stop and the going on.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;

use block::{BlockClass, Graph, Lane, OnError, Op, Request, Verdict};
use guest_ram::{RamBlock, RamOptions, RamSlice};
use qapi::{Source, json};

static CLASSES: &[&BlockClass] = &[&block::FILE, &block::RAW];
const LEN: usize = 1 << 20;
const LIMIT: usize = 512 << 10;

/// Writes a mebibyte; `threads`: not through the ring.
fn child(path: &str, threads: bool) {
    host::outlive_file_limits();
    let graph = Graph::new(CLASSES);
    let aio = if threads { "threads" } else { "io_uring" };
    let text = format!(
        r#"{{"driver": "raw", "node-name": "n",
            "file": {{"driver": "file", "filename": "{path}", "aio": "{aio}"}}}}"#
    );
    let node = graph.add(json::from_str(&text).unwrap(), Source::Json).unwrap();
    let drive = graph.add_drive("d", Some(node)).unwrap();
    drive.set_policy(OnError::Report, OnError::Stop);
    let (tell, troubles) = channel();
    graph.on_trouble(Arc::new(move |t| tell.send((t.reason, t.verdict)).unwrap()));
    let ram = RamBlock::new("ram", LEN as u64, RamOptions::default()).unwrap();
    for at in (0..LEN).step_by(4096) {
        let fill = u8::try_from(at / 4096 % 255 + 1).unwrap();
        ram.fill(at as u64, 4096, fill).unwrap();
    }
    let memory = vec![RamSlice::new(ram, 0, LEN).unwrap()];
    let (send, done) = channel();
    let told = Box::new(move |result: std::io::Result<()>| send.send(result.is_ok()).unwrap());
    let (op, len, parts) = (Op::Write, LEN as u64, 1);
    let lane: Arc<Lane> = graph.lane(None);
    let request = Request { op, at: 0, len, memory, through: false, parts, done: told };
    drive.submit(&lane, request);
    lane.flush();
    let trouble = troubles.recv().unwrap();
    // A ring that was asked for tells of a full disk, as the peer's; a thread hears why.
    let reason = if threads { "File too large" } else { "No space left on device" };
    assert_eq!(trouble, (reason.to_owned(), Verdict::Stop));
    assert!(done.try_recv().is_err() && drive.has_parked());
    println!("\nstopped");
    std::io::stdout().flush().unwrap();
    std::io::stdin().lines().next().unwrap().unwrap();
    drive.retry();
    assert!(done.recv().unwrap());
    assert!(troubles.try_recv().is_err());
}

#[test]
fn a_write_cut_short_stops_the_machine_and_is_written_when_there_is_room() {
    if let Ok(path) = std::env::var("TINAMOU_SHORT_FILE") {
        return child(&path, std::env::var_os("TINAMOU_SHORT_THREADS").is_some());
    }
    let ring = host::Ring::new(1).is_ok();
    if !ring {
        println!("NOT RUN: no io_uring here");
    }
    for threads in [false, true].into_iter().filter(|threads| ring || *threads) {
        let file = tempfile::NamedTempFile::new().unwrap();
        // The limit is one of places, not of lengths.
        file.as_file().set_len(LEN as u64).unwrap();
        let script = format!("ulimit -S -f {}; exec \"$0\" \"$@\"", LIMIT >> 10);
        let mut command = Command::new("bash");
        command.args(["-c", &script]).arg(std::env::current_exe().unwrap());
        let name = "a_write_cut_short_stops_the_machine_and_is_written_when_there_is_room";
        command.args(["--exact", name, "--nocapture"]);
        command.env("TINAMOU_SHORT_FILE", file.path());
        if threads {
            command.env("TINAMOU_SHORT_THREADS", "1");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "stopped"), "the child ended");
        // The part below the limit was written.
        let half = std::fs::read(file.path()).unwrap();
        let expected: Vec<u8> =
            (0..LEN).map(|at| u8::try_from(at / 4096 % 255 + 1).unwrap()).collect();
        assert!(half[..LIMIT] == expected[..LIMIT]);
        assert!(half[LIMIT..].iter().all(|byte| *byte == 0));
        let pid = child.id().to_string();
        let lifted =
            Command::new("prlimit").args(["--fsize=unlimited", "--pid", &pid]).status().unwrap();
        assert!(lifted.success());
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        lines.for_each(drop);
        assert!(child.wait().unwrap().success());
        assert!(std::fs::read(file.path()).unwrap() == expected);
    }
}
