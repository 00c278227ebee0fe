//! pci-testdev and edu, from the driver's side; numbers are those of QEMU 10.0.

use hw_misc::{edu, pci_testdev};
use testbench::{Bench, PciSlot, RAM_BASE};

#[test]
fn the_test_device_counts_what_reaches_it() {
    let bench = Bench::of(&pci_testdev::CLASS, "membar=1M");
    let slot = PciSlot::of(&bench);
    slot.enable();
    assert_eq!([0, 8, 0x2c].map(|at| slot.config(at, 4)), [0x0005_1b36, 0x00ff_0000, 0x1100_1af4]);
    assert_eq!(slot.config(0x18, 4) & 0xf, 0xc, "membar is 64-bit and prefetchable");
    // Offset, datum, and counts after the datum as a byte and after another byte.
    let memory = [
        (0x800, 0xfa, [1, 1], "mmio-no-eventfd"),
        (0x801, 0xce, [0, 0], "mmio-wildcard-eventfd"),
        (0x802, 0xfa, [0, 0], "mmio-datamatch-eventfd"),
    ];
    let ports = [
        (0x83, 0xfa, [1, 1], "portio-no-eventfd"),
        (0x84, 0xce, [0, 0], "portio-wildcard-eventfd"),
        (0x85, 0xfa, [0, 0], "portio-datamatch-eventfd"),
    ];
    for (base, first, tests) in [(PciSlot::mmio(0), 0u8, memory), (PciSlot::io(1), 3, ports)] {
        for (number, (offset, datum, counts, name)) in (0u8..).zip(tests) {
            bench.write8(base, number);
            assert_eq!((bench.read8(base), bench.read8(base + 1)), (first + number, 1));
            assert_eq!((bench.read32(base + 4), bench.read32(base + 8)), (offset, datum));
            let text: Vec<u8> = (0..40).map(|i| bench.read8(base + 16 + i)).collect();
            assert!(text.starts_with(name.as_bytes()) && text[name.len()] == 0);
            let at = base + u64::from(offset);
            bench.write8(at, u8::try_from(datum).unwrap());
            assert_eq!(bench.read32(base + 12), counts[0], "{name}");
            bench.write8(at, 0x11);
            assert_eq!(bench.read32(base + 12), counts[1], "{name}");
        }
        bench.write8(base, 9);
        assert_eq!(bench.read32(base + 4), 0);
    }
    for wrong in ["membar=3", "membar=8"] {
        assert!(Bench::try_of(&pci_testdev::CLASS, wrong).is_err());
    }
}

const MS: u64 = 1_000_000;

#[test]
fn the_educational_device_computes_and_interrupts() {
    let bench = Bench::of(&edu::CLASS, "");
    let slot = PciSlot::of(&bench);
    slot.enable();
    let at = PciSlot::mmio(0);
    assert_eq!(slot.config(0, 4), 0x11e8_1234);
    assert_eq!(slot.config(0x40, 4), 0x0080_0005, "MSI");
    assert_eq!(bench.read32(at), 0x0100_00ed);
    bench.write32(at + 4, 0x1234_5678);
    assert_eq!(bench.read32(at + 4), 0xedcb_a987);
    assert_eq!(bench.read64(at), u64::MAX, "registers of 32 bits");
    bench.write32(at + 8, 5);
    assert_eq!(bench.read32(at + 0x20), 1, "computing");
    bench.advance(10 * MS);
    assert_eq!((bench.read32(at + 8), bench.read32(at + 0x20)), (120, 0));
    bench.write32(at + 0x20, 0x80);
    bench.write32(at + 8, 13);
    bench.advance(10 * MS);
    assert_eq!((bench.read32(at + 8), bench.read32(at + 0x24)), (1_932_053_504, 1));
    assert!(slot.pin() && slot.config(6, 2) & 8 != 0);
    bench.write32(at + 0x60, 4);
    bench.write32(at + 0x64, 1);
    assert!(slot.pin() && bench.read32(at + 0x24) == 4);
    bench.write32(at + 0x64, 4);
    assert!(!slot.pin());
    bench.write32(at + 0x20, 0);
    bench.write32(at + 8, u32::MAX);
    bench.advance(10 * MS);
    assert_eq!(bench.read32(at + 8), 0);
}

fn transfer(bench: &Bench, (from, to, count): (u64, u64, u64), command: u64) {
    let at = PciSlot::mmio(0);
    for (register, value) in [(0x80, from), (0x88, to), (0x90, count), (0x98, command)] {
        bench.write64(at + register, value);
    }
    assert_eq!(bench.read64(at + 0x98) & 1, 1);
    bench.write64(at + 0x90, 1);
    assert_eq!(bench.read64(at + 0x90), count, "registers stay while it runs");
    bench.advance(100 * MS);
    assert_eq!(bench.read64(at + 0x98) & 1, 0);
}

#[test]
fn the_educational_device_moves_bytes_within_its_reach() {
    let bench = Bench::of(&edu::CLASS, "dma_mask=0xffffffffff");
    let slot = PciSlot::of(&bench);
    slot.enable();
    let at = PciSlot::mmio(0);
    // RAM is at 1 TiB, beyond 40 bits: this goes to address 0x100, where there are registers.
    transfer(&bench, (RAM_BASE + 0x100, 0x40000, 16), 1);
    let bench = Bench::of(&edu::CLASS, "dma_mask=0xffffffffffffffff");
    let slot = {
        drop(slot);
        PciSlot::of(&bench)
    };
    slot.enable();
    slot.set_config(0x44, 4, u32::try_from((RAM_BASE + 0x9000) & 0xffff_ffff).unwrap());
    slot.set_config(0x48, 4, u32::try_from(RAM_BASE >> 32).unwrap());
    slot.set_config(0x4c, 2, 0xbeef);
    slot.set_config(0x42, 2, 1);
    bench.put_ram(0x100, b"sixteen bytes ..");
    transfer(&bench, (RAM_BASE + 0x100, 0x40ff0, 16), 1);
    transfer(&bench, (0x40ff0, RAM_BASE + 0x200, 16), 3 | 4);
    assert_eq!(bench.get_ram(0x200, 16), b"sixteen bytes ..");
    assert_eq!(bench.read32(at + 0x24), 0x100);
    assert_eq!(bench.get_ram(0x9000, 4), [0xef, 0xbe, 0, 0], "a message");
    assert!(!slot.pin());
    // Beyond the buffer nothing moves.
    for (from, to, count) in
        [(0x40ff1, RAM_BASE + 0x300, 16), (u64::MAX, RAM_BASE, u64::MAX), (0x3ffff, RAM_BASE, 2)]
    {
        transfer(&bench, (from, to, count), 3);
    }
    assert_eq!(bench.get_ram(0x300, 1), [0]);
}
