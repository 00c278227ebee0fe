//! The PCI transport: configuration space as QEMU 10.0 shows it, and both interfaces in use.

use device::DeviceClass;
use hw_virtio::pci;
use testbench::{Bench, PciSlot, RAM_BASE};

/// An offset and the four words there.
type Row = (u64, [u32; 4]);

/// First bytes of configuration space of the peer's devices, from a dump of it.
const PEER: &[(&DeviceClass, &str, &[Row])] = &[
    (
        &pci::RNG,
        "",
        &[
            (0x00, [0x1005_1af4, 0x0010_0000, 0x00ff_0000, 0]),
            (0x10, [1, 0, 0, 0]),
            (0x20, [0xc, 0, 0, 0x0004_1af4]),
            (0x30, [0, 0x98, 0, 0x100]),
            (0x40, [0x0110_0009, 4, 0, 0x1000]),
            (0x50, [0x0310_4009, 4, 0x1000, 0x1000]),
            (0x60, [0x0410_5009, 4, 0x2000, 0x1000]),
            (0x70, [0x0214_6009, 4, 0x3000, 0x1000]),
            (0x80, [4, 0x0514_7009, 0, 0]),
            (0x90, [0, 0, 0x0001_8411, 1]),
            (0xa0, [0x801, 0, 0, 0]),
            (0x100, [!0, !0, !0, !0]),
        ],
    ),
    (
        &pci::SERIAL,
        "",
        &[(0x00, [0x1003_1af4, 0x0010_0000, 0x0780_0000, 0]), (0x20, [0xc, 0, 0, 0x0003_1af4])],
    ),
    (
        &pci::BALLOON,
        "",
        &[(0x00, [0x1002_1af4, 0x0010_0000, 0x00ff_0000, 0]), (0x20, [0xc, 0, 0, 0x0005_1af4])],
    ),
    (
        &pci::RNG_MODERN,
        "",
        &[
            (0x00, [0x1044_1af4, 0x0010_0000, 0x00ff_0001, 0]),
            (0x10, [0, 0, 0, 0]),
            (0x20, [0xc, 0, 0, 0x1100_1af4]),
        ],
    ),
    (
        &pci::RNG,
        "page-per-vq=on,modern-pio-notify=on,aer=on,ats=on",
        &[
            (0x10, [1, 0, 1, 0]),
            (0x30, [0, 0xac, 0, 0x100]),
            (0x70, [0x0214_6009, 4, 0x3000, 0x0040_0000]),
            (0x80, [0x1000, 0x0214_7009, 2, 0]),
            (0x90, [4, 0, 0x0514_8409, 0]),
            (0xa0, [0, 0, 0, 0x0001_9811]),
            (0xb0, [1, 0x801, 0, 0]),
        ],
    ),
    (
        &pci::RNG,
        "disable-modern=on",
        &[
            (0x20, [0, 0, 0, 0x0004_1af4]),
            (0x30, [0, 0x40, 0, 0x100]),
            (0x40, [0x0001_0011, 1, 0x801, 0]),
        ],
    ),
];

#[test]
fn configuration_space_is_the_peers() {
    for (class, props, rows) in PEER {
        let bench = Bench::of(class, props);
        let slot = PciSlot::of(&bench);
        for (at, want) in *rows {
            let got = [0, 4, 8, 12].map(|i| slot.config(at + i, 4));
            assert_eq!(got, *want, "{} {props} at {at:#x}", class.name);
        }
    }
}

/// What the peer's registers read after ones were written.
#[test]
fn region_sizes_are_the_peers() {
    for (class, props, want) in [
        (&pci::RNG, "", [0xffff_ffe1, 0xffff_f000, 0, 0, 0xffff_c00c, !0]),
        (&pci::SERIAL, "", [0xffff_ffc1, 0xffff_f000, 0, 0, 0xffff_c00c, !0]),
        (&pci::RNG, "vectors=0", [0xffff_ffe1, 0, 0, 0, 0xffff_c00c, !0]),
        (&pci::RNG, "vectors=2048", [0xffff_ffe1, 0xffff_0000, 0, 0, 0xffff_c00c, !0]),
        (
            &pci::RNG,
            "page-per-vq=on,modern-pio-notify=on",
            [0xffff_ffe1, 0xffff_f000, 0xffff_fffd, 0, 0xff80_000c, !0],
        ),
    ] {
        let bench = Bench::of(class, props);
        let slot = PciSlot::of(&bench);
        for (index, want) in (0u64..).zip(want) {
            slot.set_config(0x10 + 4 * index, 4, !0);
            assert_eq!(slot.config(0x10 + 4 * index, 4), want, "{} {props} {index}", class.name);
        }
        slot.set_config(4, 2, 0xffff);
        assert_eq!(slot.config(4, 2), 0x507);
        let table = slot.config(0x9c, 4);
        assert!(props.contains("vectors") || props.contains("page") || table == 1);
    }
}

fn descriptor(bench: &Bench, ring: u64, index: u64, at: u64, len: u32) {
    let mut d = (RAM_BASE + at).to_le_bytes().to_vec();
    d.extend(len.to_le_bytes());
    d.extend([2, 0, 0, 0]);
    bench.put_ram(ring + 16 * index, &d);
}

#[test]
fn legacy_drivers_get_entropy_through_ports() {
    // A page number has 32 bits: RAM at 1 TiB is within reach.
    let bench = Bench::of(&pci::RNG_TRANSITIONAL, "vectors=0");
    let slot = PciSlot::of(&bench);
    slot.enable();
    let io = PciSlot::io(0);
    assert_eq!(bench.read32(io), 0x7900_0000, "features, as the peer's");
    assert_eq!([0, 1].map(|at| bench.read8(io + at)), [0, 0xff]);
    bench.write8(io + 18, 3);
    bench.write32(io + 4, 0xffff_ffff);
    assert_eq!(bench.read32(io + 4), 0, "a driver that takes the bad feature has none");
    bench.write32(io + 4, 0);
    bench.write16(io + 14, 0);
    assert_eq!(bench.read16(io + 12), 8);
    let page = u32::try_from((RAM_BASE + 0x1000) >> 12).unwrap();
    bench.write32(io + 8, page);
    assert_eq!(bench.read32(io + 8), page);
    bench.write8(io + 18, 7);
    descriptor(&bench, 0x1000, 0, 0x8000, 32);
    bench.put_ram(0x1000 + 128, &[0, 0, 1, 0, 0, 0]);
    bench.write16(io + 16, 0);
    // The used ring begins at the next page.
    assert_eq!(bench.get_ram(0x2000, 12), [0, 0, 1, 0, 0, 0, 0, 0, 32, 0, 0, 0]);
    assert!(bench.get_ram(0x8000, 32).iter().any(|b| *b != 0));
    assert!(slot.pin());
    assert_eq!(bench.read8(io + 19), 1, "reading the status clears it");
    assert!(!slot.pin() && bench.read8(io + 19) == 0);
    bench.write32(io + 8, 0);
    assert_eq!(bench.read8(io + 18), 0, "a queue without a page resets the device");
}

fn modern(bench: &Bench, at: u64, packed: bool) {
    let high = 1 | if packed { 4 } else { 0 };
    bench.write8(at + 0x14, 3);
    bench.write32(at + 8, 1);
    bench.write32(at + 0xc, high);
    bench.write8(at + 0x14, 11);
    assert_eq!(bench.read8(at + 0x14), 11);
    bench.write16(at + 0x16, 0);
    bench.write16(at + 0x18, 8);
    for (register, area) in [(0x20, 0x1000), (0x28, 0x2000), (0x30, 0x3000)] {
        bench.write64(at + register, RAM_BASE + area);
    }
    bench.write16(at + 0x1a, 1);
    bench.write16(at + 0x1c, 1);
    bench.write8(at + 0x14, 15);
}

#[test]
fn modern_drivers_get_messages_and_reset_queues() {
    let bench = Bench::of(&pci::RNG, "packed=on");
    let slot = PciSlot::of(&bench);
    slot.enable();
    let at = PciSlot::mmio(4);
    let features: Vec<u32> = (0..3)
        .map(|half| {
            bench.write32(at, half);
            bench.read32(at + 4)
        })
        .collect();
    assert_eq!(features, [0x3000_0000, 0x105, 0], "the peer's, and packed rings");
    // MSI-X: vector 1 writes to RAM.
    slot.set_config(0x9a, 2, 0x8000);
    let table = PciSlot::mmio(1) + 16;
    let target = RAM_BASE + 0x9000;
    for (word, value) in [(0, target & 0xffff_ffff), (4, target >> 32), (8, 0x1234), (12, 0)] {
        bench.write32(table + word, u32::try_from(value).unwrap());
    }
    for round in 0..2u64 {
        modern(&bench, at, true);
        descriptor(&bench, 0x1000, 0, 0x8000, 16);
        bench.put_ram(0x1000 + 12, &[5, 0, 2, 0x00]);
        bench.put_ram(0x1000 + 14, &[0x82, 0]);
        bench.put_ram(0x9000, &[0; 4]);
        bench.write16(at + 0x3000, 0);
        assert_eq!(bench.get_ram(0x1000 + 8, 8), [16, 0, 0, 0, 5, 0, 0x82, 0x80], "{round}");
        assert_eq!(bench.get_ram(0x9000, 4), [0x34, 0x12, 0, 0]);
        assert!(!slot.pin());
        bench.write16(at + 0x3a, 1);
        assert_eq!((bench.read16(at + 0x3a), bench.read16(at + 0x1c)), (0, 0));
        let before = bench.get_ram(0x1000, 16);
        bench.write16(at + 0x3000, 0);
        assert_eq!(bench.get_ram(0x1000, 16), before, "nothing is taken from a reset queue");
        bench.write8(at + 0x14, 0);
    }
    // Through configuration space: device status is at 0x14.
    bench.write8(at + 0x14, 3);
    slot.set_config(0x88, 1, 4);
    slot.set_config(0x8c, 4, 0x14);
    slot.set_config(0x90, 4, 1);
    assert_eq!(slot.config(0x94, 1), 3);
    slot.set_config(0x94, 1, 0);
    assert_eq!(bench.read8(at + 0x14), 0);
    slot.set_config(0x90, 4, 3);
    assert_eq!(slot.config(0x94, 4), 0, "three bytes are no access");
}

#[test]
fn contradictions_are_refused_in_the_peers_words() {
    for (class, props, want) in [
        (
            &pci::RNG,
            "disable-legacy=on,disable-modern=on",
            "device cannot work as neither modern nor legacy mode is enabled",
        ),
        (
            &pci::RNG,
            "iommu_platform=on",
            "VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor transitional device",
        ),
        (&pci::RNG, "virtio-backend=x", "Property 'virtio-rng-pci.virtio-backend' is not writable"),
        (&pci::RNG, "busnr=1", "Property 'virtio-rng-pci.busnr' is not writable"),
        (&pci::RNG, "failover_pair_id=x", "failover primary device is not an Ethernet device"),
        (&pci::RNG, "romsize=3", "ROM size 3 is not a power of two"),
        (&pci::RNG_MODERN, "disable-legacy=on", "Parameter 'disable-legacy' is unexpected"),
        (&pci::SERIAL, "max_ports=0", "Maximum number of serial ports not specified"),
        (&pci::SERIAL, "max_ports=1000", "maximum ports supported: 511"),
    ] {
        let error = Bench::try_of(class, props).err();
        assert_eq!(error.map(|e| e.desc).as_deref(), Some(want), "{} {props}", class.name);
    }
}
