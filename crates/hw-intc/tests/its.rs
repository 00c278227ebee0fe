//! The interrupt translation service with a GICv3, on the bench (IHI 0069, chapter 5).

use std::sync::Arc;

use cpu::{SysRegCx, SystemRegisters, encoding};
use device::{IrqController, LpiSource, Lpis, Record, Size, TxAttrs};
use hw_intc::{gicv3, its};
use qapi::{Source, Value};
use testbench::{BANK, Bench, Lines, RAM_BASE};

const PMR: u16 = encoding(3, 0, 4, 6, 0);
const IAR1: u16 = encoding(3, 0, 12, 12, 0);
const EOIR1: u16 = encoding(3, 0, 12, 12, 1);
const IGRPEN1: u16 = encoding(3, 0, 12, 12, 7);
const SPURIOUS: u64 = 1023;

const ITS: u64 = 1 << 36;
const DOORBELL: u64 = ITS + 0x1_0040;
// Offsets in the bench's RAM.
const PROPERTIES: u64 = 0;
const PENDING: u64 = 0x1_0000;
const RING: u64 = 0x3_0000;
const DEVICES: u64 = 0x4_0000;
const COLLECTIONS: u64 = 0x5_0000;
const EVENTS: u64 = 0x6_0000;
const LEVEL2: u64 = 0x7_0000;
const VALID: u64 = 1 << 63;

struct System {
    b: Bench,
    _its: Record,
    regs: Arc<dyn SystemRegisters>,
    lines: Vec<Arc<Lines>>,
    next: std::cell::Cell<u64>,
}

fn redist(cpu: u64) -> u64 {
    BANK + cpu * 0x2_0000
}

impl System {
    /// Two CPUs with LPIs on, tables empty; the service is on.
    fn new() -> System {
        System::with_devices(VALID | (RAM_BASE + DEVICES) | 0x200)
    }

    fn with_devices(baser: u64) -> System {
        let b = Bench::of(&gicv3::CLASS, "num-irq=64,num-cpu=2,has-lpi=on");
        let class = &its::CLASS;
        let service = class.build("its", Value::empty(), Source::KeyVal, b.world()).unwrap();
        let root = b.world().memory.root();
        root.map(ITS, &service.regions[0], 0);
        root.map(ITS + 0x1_0000, &service.regions[1], 0);
        let lpis: Arc<dyn Lpis> = b.record.ability().unwrap();
        service.ability::<Arc<dyn LpiSource>>().unwrap().connect(lpis);
        let ctl: Arc<dyn IrqController> = b.record.ability().unwrap();
        let regs: Arc<dyn SystemRegisters> = b.record.ability().unwrap();
        let lines: Vec<Arc<Lines>> = (0..2).map(|_| Arc::default()).collect();
        for (n, l) in (0..).zip(&lines) {
            ctl.connect_cpu(n, l.clone());
        }
        let s = System { b, _its: service, regs, lines, next: 0.into() };
        s.b.write32(0, 0x13);
        for cpu in 0..2 {
            s.b.write64(redist(cpu) + 0x70, (RAM_BASE + PROPERTIES) | 15);
            s.b.write64(redist(cpu) + 0x78, RAM_BASE + PENDING + cpu * 0x1_0000);
            s.b.write32(redist(cpu), 1);
            let at = usize::try_from(cpu).unwrap();
            assert!(s.regs.write(&cx(at), PMR, 0xf0) && s.regs.write(&cx(at), IGRPEN1, 1));
        }
        s.b.write64(ITS + 0x100, baser);
        s.b.write64(ITS + 0x108, VALID | (RAM_BASE + COLLECTIONS) | 0x200);
        s.b.write64(ITS + 0x80, VALID | (RAM_BASE + RING));
        s.b.write32(ITS, 1);
        s
    }

    fn command(&self, words: [u64; 3]) {
        let at = self.next.get();
        for (n, word) in (0..).zip(words) {
            self.b.put_ram(RING + at + 8 * n, &word.to_le_bytes());
        }
        self.b.put_ram(RING + at + 24, &[0; 8]);
        self.next.set((at + 32) % 4096);
        self.b.write64(ITS + 0x88, self.next.get());
        assert_eq!(self.b.read64(ITS + 0x90), self.next.get(), "all read");
    }

    fn map_device(&self, device: u64, bits: u64) {
        self.command([device << 32 | 8, bits - 1, VALID | (RAM_BASE + EVENTS)]);
    }
    fn map_collection(&self, collection: u64, cpu: u64) {
        self.command([9, 0, VALID | cpu << 16 | collection]);
    }
    fn map_event(&self, device: u64, event: u64, intid: u64, collection: u64) {
        self.command([device << 32 | 0xa, intid << 32 | event, collection]);
    }

    /// Device 8 has event 1 as LPI 8200, for CPU 1.
    fn mapped() -> System {
        let s = System::new();
        s.configure(8200, 0xa1);
        s.map_device(8, 4);
        s.map_collection(3, 1);
        s.map_event(8, 1, 8200, 3);
        s
    }

    fn configure(&self, intid: u64, byte: u8) {
        self.b.put_ram(PROPERTIES + intid - 8192, &[byte]);
    }
    fn message(&self, device: u16, event: u32) {
        let attrs = TxAttrs { requester: device, ..TxAttrs::default() };
        self.b.world().memory.write_uint(DOORBELL, Size::B4, event.into(), attrs).unwrap();
    }
    fn irq(&self, cpu: usize) -> bool {
        self.lines[cpu].level(0)
    }
    fn take(&self, cpu: usize) -> u64 {
        self.regs.read(&cx(cpu), IAR1).unwrap()
    }
    fn end(&self, cpu: usize, intid: u64) {
        assert!(self.regs.write(&cx(cpu), EOIR1, intid));
    }
    fn is_pending(&self, cpu: u64, intid: u64) -> bool {
        let byte = self.b.get_ram(PENDING + cpu * 0x1_0000 + intid / 8, 1)[0];
        byte >> (intid % 8) & 1 != 0
    }
}

fn cx(cpu: usize) -> SysRegCx {
    let no = false;
    SysRegCx { cpu, el: 1, secure: no, hcr_el2: 0, scr_el3: 0, has_el2: no, has_el3: no }
}

#[test]
fn identification_is_the_peers() {
    let b = Bench::of(&its::CLASS, "");
    assert_eq!([b.read32(0), b.read32(4)], [0x8000_0000, 0x43b]);
    assert_eq!(b.read64(8), 0x1f_0001_efb1);
    assert_eq!([b.read32(8), b.read32(12)], [0x0001_efb1, 0x1f]);
    assert_eq!([b.read64(0x100), b.read64(0x108)], [0x0107_0000_0000_0200, 0x0407_0000_0000_0200]);
    assert_eq!(b.read32(0xffe0), 0x94);
    b.write64(0x100, u64::MAX);
    assert_eq!(b.read64(0x100), 0xf9e7_ffff_ffff_ffff);
    b.write32(0x104, 0);
    assert_eq!(b.read64(0x100), 0x0107_0000_ffff_ffff);
    b.write32(0, u32::MAX);
    assert_eq!(b.read32(0), 0x8000_0001);
    b.write64(0x100, 0);
    assert_eq!(b.read64(0x100), 0x0107_0000_ffff_ffff, "fixed while it is on");
}

#[test]
fn messages_reach_their_cpu() {
    let s = System::mapped();
    assert_eq!(s.b.read32(4) >> 17 & 1, 1, "GICD_TYPER.LPIS");
    assert_eq!(s.b.read32(redist(0)), 3);
    s.message(8, 1);
    assert!(s.irq(1) && !s.irq(0) && s.is_pending(1, 8200));
    assert_eq!(s.take(1), 8200);
    assert!(!s.irq(1) && !s.is_pending(1, 8200));
    // Again while it is handled: it waits for the end.
    s.message(8, 1);
    assert!(!s.irq(1));
    s.end(1, 8200);
    assert!(s.irq(1));
    // Others' messages are nobody's.
    let s = System::mapped();
    for (device, event) in [(9, 1), (8, 2), (8, 16), (8, u32::MAX)] {
        s.message(device, event);
    }
    assert!(!s.irq(0) && !s.irq(1));
}

#[test]
fn configuration_is_looked_at_when_told() {
    let s = System::mapped();
    s.configure(8200, 0xa0);
    s.message(8, 1);
    assert!(!s.irq(1) && s.is_pending(1, 8200), "disabled");
    s.configure(8200, 0xa1);
    s.command([8 << 32 | 0xc, 1, 0]);
    assert!(s.irq(1), "INV");
    s.configure(8200, 0xf1);
    s.command([0xd, 0, 3]);
    assert!(!s.irq(1), "INVALL: not above the mask");
    s.configure(8200, 0x11);
    s.b.write64(redist(1) + 0xa0, 8200);
    assert!(s.irq(1), "GICR_INVLPIR");
}

#[test]
fn the_most_important_one_comes_first() {
    let s = System::mapped();
    for (event, intid, byte) in [(2, 9000, 0x21), (3, 8300, 0x41), (4, 8301, 0x21)] {
        s.configure(intid, byte);
        s.map_event(8, event, intid, 3);
        s.message(8, u32::try_from(event).unwrap());
    }
    s.message(8, 1);
    let order: Vec<u64> = (0..5)
        .map(|_| {
            let intid = s.take(1);
            s.end(1, intid);
            intid
        })
        .collect();
    assert_eq!(order, [8301, 9000, 8300, 8200, SPURIOUS]);
}

#[test]
fn commands_signal_clear_move_and_forget() {
    let s = System::mapped();
    s.command([8 << 32 | 3, 1, 0]);
    assert!(s.irq(1), "INT");
    s.command([8 << 32 | 4, 1, 0]);
    assert!(!s.irq(1), "CLEAR");
    s.message(8, 1);
    s.map_collection(4, 0);
    s.command([8 << 32 | 1, 1, 4]);
    assert!(s.irq(0) && !s.irq(1), "MOVI");
    assert!(s.is_pending(0, 8200) && !s.is_pending(1, 8200));
    // MOVALL from CPU 0 to CPU 1: the target is in the fourth word, which is 0 here.
    s.command([0xe, 0, 1 << 16]);
    assert!(s.irq(0), "nothing was on CPU 1");
    s.command([8 << 32 | 0xf, 1, 0]);
    assert!(!s.irq(0), "DISCARD");
    s.message(8, 1);
    assert!(!s.irq(0) && !s.irq(1));
    // MAPI: the event is the interrupt.
    s.map_device(9, 16);
    s.configure(8193, 0x11);
    s.command([9 << 32 | 0xb, 8193, 4]);
    s.message(9, 8193);
    assert_eq!(s.take(0), 8193);
    // MAPD without V, then MAPC without V.
    s.command([9 << 32 | 8, 0, 0]);
    s.message(9, 8193);
    assert_eq!(s.take(0), SPURIOUS);
}

#[test]
fn indirect_device_tables_are_followed() {
    let s = System::with_devices(VALID | 1 << 62 | (RAM_BASE + DEVICES) | 0x200);
    s.configure(8200, 0xa1);
    s.map_collection(0, 0);
    s.map_device(0x2001, 4);
    s.map_event(0x2001, 0, 8200, 0);
    s.message(0x2001, 0);
    assert!(!s.irq(0), "no second level");
    // One 64 KiB page holds 8192 devices.
    s.b.put_ram(DEVICES + 8, &(VALID | (RAM_BASE + LEVEL2)).to_le_bytes());
    s.map_device(0x2001, 4);
    s.map_event(0x2001, 0, 8200, 0);
    s.message(0x2001, 0);
    assert_eq!(s.take(0), 8200);
    assert_ne!(s.b.get_ram(LEVEL2 + 8, 8), [0; 8]);
}

#[test]
fn a_ring_that_is_not_memory_stalls() {
    let b = Bench::of(&its::CLASS, "");
    b.write64(0x80, VALID | 0x1234_5000 | 0xff);
    b.write32(0, 1);
    b.write64(0x88, 0x40);
    assert_eq!(b.read64(0x90), 1, "stalled at the first command");
    b.write64(0x88, 0x41);
    assert_eq!(b.read64(0x90), 1, "and again after the retry");
}

#[test]
fn pending_tables_are_read_when_lpis_go_on_and_after_loading() {
    let s = System::mapped();
    s.b.write32(redist(1), 0);
    assert_eq!(s.b.read32(redist(1)), 2);
    s.b.put_ram(PENDING + 0x1_0000 + 8200 / 8, &[1 << (8200 % 8)]);
    s.b.write32(redist(1), 1);
    assert!(s.irq(1));
    let saved = s.b.save();
    s.b.put_ram(PENDING + 0x1_0000 + 8200 / 8, &[0]);
    s.b.load(&saved).unwrap();
    assert!(!s.irq(1), "the table in memory decides");
}

#[test]
fn random_commands_and_tables_do_no_harm() {
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..40 {
        let s = System::mapped();
        for n in 0..128 {
            let mut words = [random(), random(), random(), random()];
            words[0] = (words[0] & !0xff) | (random() % 18);
            if round % 2 == 0 {
                words[0] &= 0xf_0000_00ff;
                words[2] &= VALID | RAM_BASE | 0xf_ffff;
            }
            for (i, word) in (0..).zip(words) {
                s.b.put_ram(RING + 32 * n + 8 * i, &word.to_le_bytes());
            }
        }
        for at in [DEVICES, COLLECTIONS, EVENTS] {
            (0..64).for_each(|i| s.b.put_ram(at + 8 * i, &random().to_le_bytes()));
        }
        s.b.write64(ITS + 0x88, random() & 0xfe0);
        (0..16).for_each(|i| s.message(i, u32::try_from(random() & 31).unwrap()));
        let _ = (s.take(0), s.take(1));
    }
}

#[test]
fn the_world_of_the_cpu_decides_between_irq_and_fiq() {
    let b = Bench::of(&gicv3::CLASS, "num-irq=64,num-cpu=1,has-security-extensions=on");
    let ctl: Arc<dyn IrqController> = b.record.ability().unwrap();
    let regs: Arc<dyn SystemRegisters> = b.record.ability().unwrap();
    let lines: Arc<Lines> = Arc::default();
    ctl.connect_cpu(0, lines.clone());
    let at = |el, ns: u64| SysRegCx { el, secure: ns == 0, scr_el3: ns, has_el3: true, ..cx(0) };
    let mut b = b;
    b.set_attrs(TxAttrs { secure: true, ..TxAttrs::default() });
    // SGI 0 in non-secure group 1, all groups on.
    b.write32(0, 7);
    b.write32(redist(0) + 0x1_0080, 1);
    b.write32(redist(0) + 0x1_0100, 1);
    assert!(regs.write(&at(3, 0), PMR, 0xf0));
    assert!(regs.write(&at(2, 1), IGRPEN1, 1));
    b.write32(redist(0) + 0x1_0200, 1);
    assert!(lines.level(0) && !lines.level(1), "an IRQ in the non-secure world");
    regs.level_changed(&at(3, 1));
    assert!(!lines.level(0) && lines.level(1), "an FIQ in EL3");
    regs.level_changed(&at(1, 1));
    assert!(lines.level(0) && !lines.level(1));
    regs.level_changed(&at(1, 0));
    assert!(!lines.level(0) && lines.level(1), "and in the secure world");
}
