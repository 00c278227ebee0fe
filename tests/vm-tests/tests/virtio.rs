//! Debian's kernel drives the virtio devices over PCI and MMIO; data goes both ways.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use vm_tests::{Listener, Vm, guest, scratch};

/// Seconds for a boot with everything after it.
const LIMIT: u64 = 180;

/// Modules of the drivers, in the order they need each other.
const MODULES: &str = "virtio/virtio_mmio virtio/virtio_pci_legacy_dev virtio/virtio_pci_modern_dev \
                       virtio/virtio_pci char/hw_random/virtio-rng char/virtio_console \
                       virtio/virtio_balloon";

/// The other end of a character device.
struct Far {
    path: PathBuf,
    stream: Option<UnixStream>,
}

impl Far {
    fn new(name: &str) -> Self {
        Self { path: scratch(name), stream: None }
    }

    fn option(&self, id: &str) -> String {
        format!("socket,id={id},path={},server=on,wait=off", self.path.display())
    }

    fn stream(&mut self) -> &mut UnixStream {
        self.stream.get_or_insert_with(|| {
            let stream = UnixStream::connect(&self.path).expect("the emulator listens");
            stream.set_read_timeout(Some(Duration::from_secs(LIMIT))).expect("timeout");
            _ = std::fs::remove_file(&self.path);
            stream
        })
    }

    fn expect(&mut self, text: &str) {
        let mut got = vec![0; text.len()];
        self.stream().read_exact(&mut got).expect("the guest sends");
        assert_eq!(String::from_utf8_lossy(&got), text);
    }
}

/// Boots with `devices`, and checks every driver from inside.
/// Legacy drivers do not say FEATURES_OK, so a device that is driven has status 7, else 15.
fn drives(name: &str, devices: &[&str], status: &str, interrupts: &[&str]) {
    drives_on(("virt", name), devices, status, interrupts, &[]);
}

/// The same on a machine with options; `checks` are commands and what their output has.
fn drives_on(
    (machine, name): (&str, &str),
    devices: &[&str],
    status: &str,
    interrupts: &[&str],
    checks: &[(&str, &str)],
) {
    let (mut console, mut port) = (Far::new(&format!("{name}-c")), Far::new(&format!("{name}-p")));
    let (kernel, initrd) = (guest("linux"), guest("initrd-tinamou"));
    let (first, second) = (console.option("c0"), port.option("p0"));
    let mut args = vec!["-M", machine, "-cpu", "max", "-smp", "2", "-m", "512M", "-nodefaults"];
    args.extend(["-display", "none", "-serial", "stdio", "-no-reboot"]);
    args.extend(["-kernel", &kernel, "-initrd", &initrd]);
    args.extend(["-append", "console=ttyAMA0 quiet rdinit=/tinamou-init"]);
    args.extend(["-chardev", &first, "-chardev", &second]);
    for device in devices {
        args.extend(["-device", device]);
    }
    let listener = Listener::new(&format!("{name}-q"));
    let qmp = listener.option();
    args.extend(["-qmp", &qmp]);
    let mut vm = Vm::start(&args, LIMIT);
    let mut qmp = listener.accept(LIMIT);
    vm.wait_for("guest# ");
    (console.stream(), port.stream());
    vm.send(&format!(
        "for m in {MODULES}; do insmod /lib/modules/*/kernel/drivers/$m.ko || echo NO $m; done; \
         echo LOADED$((1 + 1))\r"
    ));
    vm.wait_for("LOADED2");
    // What an echo of the command has must not pass for its output: sums are computed there.
    vm.send("cd /sys/bus/virtio/devices; echo \"KINDS$((2 + 2))\" $(cat */device | sort) =\r");
    vm.wait_for("KINDS4 0x0003 0x0004 0x0005 =");
    vm.send("echo \"LIVE$((2 + 3))\" $(cat */status | sort -u) =\r");
    vm.wait_for(&format!("LIVE5 {status} ="));
    for (number, interrupt) in (10..).zip(interrupts) {
        vm.send(&format!("grep -c {interrupt} /proc/interrupts; echo IRQ$(({number} + 1))=$?\r"));
        vm.wait_for(&format!("IRQ{}=0", number + 1));
    }
    vm.send("dd if=/dev/hwrng of=/tmp/r bs=1024 count=64 2>/dev/null; wc -c /tmp/r\r");
    vm.wait_for("65536 /tmp/r");
    vm.send(
        "H=$(head -c 32768 /tmp/r | sha256sum); T=$(tail -c 32768 /tmp/r | sha256sum); \
         [ \"$H\" != \"$T\" ] && echo \"RANDOM$((4 + 5))\"\r",
    );
    vm.wait_for("RANDOM9");
    // The guest gives half of its memory back, and notices that it is gone.
    let balloon = "balloon\",\"arguments\":{\"value\":268435456},\"id\":\"b";
    assert!(qmp.run(balloon).starts_with("{\"return\": {}"));
    while !qmp.event("BALLOON_CHANGE").contains("\"actual\": 268435456") {}
    vm.send("M=$(sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo); echo BALLOON$((M / 262144))=\r");
    vm.wait_for("BALLOON0=");
    vm.send("cat /sys/class/virtio-ports/*/name; P=$(ls /dev/vport*p1); echo \"PORT$((5 + 1))\"\r");
    vm.wait_for("org.tinamou.test");
    vm.wait_for("PORT6");
    vm.send("echo from the port > $P; echo from the console > /dev/hvc0; echo SENT$((6 + 1))\r");
    vm.wait_for("SENT7");
    port.expect("from the port\n");
    console.expect("from the console\r\n");
    port.stream().write_all(b"to the port\n").expect("sends");
    console.stream().write_all(b"to the console\n").expect("sends");
    vm.send("read A < $P; read B < /dev/hvc0; echo \"$A, $B\" | sed s/to/TO/g\r");
    vm.wait_for("TO the port, TO the console");
    for (command, expected) in checks {
        vm.send(&format!("{command}\r"));
        vm.wait_for(expected);
    }
    vm.send("dmesg | grep -ciE 'call trace|failed to|error'; poweroff -f\r");
    let ended = vm.end();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
    assert!(!ended.out.contains("NO virtio"), "{}", ended.out);
}

#[test]
fn pci_transitional_devices_are_driven() {
    let devices = [
        "virtio-rng-pci",
        "virtio-serial-pci,id=s0",
        "virtconsole,bus=s0.0,chardev=c0",
        "virtserialport,bus=s0.0,chardev=p0,name=org.tinamou.test",
        "virtio-balloon-pci,free-page-reporting=on",
        "pci-testdev",
        "edu",
    ];
    let interrupts = ["virtio0-input", "virtio1-virtqueues", "virtio2-inflate"];
    drives("pci", &devices, "0x0000000f", &interrupts);
}

#[test]
fn pci_modern_devices_with_packed_rings_are_driven() {
    let devices = [
        "virtio-rng-pci-non-transitional,packed=on,page-per-vq=on",
        "virtio-serial-pci-non-transitional,id=s0,packed=on,vectors=0",
        "virtconsole,bus=s0.0,chardev=c0",
        "virtserialport,bus=s0.0,chardev=p0,name=org.tinamou.test",
        "virtio-balloon-pci-non-transitional,packed=on",
    ];
    let interrupts = ["virtio0-input", "virtio1", "virtio2-inflate"];
    drives("modern", &devices, "0x0000000f", &interrupts);
}

#[test]
fn pci_legacy_devices_are_driven() {
    let devices = [
        "virtio-rng-pci,disable-modern=on",
        "virtio-serial-pci,disable-modern=on,id=s0,vectors=0",
        "virtconsole,bus=s0.0,chardev=c0",
        "virtserialport,bus=s0.0,chardev=p0,name=org.tinamou.test",
        "virtio-balloon-pci,disable-modern=on",
    ];
    let interrupts = ["virtio0-input", "virtio1", "virtio2-inflate"];
    drives("legacy", &devices, "0x00000007", &interrupts);
}

#[test]
fn mmio_devices_are_driven() {
    let devices = [
        "virtio-rng-device",
        "virtio-serial-device,id=s0",
        "virtconsole,bus=s0.0,chardev=c0",
        "virtserialport,bus=s0.0,chardev=p0,name=org.tinamou.test",
        "virtio-balloon-device",
    ];
    let interrupts = ["virtio0", "virtio1", "virtio2"];
    drives("mmio", &devices, "0x00000007", &interrupts);
}

/// All that the devices read and write goes through both caches of the SMMU, and so do messages. The
/// balloon's driver does not take part.
#[test]
fn devices_behind_an_smmu_are_driven() {
    let behind = "iommu_platform=on,disable-legacy=on";
    let rng = format!("virtio-rng-pci,{behind}");
    let serial = format!("virtio-serial-pci,id=s0,packed=on,{behind}");
    let devices = [
        rng.as_str(),
        &serial,
        "virtconsole,bus=s0.0,chardev=c0",
        "virtserialport,bus=s0.0,chardev=p0,name=org.tinamou.test",
        "virtio-balloon-pci,disable-legacy=on",
    ];
    let interrupts = ["virtio0-input", "virtio1-virtqueues", "virtio2-inflate", "arm-smmu-v3-evtq"];
    let checks = [
        ("cat /sys/bus/pci/devices/0000:00:01.0/iommu_group/type | sed s/DMA/KIND/", "KIND"),
        ("dmesg | grep -c 'Adding to iommu group' | sed s/^/GROUPS/", "GROUPS3"),
        ("dmesg | grep -ciE 'smmu.*(event|error|fault)' | sed s/^/FAULTS/", "FAULTS0"),
    ];
    for machine in ["virt,iommu=smmuv3", "virt,iommu=smmuv3,gic-version=3"] {
        drives_on((machine, "smmu"), &devices, "0x0000000f", &interrupts, &checks);
    }
}
