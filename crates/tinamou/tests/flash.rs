//! Flash keeps its blocks whole when the program is killed while it writes them.
//!
//! Over the qtest protocol a guest programs blocks of the write buffer's length, each filled with a
//! byte of its own; the process is killed in the middle, again and again. An erased sector is 256 KiB
//! and may be erased in part then, which is not looked at.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Bytes of a block: the buffers of two chips.
const BLOCK: u64 = 4096;
const BLOCKS: u64 = 16;

/// Writes one block's commands.
fn program(out: &mut impl std::io::Write, block: u64, byte: u8) -> std::io::Result<()> {
    let at = 0x400_0000 + block * BLOCK;
    let word = u32::from_le_bytes([byte; 4]);
    let mut text = format!("writel {at:#x} 0x00e800e8\n");
    let words = BLOCK / 4;
    let count = words - 1;
    text += &format!("writel {at:#x} {:#x}\n", count << 16 | count);
    for n in 0..words {
        text += &format!("writel {:#x} {word:#x}\n", at + n * 4);
    }
    text += &format!("writel {at:#x} 0x00d000d0\n");
    out.write_all(text.as_bytes())
}

#[test]
fn a_killed_program_leaves_whole_blocks() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("flash");
    std::fs::write(&file, vec![0xff; 64 << 20]).expect("a file");
    let mut seed = 11u64;
    let mut changed = 0;
    for round in 0..40u8 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinamou"));
        command
            .arg0("qemu-system-aarch64")
            .args(["-M", "virt", "-accel", "qtest", "-display", "none"]);
        command.args(["-nodefaults", "-qtest", "stdio", "-drive"]);
        command.arg(format!("if=pflash,unit=1,format=raw,file={}", file.display()));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut input = child.stdin.take().expect("piped");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // The answers are read, so that it never waits for us.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let many = 2 + seed % 40;
        let answers = many * (BLOCK / 4 + 3) - (seed >> 20) % (BLOCK / 4);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for n in 0..many {
                    // It is killed while we write.
                    if program(&mut input, n % BLOCKS, round.wrapping_add(n as u8)).is_err() {
                        break;
                    }
                }
            });
            for _ in 0..answers {
                let answer = lines.next().expect("an answer").expect("text");
                assert!(answer.starts_with("OK"), "{answer}");
            }
            child.kill().expect("it runs");
        });
        child.wait().expect("own child");
        let bytes = std::fs::read(&file).expect("own file");
        for (n, block) in bytes.chunks(BLOCK as usize).take(BLOCKS as usize).enumerate() {
            assert!(block.iter().all(|b| *b == block[0]), "round {round}: block {n} is torn");
            changed += u32::from(block[0] != 0xff);
        }
    }
    assert!(changed > 100, "blocks were written: {changed}");
}
