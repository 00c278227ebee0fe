//! PCI Express ports, native hot plug and NVMe from outside: our program and the installed peer get
//! the same accesses by qtest and the same commands by QMP, and give the same answers.

#[expect(dead_code, reason = "this test uses a part")]
mod harness;
#[path = "harness/nvme.rs"]
mod nvme_driver;

use harness::{Emulator, OURS, PEER, both};
use nvme_driver::{DATA, Nvme};

const ECAM: u64 = 0x40_1000_0000;
/// Where the tests put a region: the start of the low window.
const BAR: u64 = 0x1000_0000;
const RAM: u64 = 0x4000_0000;

impl Emulator {
    /// The space of a function with the bits that can be written, as text; a bridge leads on.
    fn space(&mut self, bus: u64, slot: u64, masks_from: u64, next: &mut u64, out: &mut String) {
        let base = ECAM + (bus << 20) + (slot << 15);
        let words: Vec<u32> = (0..1024).map(|n| self.read32(base + 4 * n)).collect();
        for (n, word) in words.iter().enumerate().filter(|(_, w)| ![0, u32::MAX].contains(*w)) {
            out.push_str(&format!("{bus:02x}:{slot:02x} {:03x} {word:08x}\n", 4 * n));
        }
        // A reset of the function would change more.
        if bus >= masks_from {
            for n in (0..64).filter(|n| *n != 0x48 / 4) {
                let at = base + 4 * n;
                self.write(at, 32, u64::from(u32::MAX));
                let ones = self.read32(at);
                self.write(at, 32, 0);
                let zeroes = self.read32(at);
                self.write(at, 32, words[n as usize].into());
                out.push_str(&format!(
                    "{bus:02x}:{slot:02x} {:03x} ~{:08x}\n",
                    4 * n,
                    ones ^ zeroes
                ));
            }
        }
        if words[3] >> 16 & 0x7f == 1 {
            let below = *next;
            *next += 1;
            self.write(base + 0x18, 32, bus | below << 8 | 0xff << 16);
            for slot in 0..4 {
                if self.read32(ECAM + (below << 20) + (slot << 15)) != u32::MAX {
                    self.space(below, slot, masks_from, next, out);
                }
            }
        }
    }
}

#[test]
fn configuration_spaces_are_the_peers() {
    let cases = [
        ("-device pcie-root-port,id=a,port=3,slot=5,chassis=6,x-speed=32,x-width=16", 0),
        ("-device pcie-root-port,id=a,io-reserve=4K,bus-reserve=2,hotplug=off,disable-acs=on", 9),
        ("-device pcie-root-port,id=a -device virtio-rng-pci,bus=a", 1),
        ("-device pcie-root-port,id=a -device nvme,serial=1,bus=a", 9),
        ("-device pcie-root-port,id=a -device edu,bus=a", 1),
        ("-device nvme,serial=1", 0),
        ("-device e1000e,mac=52:54:00:12:34:56", 0),
        ("-device pcie-root-port,id=a -device e1000e,bus=a,mac=52:54:00:12:34:56,subsys=7", 1),
        ("-device pci-bridge,id=b,chassis_nr=1,shpc=off -device virtio-rng-pci,bus=b,addr=2", 0),
        (
            "-device pcie-root-port,id=a -device x3130-upstream,bus=a,id=u \
             -device xio3130-downstream,bus=u,id=d,chassis=3,slot=4 -device virtio-rng-pci,bus=d",
            3,
        ),
    ];
    for (args, masks_from) in cases {
        let dump = |e: &mut Emulator| {
            let (mut out, mut next) = (String::new(), 1);
            e.space(0, 1, masks_from, &mut next, &mut out);
            out
        };
        let Some((ours, theirs)) = both(args, dump) else { return };
        let differ = ours.lines().zip(theirs.lines()).find(|(a, b)| a != b);
        assert_eq!(differ, None, "{args}");
        assert_eq!(ours.len(), theirs.len(), "{args}");
    }
}

/// Slot control and status of the port in slot 1, and the first word of the device behind it.
fn slot_of(e: &mut Emulator) -> (u32, u32, u32) {
    let port = ECAM + (1 << 15);
    (e.read32(port + 0x6c), e.read32(port + 0x64) >> 16, e.read32(ECAM + (1 << 20)))
}

fn hot_plug(e: &mut Emulator) -> Vec<String> {
    let control = ECAM + (1 << 15) + 0x6c;
    let mut out = Vec::new();
    let mut note = |e: &mut Emulator, what: String| {
        let state = slot_of(e);
        out.push(format!("{what} {state:x?}"));
    };
    e.write(ECAM + (1 << 15) + 0x18, 32, 0x1_0100);
    let rng = "\"driver\":\"virtio-rng-pci\",\"bus\":\"a\"";
    let words = e.device_add(&format!("{rng},\"id\":\"r\""));
    note(e, words);
    // The guest takes note and switches power on.
    e.write(control + 2, 16, 9);
    e.write(control, 16, 0x1e9);
    note(e, "on".into());
    e.write(control + 2, 16, 0x10);
    let words = e.device_add(&format!("{rng},\"id\":\"s\""));
    note(e, words);
    let words = e.device_add("\"driver\":\"virtio-rng-pci\",\"bus\":\"pcie.0\",\"id\":\"s\"");
    note(e, words);
    // The button is pressed; a second time it is too early.
    for _ in 0..2 {
        let words = e.device_del("r");
        note(e, words);
    }
    // Clearing more than is there clears nothing.
    e.write(control + 2, 16, 9);
    note(e, "clear".into());
    e.write(control, 16, 0x2e9);
    note(e, "blink".into());
    e.write(control, 16, 0x7e9);
    e.gone("r");
    note(e, "off".into());
    let words = e.device_del("r");
    note(e, words);
    // Nobody sees it yet, so it goes at once.
    let words = e.device_add(&format!("{rng},\"id\":\"t\""));
    note(e, words);
    let words = e.device_del("t");
    e.gone("t");
    note(e, words);
    let words = e.device_add(&format!("{rng},\"id\":\"v\""));
    note(e, words);
    e.write(control, 16, 0x2c0);
    let words = e.device_del("v");
    note(e, words);
    e.qmp("{\"execute\":\"system_reset\"}");
    out
}

#[test]
fn devices_come_and_go_as_at_the_peer() {
    let Some((ours, theirs)) = both("-device pcie-root-port,id=a", hot_plug) else { return };
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert!(ours.iter().any(|line| line.contains("already in the process of unplug")), "{ours:?}");
}

#[test]
fn windows_and_numbers_of_bridges_route() {
    // The identification of the educational device, behind two bridges.
    let args = "-device pcie-root-port,id=a -device pcie-pci-bridge,id=b,bus=a \
                -device edu,bus=b,addr=3";
    let mut e = Emulator::start(OURS, args).expect("our program");
    let (port, bridge) = (ECAM + (1 << 15), ECAM + (5 << 20));
    let edu = ECAM + (7 << 20) + (3 << 15);
    assert_eq!(e.read32(edu), u32::MAX, "no number leads there yet");
    e.write(port + 0x18, 32, 0x0a_0500);
    e.write(bridge + 0x18, 32, 0x08_0705);
    assert_eq!(e.read32(edu), 0x11e8_1234);
    e.write(edu + 0x10, 32, BAR + 0x20_0000);
    e.write(edu + 4, 32, 6);
    e.write(bridge + 4, 32, 6);
    e.write(port + 4, 32, 6);
    let window = |first: u64, last: u64| last >> 16 << 16 | first >> 16;
    let (first, last) = (BAR + 0x20_0000, BAR + 0x3f_ffff);
    e.write(port + 0x20, 32, window(first, last));
    e.write(bridge + 0x20, 32, window(BAR, BAR + 0xf_ffff));
    assert_ne!(e.read32(first), 0x0100_00ed, "the lower window is elsewhere");
    e.write(bridge + 0x20, 32, window(first, last));
    assert_eq!(e.read32(first), 0x0100_00ed);
    e.write(port + 4, 32, 0);
    assert_ne!(e.read32(first), 0x0100_00ed, "the port does not decode");
    e.write(port + 4, 32, 6);
    assert_eq!(e.read32(first), 0x0100_00ed);
    e.qmp("{\"execute\":\"system_reset\"}");
    assert_eq!(e.read32(edu), u32::MAX);
}

fn nvme(e: &mut Emulator) -> Vec<String> {
    let mut n = Nvme::of(e);
    let mut out = Vec::new();
    let page = (DATA, DATA + 4096);
    for (opcode, nsid, pages, dw) in [
        (6, 0, page, [1, 0, 0]),
        (6, 0, page, [2, 0, 0]),
        (6, 0, page, [0x42, 0, 0]),
        (6, u32::MAX, page, [0, 0, 0]),
        (9, 0, page, [7, 0x3_0003, 0]),
        (10, 0, page, [7, 0, 0]),
        (10, 0, page, [0x304, 0, 0]),
        (9, 0, page, [4, 0x150, 0]),
        (10, 0, page, [4, 0, 0]),
        (9, 0, page, [1, 5, 0]),
        (2, 1, page, [2 | 127 << 16, 0, 0]),
        (2, 1, page, [0xc0 | 127 << 16, 0, 0]),
        (5, 0, (RAM + 0x13_0000, 0), [31 << 16, 1, 0]),
        (5, 0, (RAM + 0x13_0000, 0), [5000 << 16 | 1, 1, 0]),
        (5, 0, (RAM + 0x13_0000, 0), [31 << 16 | 1, 99 << 16 | 3, 0]),
        (5, 0, (RAM + 0x13_0010, 0), [31 << 16 | 1, 1, 0]),
        (5, 0, (RAM + 0x13_0000, 0), [31 << 16 | 1, 1, 0]),
        (1, 0, (RAM + 0x12_0000, 0), [31 << 16 | 1, 2 << 16 | 1, 0]),
        (1, 0, (RAM + 0x12_0000, 0), [31 << 16 | 1, 1 << 16 | 1, 0]),
        (4, 0, page, [1, 0, 0]),
        (4, 0, page, [9, 0, 0]),
        (0, 0, page, [9, 0, 0]),
        (8, 0, page, [5 << 16 | 1, 0, 0]),
        (0x7f, 0, page, [0, 0, 0]),
    ] {
        out.push(format!("admin {opcode:x} {dw:x?}: {:x?}", n.run(0, opcode, nsid, pages, dw)));
    }
    let data: Vec<u8> = (0..8192u32).map(|i| (i * 7 % 251) as u8).collect();
    n.e.put(DATA, &data);
    let list: Vec<u8> =
        [3u64, 2, 1, 5].iter().flat_map(|p| (DATA + p * 0x1000).to_le_bytes()).collect();
    n.e.put(RAM + 0x30_0000, &list);
    for (opcode, nsid, pages, dw) in [
        (1, 1, page, [8, 0, 15]),
        (5, 1, page, [8, 0, 15]),
        (5, 1, page, [9, 0, 14]),
        (2, 1, (DATA + 0x200, DATA + 4096), [8, 0, 7]),
        (2, 1, (DATA, DATA + 4096 + 8), [8, 0, 15]),
        (2, 1, (DATA, RAM + 0x30_0000), [8, 0, 39]),
        (2, 1, page, [0x1f_ffff, 0, 7]),
        (2, 2, page, [0, 0, 7]),
        (2, 0, page, [0, 0, 7]),
        (2, 1, page, [0, 0, 0xffff]),
        (0, 1, page, [0, 0, 0]),
        (0, u32::MAX, page, [0, 0, 0]),
        (8, 1, page, [8, 0, 1 << 25]),
        (9, 1, page, [0, 4, 0]),
        (0x7f, 1, page, [0, 0, 0]),
    ] {
        let answer = n.run(1, opcode, nsid, pages, dw);
        let sum: u64 =
            n.e.bytes(DATA, 0x6000)
                .iter()
                .fold(7, |s, b| (s ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        out.push(format!("I/O {opcode:x} {dw:x?}: {answer:x?} {sum:x}"));
    }
    out
}

#[test]
fn nvme_answers_as_the_peer_does() {
    let file = std::env::temp_dir().join(format!("tinamou-nvme-{}", std::process::id()));
    let args = format!(
        "-blockdev driver=file,node-name=d,filename={} -device nvme,serial=abc,drive=d",
        file.display()
    );
    let mut all = Vec::new();
    for program in [PEER, OURS] {
        std::fs::write(&file, vec![0; 1 << 20]).expect("a disk");
        let Some(mut e) = Emulator::start(program, &args) else { continue };
        all.push(nvme(&mut e));
    }
    std::fs::remove_file(&file).expect("the disk");
    if let [theirs, ours] = all.as_slice() {
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert_eq!(ours, theirs);
        }
    }
    // What was written came back, and what differs is said to.
    let ours = all.last().expect("our answers");
    assert!(ours.iter().any(|line| line.starts_with("I/O 5 [8, 0, f]: (0, 0)")), "{ours:#?}");
    assert!(ours.iter().any(|line| line.starts_with("I/O 5 [9, 0, e]: (0, 4285)")), "{ours:#?}");
}

/// The hot plug controller of a conventional bridge: all registers after each step.
fn conventional_hot_plug(e: &mut Emulator) -> Vec<String> {
    const BRIDGE: u64 = ECAM + (2 << 15);
    let place = |device: u64| ECAM + (1 << 20) + (device << 15);
    let mut out = Vec::new();
    for (at, value) in [(0x18, 0x0001_0100), (0x10, BAR), (0x14, 0), (4, 6)] {
        e.write(BRIDGE + at, 32, value);
    }
    let look = |e: &mut Emulator, what: &str| {
        let words: Vec<_> = (0..20).map(|n| format!("{:x}", e.read32(BAR + 4 * n))).collect();
        let ids = [3, 5].map(|device| format!("{:x}", e.read32(place(device))));
        format!("{what}: {} {} {:x}", words.join(" "), ids.join(" "), e.read32(BRIDGE + 4))
    };
    out.push(look(e, "cold"));
    for select in 0..12 {
        e.ask(&format!("writeb {:#x} {select:#x}", BRIDGE + 0x42));
        out.push(format!("{select}: {:x}", e.read32(BRIDGE + 0x44)));
    }
    let add = |device: &str, id: &str| {
        format!("\"driver\":\"edu\",\"bus\":\"b\",\"addr\":\"{device}\",\"id\":\"{id}\"")
    };
    out.push(e.device_add(&add("3", "hot")));
    out.push(look(e, "hot"));
    out.push(e.device_add(&add("0", "zero")));
    out.push(e.device_add(&add("3", "twice")));
    // Into an empty slot, and from state to state.
    for command in [0x702, 0x701, 0x704, 0x703, 0x710, 0x70c, 0x301, 0x302, 0x301, 0x306] {
        e.write(BAR + 0x14, 16, command);
        out.push(look(e, "command"));
    }
    for command in [2, 5, 0x2002, 0x40, 0x41, 0x47, 0x4a, 0x80] {
        e.write(BAR + 0x14, 16, command);
        out.push(format!("{command:x}: {:x}", e.read32(BAR + 0x14)));
    }
    e.write(BAR + 0x20, 32, 0);
    out.push(look(e, "interrupts"));
    e.ask(&format!("writeb {:#x} 0xff", BAR + 0x24 + 8 + 2));
    e.ask(&format!("writeb {:#x} 0", BAR + 0x24 + 8 + 3));
    out.push(e.device_del("hot"));
    out.push(look(e, "asked"));
    out.push(e.device_del("hot"));
    e.write(BAR + 0x14, 16, 0x308);
    out.push(e.device_del("hot"));
    e.write(BAR + 0x14, 16, 0x30f);
    e.gone("hot");
    out.push(look(e, "gone"));
    e.write(BAR + 0x20, 32, 0x1_0000);
    out.push(e.device_del("cold"));
    out.push(look(e, "cold asked"));
    e.write(BAR + 0x14, 16, 0x53f);
    e.gone("cold");
    out.push(look(e, "all gone"));
    out
}

#[test]
fn devices_behind_conventional_bridges_come_and_go_as_at_the_peer() {
    for bridge in ["pci-bridge,chassis_nr=1", "pcie-pci-bridge"] {
        let args = format!("-device {bridge},addr=2,id=b -device edu,bus=b,addr=5,id=cold");
        let Some((ours, theirs)) = both(&args, conventional_hot_plug) else { return };
        for (a, b) in ours.iter().zip(&theirs) {
            assert_eq!(a, b, "{bridge}");
        }
    }
}
