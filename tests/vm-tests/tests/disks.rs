//! Disks of Debian's unmodified arm64 kernel: they come and go while it runs, and they are full.
//!
//! The guest has a root shell on its console and the modules of its disks (`storage-modules`). Each
//! kind of disk is plugged in, found, written by the guest, and taken away again: the guest sees it
//! go, the monitor hears of it, and the host's file has what the guest wrote. A disk whose file
//! system is full stops the machine; with more room it goes on and nothing is lost.

use std::path::PathBuf;
use std::process::Command;

use vm_tests::{Listener, Qmp, Vm, guest, scratch};

/// Seconds for the machine with everything.
const LIMIT: u64 = 200;
const SIZE: usize = 4 << 20;

struct Bench {
    vm: Vm,
    qmp: Qmp,
    dir: PathBuf,
    asked: u32,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.vm.console());
        }
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Bench {
    fn start(name: &str, devices: &[&str]) -> Bench {
        let dir = scratch(name);
        std::fs::create_dir_all(&dir).expect("temporary folder");
        let mut disk = std::fs::read(guest("initrd-tinamou")).expect("guest");
        disk.extend(std::fs::read(guest("storage-modules")).expect("guest"));
        let initrd = dir.join("initrd").display().to_string();
        std::fs::write(&initrd, disk).expect("temporary folder");
        let (listener, kernel) = (Listener::new(&format!("{name}-q")), guest("linux"));
        let qmp = listener.option();
        let mut args = vec!["-M", "virt", "-cpu", "cortex-a57", "-m", "512", "-nodefaults"];
        args.extend(["-display", "none", "-serial", "stdio", "-no-reboot", "-qmp", &qmp]);
        args.extend(["-kernel", &kernel, "-initrd", &initrd]);
        args.extend(["-append", "console=ttyAMA0 quiet rdinit=/tinamou-init"]);
        for device in devices {
            args.extend(["-device", device]);
        }
        let vm = Vm::start(&args, LIMIT);
        let mut bench = Bench { vm, qmp: listener.accept(LIMIT), dir, asked: 0 };
        bench.vm.wait_for("guest# ");
        bench.guest("for m in /storage/*.ko; do insmod $m || echo BAD $m; done");
        bench
    }

    /// Runs a line in the guest's shell, to its end; what it printed comes back.
    fn guest(&mut self, line: &str) -> String {
        self.asked += 1;
        let from = self.vm.console().len();
        // The shell's echo of the line does not have the number as it is printed.
        self.vm.send(&format!("{line}; echo DONE-$((1000 + {}))-$?\n", self.asked));
        self.vm.wait_for(&format!("DONE-{}-", 1000 + self.asked));
        self.vm.wait_for("guest# ");
        let console = self.vm.console();
        let said = console.get(from..).unwrap_or_default().replace('\r', "");
        assert!(said.contains(&format!("DONE-{}-0", 1000 + self.asked)), "{said}");
        said
    }

    fn ask(&mut self, command: &str, args: &str) {
        let reply = self.qmp.ask(command, args);
        assert!(reply.starts_with("{\"return\""), "{command} {args}: {reply}");
    }

    fn file(&self) -> String {
        self.dir.join("disk").display().to_string()
    }

    /// Plugs in, uses, and takes out; twice, as what is left over shows at the second time.
    fn disk(&mut self, device: &str, name: &str) {
        for fill in [b'a', b'b'] {
            std::fs::write(self.file(), vec![b'.'; SIZE]).expect("temporary folder");
            let file = format!(r#""file": {{"driver": "file", "filename": "{}"}}"#, self.file());
            self.ask("blockdev-add", &format!(r#""driver": "raw", "node-name": "n", {file}"#));
            self.ask("device_add", &format!(r#"{device}, "id": "d", "drive": "n""#));
            self.guest(&format!("until [ -b /dev/{name} ]; do :; done"));
            let sectors = self.guest(&format!("cat /sys/block/{name}/size"));
            assert!(sectors.contains(&(SIZE / 512).to_string()), "{sectors}");
            let fill = char::from(fill);
            let make = format!("head -c 1048576 /dev/zero | tr '\\0' {fill}");
            self.guest(&format!("{make} | dd of=/dev/{name} bs=64k seek=4 2>/dev/null && sync"));
            let read = self.guest(&format!("head -c 262150 /dev/{name} | tail -c 10"));
            assert!(read.contains(&format!("....{}", fill.to_string().repeat(6))), "{read}");
            self.ask("device_del", r#""id": "d""#);
            let gone = self.qmp.event("DEVICE_DELETED");
            let gone = if gone.contains("virtio-backend") {
                self.qmp.event("DEVICE_DELETED")
            } else {
                gone
            };
            assert!(gone.contains(r#""device": "d""#), "{gone}");
            self.guest(&format!("while [ -b /dev/{name} ]; do :; done"));
            self.ask("blockdev-del", r#""node-name": "n""#);
            let file = std::fs::read(self.file()).expect("own file");
            let (head, rest) = file.split_at(262_144);
            let (mine, tail) = rest.split_at(1 << 20);
            assert!(mine.iter().all(|byte| char::from(*byte) == fill), "{name}");
            assert!(head.iter().chain(tail).all(|byte| *byte == b'.'), "{name}");
        }
    }

    /// A CD drive comes with a medium, is read, gets another one, and goes.
    fn drive(&mut self) {
        for n in 0..2 {
            std::fs::write(self.file(), vec![b'x'; SIZE]).expect("temporary folder");
            let file = format!(r#""file": {{"driver": "file", "filename": "{}"}}"#, self.file());
            let node = format!(r#""driver": "raw", "node-name": "n", "read-only": true, {file}"#);
            self.ask("blockdev-add", &node);
            self.ask("device_add", r#""driver": "scsi-cd", "id": "d", "drive": "n""#);
            self.guest(&format!("until [ -b /dev/sr{n} ] || [ -b /dev/sr0 ]; do :; done"));
            let read = self.guest("head -c 6 /dev/sr*");
            assert!(read.contains("xxxxxx"), "{read}");
            self.ask("device_del", r#""id": "d""#);
            let gone = self.qmp.event("DEVICE_DELETED");
            assert!(gone.contains(r#""device": "d""#), "{gone}");
            self.guest("while [ -b /dev/sr0 ] || [ -b /dev/sr1 ]; do :; done");
            self.ask("blockdev-del", r#""node-name": "n""#);
        }
    }
}

#[test]
fn disks_come_and_go_in_a_linux_guest() {
    let mut bench = Bench::start(
        "hotplug",
        &[
            "pcie-root-port,id=p0,chassis=1",
            "pcie-root-port,id=p1,chassis=2",
            "virtio-scsi-pci,id=bus",
        ],
    );
    bench.disk(r#""driver": "virtio-blk-pci", "bus": "p0""#, "vda");
    bench.disk(r#""driver": "scsi-hd", "bus": "bus.0""#, "sda");
    bench.disk(r#""driver": "nvme", "bus": "p1", "serial": "s""#, "nvme0n1");
    bench.drive();
    bench.disk(r#""driver": "virtio-blk-pci", "bus": "p1""#, "vda");
    // As at the peer, namespaces of their own cannot come while the machine runs.
    let refused = bench.qmp.ask("device_add", r#""driver": "nvme-ns", "id": "d""#);
    assert!(refused.contains("No 'nvme-bus' bus found"), "{refused}");
}

/// A small file system of its own; `None`: this user may not make one.
struct Small(PathBuf);

impl Small {
    fn new(name: &str) -> Option<Small> {
        let dir = scratch(name);
        std::fs::create_dir_all(&dir).expect("temporary folder");
        let small = Small(dir);
        if small.mount("size=2m") {
            return Some(small);
        }
        eprintln!("this user may not mount: not tried");
        None
    }

    fn mount(&self, options: &str) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&self.0);
        mount.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(&self.0).status();
        _ = std::fs::remove_dir(&self.0);
    }
}

fn full(device: &str, disk: &str, format: &str) {
    let Some(small) = Small::new(&format!("full-{disk}-{format}")) else { return };
    let mut bench = Bench::start(
        &format!("full-{disk}-{format}-vm"),
        &["virtio-scsi-pci,id=bus", "pcie-root-port,id=p0,chassis=1"],
    );
    let file = small.0.join("disk").display().to_string();
    let tool = vm_tests::emulator().with_file_name("tinamou-img");
    let made = Command::new(tool).args(["create", "-q", "-f", format, &file, "8M"]).status();
    assert!(made.is_ok_and(|status| status.success()));
    let below = format!(r#""file": {{"driver": "file", "filename": "{file}"}}"#);
    bench.ask("blockdev-add", &format!(r#""driver": "{format}", "node-name": "n", {below}"#));
    bench.ask("device_add", &format!(r#"{device}, "id": "d", "drive": "n", "werror": "stop""#));
    bench.guest(&format!("until [ -b /dev/{disk} ]; do :; done"));
    bench.guest("head -c 6291456 /dev/urandom > /tmp/data");
    bench.asked += 1;
    let number = 1000 + bench.asked;
    let line = format!("dd if=/tmp/data of=/dev/{disk} bs=64k 2>/dev/null && sync");
    bench.vm.send(&format!("{line}; echo DONE-$((1000 + {}))-$?\n", bench.asked));
    let error = bench.qmp.event("BLOCK_IO_ERROR");
    assert!(
        error.contains(r#""action": "stop""#) && error.contains(r#""nospace": true"#),
        "{error}"
    );
    bench.qmp.event("STOP");
    let status = bench.qmp.run("query-status");
    assert!(status.contains(r#""status": "io-error""#), "{status}");
    let said = bench.vm.console();
    assert!(!said.contains(&format!("DONE-{number}-")), "it ended: {said}");
    // Still no room: it stops again.
    bench.ask("cont", "");
    bench.qmp.event("BLOCK_IO_ERROR");
    bench.qmp.event("STOP");
    assert!(small.mount("remount,size=16m"), "more room");
    bench.ask("cont", "");
    bench.vm.wait_for(&format!("DONE-{number}-0"));
    bench.vm.wait_for("guest# ");
    bench.guest(&format!(
        "echo 3 > /proc/sys/vm/drop_caches; head -c 6291456 /dev/{disk} | cmp - /tmp/data"
    ));
}

#[test]
fn a_full_disk_stops_the_guest_and_nothing_is_lost() {
    full(r#""driver": "virtio-blk-pci", "bus": "p0""#, "vda", "qcow2");
    full(r#""driver": "scsi-hd", "bus": "bus.0""#, "sda", "raw");
}
