//! An image in use is kept from others: the emulator running against the installed tools of QEMU, both
//! ways. Without them there is nothing to compare with and the tests say so.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn image(dir: &Path) -> Option<String> {
    let path = dir.join("disk.qcow2").display().to_string();
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", &path, "1M"]).status();
    if made.is_err() {
        eprintln!("qemu-img is not installed: not compared");
        return None;
    }
    Some(path)
}

fn emulator(dir: &Path, drive: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinamou"));
    let args = ["system", "aarch64", "-M", "virt", "-S", "-nodefaults", "-display", "none"];
    command.args(args).args(["-device", "virtio-blk-device,drive=d", "-drive", drive]);
    command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", dir.join("m").display()));
    command.stdin(Stdio::null());
    command
}

/// Runs the emulator until its monitor listens: the disk is open then.
fn start(dir: &Path, drive: &str) -> Running {
    _ = std::fs::remove_file(dir.join("m"));
    let mut running = Running(emulator(dir, drive).spawn().expect("starts"));
    let socket = dir.join("m");
    while UnixStream::connect(&socket).is_err() {
        assert!(running.0.try_wait().expect("asked").is_none(), "it ended");
        std::thread::yield_now();
    }
    running
}

fn peer(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().expect("runs")
}

fn refused(out: &Output, lock: &str, path: &str) {
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{text}");
    assert!(text.contains(&format!("Failed to get {lock} lock")), "{text}");
    assert!(text.contains(&format!("Is another process using the image [{path}]?")), "{text}");
}

#[test]
fn tools_are_kept_off_an_image_that_the_emulator_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(path) = image(dir.path()) else { return };
    let write = ["-f", "qcow2", "-c", "write 0 512", &path];
    let running = start(dir.path(), &format!("if=none,id=d,format=qcow2,file={path}"));
    refused(&peer("qemu-img", &["info", &path]), "shared \"write\"", &path);
    refused(&peer("qemu-img", &["check", &path]), "shared \"write\"", &path);
    refused(&peer("qemu-io", &write), "\"write\"", &path);
    assert!(peer("qemu-img", &["info", "-U", &path]).status.success());
    drop(running);
    assert!(peer("qemu-io", &write).status.success());
    // A reader shares with readers and keeps writers off.
    let drive = format!("if=none,id=d,format=qcow2,readonly=on,file={path}");
    let running = start(dir.path(), &drive);
    assert!(peer("qemu-img", &["info", &path]).status.success());
    refused(&peer("qemu-io", &write), "\"write\"", &path);
    drop(running);
}

#[test]
fn the_emulator_is_kept_off_an_image_that_a_tool_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(path) = image(dir.path()) else { return };
    let mut tool = Command::new("qemu-io");
    tool.args(["-f", "qcow2", &path]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut tool = Running(tool.spawn().expect("starts"));
    // It has the image when it answers.
    let mut input = tool.0.stdin.take().expect("piped");
    input.write_all(b"length\n").expect("written");
    let mut first = [0];
    std::io::Read::read_exact(tool.0.stdout.as_mut().expect("piped"), &mut first).expect("read");
    for (more, lock) in [("", "\"write\""), (",readonly=on", "shared \"write\"")] {
        let drive = format!("if=none,id=d,format=qcow2{more},file={path}");
        let out = emulator(dir.path(), &drive).output().expect("runs");
        assert_eq!(out.status.code(), Some(1));
        refused(&out, lock, &path);
    }
    drop(input);
    drop(tool);
    drop(start(dir.path(), &format!("if=none,id=d,format=qcow2,file={path}")));
}
