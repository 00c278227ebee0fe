//! Virtio devices behind the MMIO transport, from the driver's side.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use device::{Balloon, DeviceClass, Unplug};
use hw_virtio::{balloon, blk, rng, serial, serial_port};
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
    assert!(bus.is_hotpluggable());
    assert_eq!(bus.unplug(&port).unwrap(), Unplug::Done);
    assert_eq!(taken(&b, 2, 6).unwrap(), message(1, 2, 1), "the guest hears of it");
    offer(&b, 5, 1, b"to nobody", 0);
    assert_eq!(b.chardev("c1").sent(), b"");
    assert!(bus.unplug(&port).is_err());
    bus.plug(&build(&b, &serial_port::PORT, "nr=1,chardev=c2")).unwrap();
    assert_eq!(taken(&b, 2, 7).unwrap(), message(1, 1, 1), "the number is free again");
}

#[test]
fn the_balloon_takes_pages_and_keeps_its_numbers() {
    let (b, r) = bench(&balloon::CLASS, "");
    start(&b, 0, &[0, 1]);
    let control: Arc<dyn Balloon> = r.ability().unwrap();
    let heard = Arc::new(AtomicU64::new(0));
    let h = heard.clone();
    control.on_change(Arc::new(move |bytes| h.store(bytes, Ordering::SeqCst)));
    control.set_target((1 << 20) - 64 * 4096);
    assert_eq!((b.read32(0x100), b.read32(0x60) & 2), (64, 2));
    // Two neighbours and one beyond RAM.
    let first = u32::try_from((RAM_BASE + 0xe_0000) >> 12).unwrap();
    b.put_ram(0xe_0000, &[7; 0x3000]);
    let pages: Vec<u8> =
        [first + 1, first, u32::MAX].iter().flat_map(|page| page.to_le_bytes()).collect();
    offer(&b, 0, 0, &pages, 0);
    assert_eq!(taken(&b, 0, 0).unwrap(), b"");
    assert!(b.get_ram(0xe_0000, 0x2000).iter().all(|byte| *byte == 0), "given back");
    assert_eq!(b.get_ram(0xe_2000, 1), [7], "the page behind stays");
    b.write32(0x104, 2);
    assert_eq!((b.read32(0x104), control.actual()), (2, (1 << 20) - 8192));
    assert_eq!(heard.load(Ordering::SeqCst), (1 << 20) - 8192);
}

#[test]
fn statistics_are_asked_for_and_kept() {
    let (b, r) = bench(&balloon::CLASS, "guest-stats-polling-interval=2");
    let control: Arc<dyn Balloon> = r.ability().unwrap();
    assert_eq!((control.polling_interval(), control.stats().last_update), (2, 0));
    start(&b, 2, &[0, 1, 2]);
    b.set_wall(1000);
    let mut stats = vec![4, 0];
    stats.extend(5_000_000u64.to_le_bytes());
    stats.extend([0xff, 0xff, 1, 1, 1, 1, 1, 1, 1, 1]);
    offer(&b, 2, 0, &stats, 0);
    assert_eq!(taken(&b, 2, 0), None, "the buffer stays until new numbers are wanted");
    let said = control.stats();
    assert_eq!(said.last_update, 1000);
    assert_eq!((said.stats[4], said.stats[5].1), (("stat-free-memory", 5_000_000), u64::MAX));
    b.advance(2_000_000_000);
    assert!(taken(&b, 2, 0).is_some(), "asked for again");
    offer(&b, 2, 1, &stats, 0);
    assert_eq!(control.stats().last_update, 1002);
    assert!(control.set_polling_interval(-1).is_err());
    control.set_polling_interval(0).unwrap();
}

#[test]
fn reported_pages_are_given_back_and_only_one_balloon_is_made() {
    let (b, _r) = bench(&balloon::CLASS, "free-page-reporting=on");
    start(&b, 1 << 5, &[0, 1, 2, 3]);
    let base = 3 * STEP + BUFFER;
    b.put_ram(base, &[9; 0x2000]);
    offer(&b, 3, 0, &[], 0x1000);
    assert_eq!((b.get_ram(base, 1), b.get_ram(base + 0x1000, 1)), (vec![0], vec![9]));
    let again = balloon::CLASS.build("b", qapi::Value::empty(), Source::Json, b.world());
    assert_eq!(again.err().unwrap().desc, "Only one balloon device is supported");
    for (wrong, text) in [
        ("free-page-hint=on", "'free-page-hint' requires 'iothread' to be set"),
        ("guest-stats=1", "Property 'virtio-balloon-device.guest-stats' is not writable"),
        ("guest-stats-polling-interval=-1", "timer value must be greater than zero"),
        ("iothread=foo", "Device 'foo' not found"),
    ] {
        assert_eq!(Bench::try_of(&balloon::CLASS, wrong).err().unwrap().desc, text);
    }
}

static DISKS: &[&block::BlockClass] = &[&block::FILE, &block::RAW];

#[test]
fn sectors_are_written_to_the_file_and_read_back() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let graph = block::Graph::new(DISKS);
    let path = file.path().display();
    let text = format!("raw,node-name=d0,file.driver=file,file.filename={path}");
    let options = Dialect::structured(Some("driver")).parse(&text).unwrap().value;
    graph.add(options, Source::KeyVal).unwrap();
    let b = Bench::of(&mmio::CLASS, "force-legacy=off");
    b.world().services.add(graph.clone());
    let record = build(&b, &blk::CLASS, "drive=d0,serial=abc");
    b.record.buses[0].plug(&record).unwrap();
    assert_eq!((b.read32(8), b.read32(0x100)), (2, 2048));
    start(&b, 0, &[0]);
    // Header, data and status as one chain: three descriptors.
    let request = |slot: u16, kind: u32, sector: u64, device_writes: u16| {
        let at = RAM_BASE + BUFFER;
        let mut head = kind.to_le_bytes().to_vec();
        head.extend([0; 4]);
        head.extend(sector.to_le_bytes());
        b.put_ram(BUFFER, &head);
        b.put_ram(BUFFER + 0x2000, &[9]);
        let parts = [
            (at, 16u32, 1u16, 1u16),
            (at + 0x1000, 512, 1 | device_writes, 2),
            (at + 0x2000, 1, 2, 0),
        ];
        for (n, (at, len, flags, next)) in (0u64..).zip(parts) {
            let mut d = at.to_le_bytes().to_vec();
            d.extend(len.to_le_bytes());
            d.extend(flags.to_le_bytes());
            d.extend(next.to_le_bytes());
            b.put_ram(16 * n, &d);
        }
        b.put_ram(DRIVER + 4 + 2 * u64::from(slot), &0u16.to_le_bytes());
        b.put_ram(DRIVER + 2, &(slot + 1).to_le_bytes());
        b.write32(0x50, 0);
        // Worker threads: the used index says when they are done.
        while b.get_ram(DEVICE + 2, 2) != (slot + 1).to_le_bytes() {
            std::thread::yield_now();
        }
        b.get_ram(BUFFER + 0x2000, 1)[0]
    };
    b.put_ram(BUFFER + 0x1000, &[7; 512]);
    assert_eq!(request(0, 1, 3, 0), 0, "write");
    assert_eq!(&std::fs::read(file.path()).unwrap()[3 * 512..4 * 512], &[7; 512]);
    b.put_ram(BUFFER + 0x1000, &[0; 512]);
    assert_eq!(request(1, 0, 3, 2), 0, "read");
    assert_eq!(b.get_ram(BUFFER + 0x1000, 512), [7; 512]);
    assert_eq!(request(2, 0, 2048, 2), 1, "behind the end");
    assert_eq!(request(3, 0, u64::MAX, 2), 1, "far behind the end");
    assert_eq!(request(4, 99, 0, 2), 2, "unknown");
    assert_eq!(request(5, 8, 0, 2), 0, "serial");
    assert_eq!(b.get_ram(BUFFER + 0x1000, 4), b"abc\0");
}
