//! Snapshots of the whole machine: a Linux guest goes back, also in a new process; damaged ones are
//! refused and change nothing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use vm_tests::{Listener, Qmp, Vm, emulator, guest, scratch};

/// Seconds for one machine with everything.
const LIMIT: u64 = 240;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let dir = scratch(name);
        std::fs::create_dir_all(&dir).expect("temporary folder");
        Folder(dir)
    }

    fn image(&self, name: &str) -> PathBuf {
        let file = self.0.join(name);
        let tool = emulator().with_file_name("tinamou-img");
        let made =
            Command::new(tool).args(["create", "-q", "-f", "qcow2"]).arg(&file).arg("64M").status();
        assert!(made.is_ok_and(|status| status.success()));
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the human monitor says.
fn hmp(qmp: &mut Qmp, line: &str) -> String {
    let reply = qmp.ask("human-monitor-command", &format!("\"command-line\": \"{line}\""));
    let said = reply.split("\"return\": \"").nth(1).and_then(|rest| rest.strip_suffix("\"}"));
    said.unwrap_or_else(|| panic!("{line}: {reply}")).to_owned()
}

fn linux(disk: &Path, qmp: &str, more: &[&str]) -> Vm {
    let (kernel, initrd) = (guest("linux"), guest("initrd-tinamou"));
    let drive = format!("if=none,id=d,file={},format=qcow2", disk.display());
    let mut args = vec!["-M", "virt,gic-version=3", "-cpu", "max", "-smp", "2", "-m", "512M"];
    args.extend(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-qmp", qmp]);
    args.extend(["-drive", &drive, "-device", "virtio-blk-pci,drive=d"]);
    args.extend(["-device", "virtio-rng-pci"]);
    args.extend(["-kernel", &kernel, "-initrd", &initrd]);
    args.extend(["-append", "console=ttyAMA0 quiet rdinit=/tinamou-init"]);
    args.extend(more);
    Vm::start(&args, LIMIT)
}

#[test]
fn a_linux_guest_goes_back_here_and_in_another_process() {
    let folder = Folder::new("snapshots");
    let disk = folder.image("disk.qcow2");
    let listener = Listener::new("snapshots-q");
    let option = listener.option();
    let mut vm = linux(&disk, &option, &[]);
    let mut qmp = listener.accept(LIMIT);
    vm.wait_for("guest# ");
    // A counter in the background goes on in the same way after each load.
    vm.send("(n=0; while :; do n=$((n+1)); echo $n > /tmp/n; done) & echo before > /tmp/f; echo SET$((1+1))\r");
    vm.wait_for("SET2");
    assert_eq!(hmp(&mut qmp, "savevm one"), "");
    vm.send("echo after > /tmp/f; kill $!; echo AFTER$((1+2))\r");
    vm.wait_for("AFTER3");
    for n in 0..5 {
        assert_eq!(hmp(&mut qmp, "loadvm one"), "");
        let counts = "a=$(cat /tmp/n); for i in 1 2 3 4 5 6 7 8 9; do b=$(cat /tmp/n); [ \"$b\" != \"$a\" ] && break; done";
        vm.send(&format!("{counts}; [ \"$b\" != \"$a\" ] && echo FILE$((40+{n}))=$(cat /tmp/f)\r"));
        vm.wait_for(&format!("FILE{}=before", 40 + n));
        vm.send("kill $!; echo after > /tmp/f; echo GONE$((5+2))\r");
        vm.wait_for("GONE7");
    }
    let listed = hmp(&mut qmp, "info snapshots");
    assert!(listed.contains("one") && listed.contains("List of snapshots present on all disks"));
    assert_eq!(
        hmp(&mut qmp, "loadvm two"),
        "Error: Snapshot 'two' does not exist in one or more devices\\r\\n"
    );
    qmp.run("quit");
    assert_eq!(vm.end().code, Some(0));
    // Another process, with other options: refused, and a line says why.
    let vm = linux(&disk, "null", &["-loadvm", "one", "-smp", "1"]);
    let ended = vm.end();
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("Number of CPUs received is '2' and local is '1'"), "{}", ended.err);
    let mut vm = linux(&disk, "null", &["-loadvm", "one"]);
    vm.send("echo FILE$((50+1))=$(cat /tmp/f)\r");
    vm.wait_for("FILE51=before");
    vm.send("poweroff -f\r");
    assert_eq!(vm.end().code, Some(0));
}

/// Numbers that look random and are always the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

fn flip(file: &File, at: u64, bit: u8) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("own file");
    file.write_all_at(&[byte[0] ^ 1 << bit], at).expect("own file");
}

fn small(disk: &Path) -> Vec<String> {
    // Names of nodes say nothing of who uses them.
    let node = format!(
        "driver=qcow2,node-name=my-flash,file.driver=file,file.filename={}",
        disk.display()
    );
    ["-M", "virt", "-cpu", "cortex-a57", "-m", "16M", "-S", "-nodefaults", "-display", "none"]
        .into_iter()
        .map(str::to_owned)
        .chain(["-blockdev".into(), node])
        .chain(["-device".into(), "virtio-blk-pci,drive=my-flash".into()])
        .collect()
}

/// Where in the image the state lies in a row, and its length.
fn place(disk: &Path, listed: &str) -> (u64, u64) {
    let bytes = std::fs::read(disk).expect("own file");
    let magic = b"Tinamou state 1\n";
    let at =
        bytes.windows(magic.len()).position(|w| w == magic).expect("the state is in the image");
    let start = at as u64 - 36;
    let len = listed.split("\"vm-state-size\": ").nth(1).expect("a size");
    let digits: String = len.chars().take_while(char::is_ascii_digit).collect();
    (start, digits.parse().expect("a number"))
}

#[test]
fn damaged_snapshots_are_refused_and_harm_nothing() {
    let folder = Folder::new("damage");
    let disk = folder.image("disk.qcow2");
    let listener = Listener::new("damage-q");
    let mut args = small(&disk);
    args.extend(["-qmp".into(), listener.option()]);
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let vm = Vm::start(&words, LIMIT);
    let mut qmp = listener.accept(LIMIT);
    assert_eq!(hmp(&mut qmp, "savevm a"), "");
    let state = |qmp: &mut Qmp| hmp(qmp, "info registers") + &hmp(qmp, "xp /64wx 0x40000000");
    let before = state(&mut qmp);
    let (start, len) = place(&disk, &qmp.run("query-block"));
    let file = OpenOptions::new().read(true).write(true).open(&disk).expect("own file");
    let mut numbers = Numbers(20);
    for _ in 0..1000 {
        let (at, bit) = (start + numbers.below(len), u8::try_from(numbers.below(8)).unwrap_or(0));
        flip(&file, at, bit);
        let said = hmp(&mut qmp, "loadvm a");
        assert!(said.starts_with("Error: "), "byte {at}: {said:?}");
        flip(&file, at, bit);
    }
    assert_eq!(state(&mut qmp), before);
    assert!(qmp.run("query-status").contains("\"prelaunch\""));
    assert_eq!(hmp(&mut qmp, "loadvm a"), "");
    assert_eq!(state(&mut qmp), before);
    qmp.run("quit");
    assert_eq!(vm.end().code, Some(0));
    // The image's own tables: whatever is wrong, the program ends by itself and in order.
    let whole = file.metadata().expect("own file").len();
    for _ in 0..200 {
        let at = numbers.below(whole);
        if (start..start + len).contains(&at) {
            continue;
        }
        flip(&file, at, 6);
        let mut args = small(&disk);
        let (qmp, command) = ("stdio", "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}");
        args.extend(["-loadvm".into(), "a".into(), "-qmp".into(), qmp.into()]);
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut vm = Vm::start(&words, LIMIT);
        vm.send_if_it_runs(command);
        let ended = vm.end();
        assert!(matches!(ended.code, Some(0 | 1)), "byte {at}: {:?} {}", ended.code, ended.err);
        assert!(!ended.err.contains("panicked"), "byte {at}: {}", ended.err);
        flip(&file, at, 6);
    }
}
