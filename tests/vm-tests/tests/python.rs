//! The Python package `qemu.qmp`, which QEMU's own tools use, in a session with the emulator:
//! `tests/files/qmp/session.py`. `cargo xtask test` installs it into the target folder.

use std::{path::Path, process::Command};

use vm_tests::{Vm, scratch};

#[test]
fn qemu_qmp_speaks_with_us() {
    let path = scratch("python.qmp");
    let qmp = format!("unix:{},server=on,wait=on", path.display());
    let args = ["-M", "none", "-S", "-nodefaults", "-display", "none", "-qmp", &qmp];
    let vm = Vm::start(&args, 60);
    while !path.exists() {
        std::thread::yield_now();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../files/qmp/session.py");
    let out = Command::new("python3").arg(script).arg(&path).output().expect("python3 runs");
    let text = String::from_utf8_lossy(&out.stdout);
    let want = "version 10\nevent RESUME\nevent STOP\nstatus paused\nerror Device '/nope' not found\n\
                replies 50\nschema True\n";
    assert_eq!(text, want, "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(vm.end().code, Some(0));
}
