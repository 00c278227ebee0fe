//! Virtio devices behind the MMIO transport, from the driver's side.

use device::DeviceClass;
use hw_virtio::{balloon, rng, serial, serial_port};
use qapi::{Source, keyval::Dialect};
use testbench::{Bench, RAM_BASE};
use virtio::mmio;

/// Distance of one queue's areas from the next one's.
const STEP: u64 = 0x1_0000;
const DRIVER: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const BUFFER: u64 = 0x4000;

fn build(b: &Bench, class: &'static DeviceClass, props: &str) -> device::Record {
    let props = Dialect::structured(None).parse(props).unwrap().value;
    class.build("x[0]", props, Source::KeyVal, b.world()).unwrap()
}

fn bench(class: &'static DeviceClass, props: &str) -> (Bench, device::Record) {
    let b = Bench::of(&mmio::CLASS, "force-legacy=off");
    let record = build(&b, class, props);
    b.record.buses[0].plug(&record).unwrap();
    (b, record)
}

fn start(b: &Bench, features: u64, queues: &[u32]) {
    b.write32(0x70, 3);
    for sel in 0..2u32 {
        b.write32(0x24, sel);
        b.write32(0x20, u32::try_from((features | 1 << 32) >> (32 * sel) & 0xffff_ffff).unwrap());
    }
    b.write32(0x70, 11);
    for queue in queues {
        b.write32(0x30, *queue);
        b.write32(0x38, 8);
        for (register, at) in [(0x80, 0), (0x90, DRIVER), (0xa0, DEVICE)] {
            let at = RAM_BASE + u64::from(*queue) * STEP + at;
            b.write64_parts(register, at);
        }
        b.write32(0x44, 1);
    }
    b.write32(0x70, 15);
}

trait Parts {
    fn write64_parts(&self, at: u64, value: u64);
}

impl Parts for Bench {
    fn write64_parts(&self, at: u64, value: u64) {
        self.write32(at, u32::try_from(value & 0xffff_ffff).unwrap());
        self.write32(at + 4, u32::try_from(value >> 32).unwrap());
    }
}

/// Offers one buffer in `slot` of a queue and says so.
fn offer(b: &Bench, queue: u32, slot: u16, data: &[u8], writable: u32) {
    let base = u64::from(queue) * STEP;
    let at = BUFFER + 0x400 * u64::from(slot);
    b.put_ram(base + at, data);
    let len = if data.is_empty() { writable } else { u32::try_from(data.len()).unwrap() };
    let mut d = (RAM_BASE + base + at).to_le_bytes().to_vec();
    d.extend(len.to_le_bytes());
    d.extend(if data.is_empty() { [2, 0, 0, 0] } else { [0; 4] });
    b.put_ram(base + 16 * u64::from(slot), &d);
    b.put_ram(base + DRIVER + 4 + 2 * u64::from(slot), &slot.to_le_bytes());
    b.put_ram(base + DRIVER + 2, &(slot + 1).to_le_bytes());
    b.write32(0x50, queue);
}

/// What came back in a slot.
fn taken(b: &Bench, queue: u32, slot: u16) -> Option<Vec<u8>> {
    let base = u64::from(queue) * STEP;
    let used = b.get_ram(base + DEVICE + 2, 2);
    if u16::from_le_bytes([used[0], used[1]]) <= slot {
        return None;
    }
    let len = b.get_ram(base + DEVICE + 8 + 8 * u64::from(slot), 1)[0];
    Some(b.get_ram(base + BUFFER + 0x400 * u64::from(slot), len.into()))
}

#[test]
fn entropy_fills_buffers_up_to_the_quota() {
    let (b, _r) = bench(&rng::CLASS, "max-bytes=24,period=1000");
    assert_eq!(b.read32(8), 4);
    start(&b, 0, &[0]);
    offer(&b, 0, 0, &[], 16);
    let bytes = taken(&b, 0, 0).unwrap();
    assert!(bytes.len() == 16 && bytes.iter().any(|byte| *byte != 0));
    offer(&b, 0, 1, &[], 16);
    assert_eq!(taken(&b, 0, 1).unwrap().len(), 8, "what is left of the quota");
    offer(&b, 0, 2, &[], 16);
    assert!(taken(&b, 0, 2).is_none());
    b.advance(1_000_000_000);
    assert_eq!(taken(&b, 0, 2).unwrap().len(), 16, "the next period");
    assert!(Bench::try_of(&rng::CLASS, "period=0").is_err());
    assert!(Bench::try_of(&rng::CLASS, "rng=r0").is_err());
}

fn message(port: u32, event: u16, value: u16) -> Vec<u8> {
    let mut m = port.to_le_bytes().to_vec();
    m.extend(event.to_le_bytes());
    m.extend(value.to_le_bytes());
    m
}

#[test]
fn ports_are_announced_opened_and_carry_data() {
    let (b, r) = bench(&serial::CLASS, "max_ports=4");
    let bus = &r.buses[0];
    assert_eq!(bus.name(), "virtio-serial-bus.0");
    let console = build(&b, &serial_port::CONSOLE, "chardev=c0");
    let port = build(&b, &serial_port::PORT, "chardev=c1,name=org.test");
    bus.plug(&console).unwrap();
    bus.plug(&port).unwrap();
    for wrong in ["nr=1", "nr=0", "nr=4"] {
        assert!(bus.plug(&build(&b, &serial_port::PORT, wrong)).is_err(), "{wrong}");
    }
    assert_eq!((b.read32(8), b.read32(0x104)), (3, 4));
    start(&b, 2, &[0, 1, 2, 3, 4, 5]);
    for slot in 0..8 {
        offer(&b, 2, slot, &[], 64);
    }
    offer(&b, 3, 0, &message(0xffff_ffff, 0, 1), 0);
    assert_eq!(taken(&b, 2, 0).unwrap(), message(0, 1, 1));
    assert_eq!(taken(&b, 2, 1).unwrap(), message(1, 1, 1));
    offer(&b, 3, 1, &message(0, 3, 1), 0);
    assert_eq!(taken(&b, 2, 2).unwrap(), message(0, 4, 1), "it is a console");
    assert_eq!(taken(&b, 2, 3).unwrap(), message(0, 6, 1), "and open");
    offer(&b, 3, 2, &message(1, 3, 1), 0);
    let name = taken(&b, 2, 4).unwrap();
    assert_eq!((&name[..8], &name[8..]), (&message(1, 7, 1)[..], &b"org.test"[..]));
    offer(&b, 1, 0, b"to the console", 0);
    offer(&b, 5, 0, b"to the port", 0);
    assert_eq!(b.chardev("c0").sent(), b"to the console");
    assert_eq!(b.chardev("c1").sent(), b"to the port");
    b.write8(0x108, b'!');
    assert!(b.chardev("c0").sent().ends_with(b"!"), "emergency write");
}

#[test]
fn the_balloon_takes_pages_and_keeps_its_numbers() {
    let (b, r) = bench(&balloon::CLASS, "");
    start(&b, 0, &[0, 1]);
    r.downcast::<balloon::VirtioBalloon>().unwrap().set_target(256);
    assert_eq!((b.read32(0x100), b.read32(0x60) & 2), (256, 2));
    offer(&b, 0, 0, &[1, 0, 0, 0], 0);
    assert_eq!(taken(&b, 0, 0).unwrap(), b"");
    b.write32(0x104, 1);
    assert_eq!(b.read32(0x104), 1);
    b.write32(0x70, 0);
    assert_eq!(b.read32(0x104), 0);
}
