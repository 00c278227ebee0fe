//! Real gdb on a real kernel: `tests/files/gdb/kernel.gdb`.

use std::{path::Path, process::Command};

use vm_tests::{Vm, guest, scratch};

const LIMIT: u64 = 240;

/// A TCP port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

#[test]
fn a_debugger_follows_early_boot() {
    let kernel = guest("linux");
    let port = free_port();
    let gdb = format!("tcp:127.0.0.1:{port}");
    let args = ["-M", "virt", "-cpu", "cortex-a57", "-smp", "4", "-m", "512", "-S", "-nographic"];
    let streams = ["-serial", "null", "-monitor", "null", "-gdb", &gdb, "-kernel", &kernel];
    let _vm = Vm::start(&[&args[..], &streams[..]].concat(), LIMIT);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../files/gdb/kernel.gdb");
    let connect = format!(
        "set tcp connect-timeout 60\ndefine connect\ntarget remote 127.0.0.1:{port}\nend\nsource {}\n",
        script.display()
    );
    let commands = scratch("kernel.gdb");
    std::fs::write(&commands, connect).expect("written");
    let out = Command::new("gdb-multiarch")
        .args(["-batch", "-nx", "-x"])
        .arg(commands)
        .output()
        .expect("gdb-multiarch runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let all = format!("{text}\n{}", String::from_utf8_lossy(&out.stderr));
    for want in [
        "Thread 1.4 (CPU#3 [halted ])",
        "entry pc 0x40200000 x0 0x48000000",
        "step moved 1",
        "Hardware watchpoint 2: *(unsigned long *)$boot_args",
        "New value = 1207959552",
        "boot args hold 0x48000000",
        "cpsr",
        "= {0x0, 0x0}",
        "written 0x1234567890abcdef 0x55",
        "virtual 0xfeedface",
        "physical 0xfeedface",
        "VM status: paused (debug)",
        "attached again, pc moved 1",
        "thread 4 pc 1",
    ] {
        assert!(all.contains(want), "no {want:?} in\n{all}");
    }
}
