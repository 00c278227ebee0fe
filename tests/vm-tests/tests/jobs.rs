//! A guest writes to its disk while layers are streamed and committed below it.
//!
//! The guest (`tests/guests/blk-writer.S`) knows what it wrote and what was there before, reads all
//! of it back at the end and says whether it is right; what is on the disk then is compared with
//! the peer's tool where there is one.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use vm_tests::bare::Program;
use vm_tests::{Listener, Qmp, Vm, emulator, on_path, scratch};

/// Seconds for one machine with everything.
const LIMIT: u64 = 120;
/// Bytes of the disk, and of a block of the guest.
const SIZE: usize = 8 << 20;
const BLOCK: usize = 4096;

struct Chain {
    dir: PathBuf,
}

impl Drop for Chain {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn img(args: &[&str], dir: &Path) {
    let tool = emulator().with_file_name("tinamou-img");
    let status = Command::new(&tool).args(args).current_dir(dir).status();
    assert!(status.is_ok_and(|status| status.success()), "{} {args:?}", tool.display());
}

impl Chain {
    /// `base`, `mid`, `top`; each holds some blocks of its own, filled with one word each.
    fn new(name: &str) -> Chain {
        let dir = scratch(&format!("jobs-{name}"));
        std::fs::create_dir_all(&dir).expect("temporary folder");
        let mut below: Option<&str> = None;
        for (layer, image) in (1u64..).zip(["base", "mid", "top"]) {
            let raw = std::fs::File::create(dir.join("raw")).expect("temporary folder");
            raw.set_len(SIZE as u64).expect("space");
            // Whole clusters of 16 blocks; the others stay holes.
            for n in (0..SIZE / BLOCK).filter(|n| n / 16 % 10 < 6 / layer as usize) {
                let word = (layer << 48 | n as u64).to_le_bytes();
                raw.write_all_at(&word.repeat(BLOCK / 8), (n * BLOCK) as u64).expect("space");
            }
            img(&["convert", "-f", "raw", "-O", "qcow2", "raw", image], &dir);
            if let Some(below) = below {
                img(&["rebase", "-u", "-b", below, "-F", "qcow2", image], &dir);
            }
            below = Some(image);
        }
        Chain { dir }
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Whether an image is whole, and what it holds.
    fn contents(&self, name: &str) -> Vec<u8> {
        img(&["check", "-q", name], &self.dir);
        if let Some(peer) = on_path("qemu-img") {
            let mut check = Command::new(peer);
            let status = check.args(["check", "-q", name]).current_dir(&self.dir).status();
            assert!(status.is_ok_and(|status| status.success()), "check of {name}");
        }
        img(&["convert", "-f", "qcow2", "-O", "raw", name, "raw"], &self.dir);
        std::fs::read(self.dir.join("raw")).expect("own file")
    }
}

/// Starts a machine with the writing guest; `layers` are options of the disk's node.
fn start(chain: &Chain, program: &Program, name: &str) -> (Vm, Qmp) {
    let listener = Listener::new(&format!("jobs-q-{name}"));
    let (qmp, kernel) = (listener.option(), program.file().display().to_string());
    let top = chain.file("top");
    let drive = format!("if=none,id=d0,format=qcow2,node-name=top,file={top}");
    let mut args = vec!["-M", "virt", "-cpu", "cortex-a57", "-nodefaults", "-display", "none"];
    args.extend(["-global", "virtio-mmio.force-legacy=false", "-serial", "stdio"]);
    args.extend(["-kernel", &kernel, "-drive", &drive, "-qmp", &qmp]);
    args.extend(["-object", "iothread,id=t0", "-device", "virtio-blk-device,drive=d0,iothread=t0"]);
    let mut vm = Vm::start(&args, LIMIT);
    let qmp = listener.accept(LIMIT);
    vm.wait_for("WRITING");
    (vm, qmp)
}

/// The guest stops writing, and finds everything as it should be.
fn finish(mut vm: Vm) -> u64 {
    vm.send("x");
    let ended = vm.end();
    assert!(ended.out.contains("GOOD"), "{} {}", ended.out, ended.err);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let rounds = ended.out.lines().find_map(|line| line.strip_prefix("rounds "));
    rounds.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).expect("rounds")
}

fn begin(qmp: &mut Qmp, command: &str, args: &str) {
    let text = format!("{command}\",\"arguments\":{{{args}}},\"id\":\"x");
    let reply = qmp.run(&text);
    assert!(reply.starts_with("{\"return\": {}"), "{reply}");
}

/// Words of blocks that the guest wrote have its round in them; others are as they were.
fn is_written(disk: &[u8]) -> bool {
    let words = disk.chunks(BLOCK).map(|block| {
        let word = block.first_chunk().map(|word| u64::from_le_bytes(*word)).unwrap_or_default();
        assert!(block.chunks(8).all(|place| place == word.to_le_bytes()), "a torn block");
        word
    });
    words.filter(|word| *word != 0 && *word >> 48 == 0).count() > 100
}

#[test]
fn a_stream_runs_below_a_guest_that_writes() {
    let (chain, program) = (Chain::new("stream"), Program::assemble("blk-writer"));
    let (vm, mut qmp) = start(&chain, &program, "stream");
    begin(&mut qmp, "block-stream", "\"device\":\"d0\",\"speed\":4194304");
    let end = qmp.event("BLOCK_JOB_COMPLETED");
    assert!(!end.contains("\"error\""), "{end}");
    let rounds = finish(vm);
    assert!(rounds > 100, "{rounds}");
    // The layers below are not needed any more.
    for layer in ["base", "mid"] {
        std::fs::remove_file(chain.dir.join(layer)).expect("own file");
    }
    assert!(is_written(&chain.contents("top")));
}

#[test]
fn layers_are_committed_below_and_from_a_guest_that_writes() {
    let (chain, program) = (Chain::new("commit"), Program::assemble("blk-writer"));
    let (vm, mut qmp) = start(&chain, &program, "commit");
    let mid = chain.file("mid");
    let below = format!("\"device\":\"d0\",\"job-id\":\"j\",\"top\":\"{mid}\",\"speed\":8388608");
    begin(&mut qmp, "block-commit", &below);
    let end = qmp.event("BLOCK_JOB_COMPLETED");
    assert!(!end.contains("\"error\""), "{end}");
    std::fs::remove_file(chain.dir.join("mid")).expect("own file");
    begin(&mut qmp, "block-commit", "\"device\":\"d0\",\"job-id\":\"k\"");
    qmp.event("BLOCK_JOB_READY");
    begin(&mut qmp, "block-job-complete", "\"device\":\"k\"");
    let end = qmp.event("BLOCK_JOB_COMPLETED");
    assert!(!end.contains("\"error\""), "{end}");
    let rounds = finish(vm);
    assert!(rounds > 100, "{rounds}");
    std::fs::remove_file(chain.dir.join("top")).expect("own file");
    assert!(is_written(&chain.contents("base")));
}
