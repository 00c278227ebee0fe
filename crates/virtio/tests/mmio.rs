//! The MMIO transport and both ring formats, from the driver's side.

use std::sync::{Arc, OnceLock};

use derive::Qapi;
use device::{Build, Bus, Device, DeviceClass, DeviceType, Migration, Reset};
use qapi::{Source, Value};
use testbench::{Bench, RAM_BASE};
use virtio::{Common, Port, VirtioDevice, VirtioId, feature, mmio};

/// Answers every request with its bytes, each plus one.
struct Plus {
    port: OnceLock<Port>,
    common: Common,
}

#[derive(Qapi)]
struct Props {
    #[qapi(flatten)]
    common: Common,
}

impl DeviceType for Plus {
    const NAME: &'static str = "plus";
    const BUS: Bus = Bus::Virtio;
    const SUMMARY: &'static str = "adds one";
    type Props = Props;
    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let device = Arc::new(Plus { port: OnceLock::new(), common: props.common });
        at.offer::<virtio::Offer>(device.clone());
        Ok(device)
    }
}

impl Device for Plus {
    fn reset(&self, _: Reset) {}
    fn migration(&self) -> Migration<'_> {
        Migration::Stateless
    }
}

impl VirtioDevice for Plus {
    fn id(&self) -> VirtioId {
        VirtioId(42)
    }
    fn features(&self) -> u64 {
        self.common.features()
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![8]
    }
    fn attach(&self, port: Port) {
        _ = self.port.set(port);
    }
    fn config(&self) -> Vec<u8> {
        vec![1, 2, 3, 4]
    }
    fn notify(&self, _: u16) {
        let queue = self.port.get().and_then(|p| p.queue(0)).unwrap();
        while let Some(chain) = queue.pop() {
            let bytes: Vec<u8> =
                chain.read_up_to(4096).into_iter().map(|b| b.wrapping_add(1)).collect();
            let n = chain.write(0, &bytes);
            queue.push(chain, n);
        }
        queue.signal();
    }
}

static CLASS: DeviceClass = DeviceClass::of::<Plus>();

const DESC: u64 = 0x1000;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x3000;
const OUT: u64 = 0x4000;
const IN: u64 = 0x5000;

fn bench(transport: &str, props: &str) -> Bench {
    let b = Bench::of(&mmio::CLASS, transport);
    let props = qapi::keyval::Dialect::structured(None).parse(props).unwrap().value;
    let record = CLASS.build("plus", props, Source::KeyVal, b.world()).unwrap();
    b.record.buses[0].plug(&record).unwrap();
    b
}

fn modern(b: &Bench, features: u64) {
    b.write32(0x70, 3);
    for sel in 0..2u32 {
        b.write32(0x24, sel);
        b.write32(0x20, (features >> (32 * sel)) as u32);
    }
    b.write32(0x70, 11);
    assert_eq!(b.read32(0x70), 11, "features are agreed on");
    b.write32(0x30, 0);
    b.write32(0x38, 8);
    for (register, at) in [(0x80, DESC), (0x90, DRIVER), (0xa0, DEVICE)] {
        let at = RAM_BASE + at;
        b.write32(register, at as u32);
        b.write32(register + 4, (at >> 32) as u32);
    }
    b.write32(0x44, 1);
    b.write32(0x70, 15);
}

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Vec<u8> {
    let mut d = addr.to_le_bytes().to_vec();
    d.extend(len.to_le_bytes());
    d.extend(flags.to_le_bytes());
    d.extend(next.to_le_bytes());
    d
}

fn offer(b: &Bench, slot: u16, head: u16) {
    b.put_ram(DRIVER + 4 + 2 * u64::from(slot % 8), &head.to_le_bytes());
    b.put_ram(DRIVER + 2, &(slot.wrapping_add(1)).to_le_bytes());
}

fn used(b: &Bench) -> u16 {
    u16::from_le_bytes(b.get_ram(DEVICE + 2, 2).try_into().unwrap())
}

#[test]
fn split_ring_carries_data_and_interrupts() {
    let b = bench("force-legacy=off", "");
    modern(&b, feature::VERSION_1);
    b.put_ram(OUT, b"abc");
    b.put_ram(DESC, &desc(RAM_BASE + OUT, 3, 1, 1));
    b.put_ram(DESC + 16, &desc(RAM_BASE + IN, 16, 2, 0));
    offer(&b, 0, 0);
    b.write32(0x50, 0);
    assert_eq!(b.get_ram(IN, 4), b"bcd\0");
    assert_eq!(used(&b), 1);
    assert_eq!(b.get_ram(DEVICE + 4, 8), [0, 0, 0, 0, 3, 0, 0, 0]);
    assert!(b.irq(0) && b.read32(0x60) == 1);
    b.write32(0x64, 1);
    assert!(!b.irq(0));
    b.put_ram(DRIVER, &[1, 0]);
    offer(&b, 1, 0);
    b.write32(0x50, 0);
    assert!(!b.irq(0) && used(&b) == 2, "the driver wants no interrupts");
}

#[test]
fn event_index_decides_about_interrupts() {
    let b = bench("force-legacy=off", "");
    modern(&b, feature::VERSION_1 | feature::EVENT_IDX);
    b.put_ram(DESC, &desc(RAM_BASE + OUT, 3, 0, 0));
    b.put_ram(DRIVER + 4 + 16, &[3, 0]);
    for slot in 0..4 {
        offer(&b, slot, 0);
        b.write32(0x50, 0);
        assert_eq!(b.irq(0), slot == 0 || slot == 3, "slot {slot}");
        b.write32(0x64, 3);
    }
    assert_eq!(b.get_ram(DEVICE + 4 + 64, 2), [4, 0], "the next entry notifies");
}

#[test]
fn indirect_tables_and_packed_rings() {
    let b = bench("force-legacy=off", "packed=on");
    modern(&b, feature::VERSION_1 | feature::RING_PACKED | feature::INDIRECT_DESC);
    b.put_ram(OUT, b"xy");
    let mut table = desc(RAM_BASE + OUT, 2, 0, 0);
    table.extend(desc(RAM_BASE + IN, 2, 0, 2));
    b.put_ram(0x6000, &table);
    // Packed: address, length, id, flags. Available: bit 7 set, bit 15 clear.
    b.put_ram(DESC, &desc(RAM_BASE + 0x6000, 32, 7, 4 | 0x80));
    b.write32(0x50, 0);
    assert_eq!(b.get_ram(IN, 2), b"yz");
    let back = b.get_ram(DESC, 16);
    assert_eq!(back[8..12], [2, 0, 0, 0], "bytes written");
    assert_eq!(back[12..], [7, 0, 0x82, 0x80], "id, and used with the wrap counter set");
    assert!(b.irq(0));
}

#[test]
fn legacy_interface_uses_page_numbers() {
    let b = bench("", "");
    assert_eq!([0, 4, 8, 12].map(|r| b.read32(r)), [0x7472_6976, 1, 42, 0x554d_4551]);
    assert_eq!(b.read32(0x10), 0x3900_0000);
    b.write32(0x28, 4096);
    b.write32(0x70, 0);
    b.write32(0x70, 3);
    b.write32(0x30, 0);
    assert_eq!((b.read32(0x34), b.read32(0x40)), (1024, 0), "the most a queue can have");
    b.write32(0x38, 8);
    b.write32(0x3c, 4096);
    let page = u32::try_from((RAM_BASE + DESC) >> 12).unwrap();
    b.write32(0x40, page);
    assert_eq!(b.read32(0x40), page);
    b.write32(0x70, 7);
    b.put_ram(OUT, b"A");
    b.put_ram(DESC, &desc(RAM_BASE + OUT, 1, 1, 1));
    b.put_ram(DESC + 16, &desc(RAM_BASE + IN, 1, 2, 0));
    b.put_ram(DESC + 128 + 2, &[1, 0]);
    b.write32(0x50, 0);
    assert_eq!(b.get_ram(IN, 1), b"B");
    assert_eq!(b.get_ram(DESC + 4096 + 2, 1), [1]);
    assert_eq!([0x100, 0x101, 0x103].map(|at| b.read8(at)), [1, 2, 4]);
    let saved = b.save();
    let other = bench("", "");
    other.load(&saved).unwrap();
    assert_eq!(other.save(), saved);
    assert!(other.irq(0), "the interrupt came along");
    b.write32(0x70, 0);
    assert_eq!((b.read32(0x40), b.irq(0)), (0, false));
}

#[test]
fn hostile_rings_break_the_queue_and_nothing_else() {
    let loops = [(1, 0), (1, 1)];
    let beyond = [(1, 9), (0, 0)];
    for chain in [loops, beyond] {
        let b = bench("force-legacy=off", "");
        modern(&b, feature::VERSION_1);
        for (i, (flags, next)) in chain.into_iter().enumerate() {
            b.put_ram(DESC + 16 * i as u64, &desc(RAM_BASE + OUT, 1, flags, next));
        }
        offer(&b, 0, 0);
        b.write32(0x50, 0);
        assert_eq!(b.read32(0x70), 0x4f, "needs a reset");
        b.write32(0x70, 0);
        assert_eq!(b.read32(0x70), 0);
    }
    // An index that runs away, rings and buffers outside of RAM.
    let b = bench("force-legacy=off", "");
    modern(&b, feature::VERSION_1);
    offer(&b, 100, 0);
    b.write32(0x50, 0);
    assert_eq!(b.read32(0x70), 0x4f);
    let b = bench("force-legacy=off", "");
    modern(&b, feature::VERSION_1);
    b.put_ram(DESC, &desc(0, 4, 1, 1));
    b.put_ram(DESC + 16, &desc(u64::MAX - 1, 16, 2, 0));
    offer(&b, 0, 0);
    b.write32(0x50, 0);
    assert_eq!((used(&b), b.read32(0x70)), (0, 0x4f), "a buffer is not RAM");
}

#[test]
fn random_rings_never_panic() {
    let mut x = 0x1234_5678_9abc_def1u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    for round in 0..3000 {
        let packed = round % 2 == 0;
        let b = bench("force-legacy=off", "packed=on");
        let extra = if packed { feature::RING_PACKED } else { feature::EVENT_IDX };
        modern(&b, feature::VERSION_1 | feature::INDIRECT_DESC | extra);
        for i in 0..8u64 {
            let addr = RAM_BASE + DESC + (next() % 8) * 16;
            let mut d = desc(addr, (next() % 70) as u32, (next() % 8) as u16, (next() % 9) as u16);
            if packed {
                d[15] = (next() as u8) & 0x80;
                d[14] = (next() as u8) & 0x87;
            }
            b.put_ram(DESC + 16 * i, &d);
            b.put_ram(DRIVER + 4 + 2 * i, &(next() as u16 % 9).to_le_bytes());
        }
        b.put_ram(DRIVER + 2, &[8, 0]);
        b.write32(0x50, 0);
        _ = b.read32(0x70);
        if round > 400 {
            break;
        }
    }
}

#[test]
fn an_empty_transport_has_no_device() {
    let b = Bench::of(&mmio::CLASS, "");
    assert_eq!([0, 4, 8].map(|r| b.read32(r)), [0x7472_6976, 1, 0]);
    let value = Value::empty();
    let record = CLASS.build("p", value.clone(), Source::Json, b.world()).unwrap();
    assert_eq!(b.record.buses[0].name(), "virtio-mmio-bus.0");
    b.record.buses[0].plug(&record).unwrap();
    assert!(b.record.buses[0].is_full() && b.record.buses[0].plug(&record).is_err());
}
