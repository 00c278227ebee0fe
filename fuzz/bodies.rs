//! The bodies of all fuzz targets: one function per parser of untrusted input.
//!
//! `fuzz_targets/` runs them under cargo-fuzz; `crates/catalog/tests/fuzz_bodies.rs` runs them on
//! a few thousand random inputs in every CI run.

use std::sync::{Arc, OnceLock};

use derive::{Qapi, VmState};
use parking_lot::Mutex;
use qapi::{Qapi as _, Source, json, keyval::Dialect};
use vmstate::{Migration, StateReader, StateWriter};

/// A type with one of each kind of member.
#[derive(Qapi)]
pub struct Everything {
    /// A switch.
    pub flag: Option<bool>,
    /// A number.
    pub small: Option<u8>,
    /// A size.
    pub size: Option<qapi::Size>,
    /// A list.
    pub list: Option<Vec<i32>>,
    /// An object inside.
    pub inner: Option<Box<Everything>>,
}

/// JSON text: every value is written, read again and written the same.
pub fn json(data: &[u8]) {
    let mut reader = json::Reader::new();
    let check = |result: qapi::Result<qapi::Value>| {
        let Ok(value) = result else { return };
        let text = json::to_string(&value);
        if let Ok(again) = json::from_str(&text) {
            assert_eq!(json::to_string(&again), text);
        }
        _ = Everything::from_value(value, Source::Json);
    };
    reader.feed(data, check);
    reader.finish(check);
}

/// key=value text in both dialects.
pub fn keyval(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for dialect in [Dialect::structured(Some("type")), Dialect::flat(Some("type"))] {
        if let Ok(parsed) = dialect.parse(&text) {
            _ = Everything::from_value(parsed.value, Source::KeyVal);
        }
    }
    _ = (qapi::parse_size(&text, 1 << 20), qapi::parse_int(&text));
}

/// A register struct with one of each kind of field.
#[derive(Default, Debug, PartialEq, VmState)]
pub struct Regs {
    word: u32,
    flag: bool,
    #[vmstate(max = 8)]
    list: Vec<u16>,
    bytes: Vec<u8>,
    part: Option<Part>,
    parts: [Part; 2],
}

/// A record inside.
#[derive(Default, Debug, PartialEq, VmState)]
pub struct Part {
    wide: u128,
    name: String,
}

/// A saved-state stream: what loads is saved and loads again.
pub fn vmstate(data: &[u8]) {
    let regs = Mutex::new(Regs::default());
    if Migration::Saved(&regs).read(&mut StateReader::new(data)).is_ok() {
        let mut w = StateWriter::new();
        assert!(Migration::Saved(&regs).write(&mut w).is_ok());
        let bytes = w.into_bytes();
        let again = Mutex::new(Regs::default());
        assert!(Migration::Saved(&again).read(&mut StateReader::new(&bytes)).is_ok());
        assert_eq!(*again.lock(), *regs.lock());
    }
}

/// A good stream, as a seed.
pub fn vmstate_seed() -> Vec<u8> {
    let part = Part { wide: 5, name: "x".into() };
    let regs = Regs { list: vec![1, 2], bytes: vec![3], part: Some(part), ..Regs::default() };
    let mut w = StateWriter::new();
    _ = Migration::Saved(&Mutex::new(regs)).write(&mut w);
    w.into_bytes()
}

/// A machine's saved state: the container, its parts, pages of RAM.
pub fn saved_machine(data: &[u8]) {
    use migration::{ram, seal, section};
    // As it is, and sealed: what is behind the seal must not be believed either.
    let sealed = {
        let mut out = Vec::new();
        let mut put = |_: u64, bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        let written = seal::Writer::new(&mut put).and_then(|mut w| {
            w.write(data)?;
            w.finish()
        });
        if written.is_err() {
            return;
        }
        out
    };
    let Ok(block) = guest_ram::RamBlock::new("ram", 1 << 16, guest_ram::RamOptions::default())
    else {
        return;
    };
    for bytes in [data, &sealed] {
        let mut get = |at: u64, into: &mut [u8]| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let from = bytes.get(at..at.saturating_add(into.len()));
            into.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
            Ok(())
        };
        let Ok(mut r) = seal::Reader::new(&mut get, bytes.len() as u64) else { continue };
        while let Ok(part) = section::read(&mut r) {
            let done = match part.kind {
                section::Kind::Ram => ram::load(&mut r, &block, &part.body, ram::Mode::Apply),
                section::Kind::End => break,
                _ => Ok(()),
            };
            if done.is_err() {
                break;
            }
        }
        _ = r.finish();
    }
}

/// Lines of the qtest protocol against an empty memory.
pub fn qtest(data: &[u8]) {
    static SPACE: OnceLock<memory::AddressSpace> = OnceLock::new();
    let root = || memory::AddressSpace::new("memory", &memory::Region::root("system"));
    let space = SPACE.get_or_init(root).clone();
    let irqs = Box::new(|_: &str| Some(Vec::new()));
    let mut session = accel_qtest::Session::new(space, device::Clock::manual(), irqs);
    for line in String::from_utf8_lossy(data).lines() {
        let length = accel_qtest::Line::new(line).nth_number(2);
        if length.is_some_and(|length| length > 1 << 16) {
            continue; // right, but slow
        }
        let reply = session.execute(line);
        assert!(reply.lines().last().is_some_and(|l| l.starts_with("OK") || l.starts_with("FAIL")));
    }
}

/// Bytes typed into the human monitor's line editor.
pub fn monitor(data: &[u8]) {
    let mut editor = monitor::Editor::default();
    for byte in data {
        if let monitor::Edit::Line(line) = editor.feed(*byte) {
            let (word, rest) = monitor::split_line(&line);
            assert!(!word.contains(char::is_whitespace));
            _ = Arc::new(rest.len());
        }
    }
}

/// A ring of commands and the tables behind it, for the interrupt translation service.
pub fn its(data: &[u8]) {
    use device::{LpiSource, Lpis, Size, TxAttrs};
    use testbench::{BANK, Bench, RAM_BASE};
    const VALID: u64 = 1 << 63;
    const ITS: u64 = 1 << 36;
    let b = Bench::of(&hw_intc::gicv3::CLASS, "num-irq=64,num-cpu=2,has-lpi=on");
    let class = &hw_intc::its::CLASS;
    let made = class.build("its", qapi::Value::empty(), Source::KeyVal, b.world());
    let Ok(service) = made else { return };
    let root = b.world().memory.root();
    for (n, region) in (0u64..).zip(&service.regions) {
        root.map(ITS + n * 0x1_0000, region, 0);
    }
    let ends = (b.record.ability::<Arc<dyn Lpis>>(), service.ability::<Arc<dyn LpiSource>>());
    if let (Some(lpis), Some(source)) = ends {
        source.connect(lpis);
    }
    b.write32(0, 0x13);
    for cpu in 0..2 {
        let redist = BANK + cpu * 0x2_0000;
        b.write64(redist + 0x70, RAM_BASE | 15);
        b.write64(redist + 0x78, RAM_BASE + 0x1_0000 * (cpu + 1));
        b.write32(redist, 1);
    }
    // The first byte says how the tables are, the rest is the ring and what tables begin with.
    let (kind, data) =
        data.split_first().map_or((0, data), |(kind, rest)| (u64::from(*kind), rest));
    let indirect = (kind & 1) << 62;
    b.write64(ITS + 0x100, VALID | indirect | (RAM_BASE + 0x4_0000) | (kind & 6) << 7);
    b.write64(ITS + 0x108, VALID | (RAM_BASE + 0x5_0000));
    b.write64(ITS + 0x80, VALID | (RAM_BASE + 0x3_0000));
    let (ring, tables) = data.split_at(data.len().min(4064));
    b.put_ram(0x3_0000, ring);
    for at in [0x4_0000, 0x5_0000, 0x6_0000] {
        b.put_ram(at, tables.get(..tables.len().min(4096)).unwrap_or_default());
    }
    b.write32(ITS, 1);
    b.write64(ITS + 0x88, ring.len() as u64 & !31);
    for requester in 0..4 {
        let attrs = TxAttrs { requester, ..TxAttrs::default() };
        let event = u64::from(requester) * 7;
        _ = b.world().memory.write_uint(ITS + 0x1_0040, Size::B4, event, attrs);
    }
}

/// Accesses to the configuration interface for firmware, and DMA descriptors in RAM: the first 64
/// bytes are the descriptors, then three bytes for each access.
pub fn fw_cfg(data: &[u8]) {
    use testbench::{BANK, Bench, RAM_BASE};
    let b = Bench::of(&hw_misc::fw_cfg::CLASS, "");
    let (descriptors, steps) = data.split_at(data.len().min(64));
    _ = b.world().memory.write(RAM_BASE, descriptors, device::TxAttrs::default());
    for step in steps.chunks_exact(3) {
        let [what, high, low] = *step else { continue };
        let value = u64::from(u16::from_be_bytes([high, low]));
        let size = [device::Size::B1, device::Size::B2, device::Size::B4, device::Size::B8]
            [usize::from(what & 3)];
        let (bank, at) = (u64::from(what >> 2) % 3 * BANK, u64::from(what >> 4) % 8);
        _ = match what >> 7 {
            0 => b.try_write(bank + at, size, value),
            _ => b.try_read(bank + at, size).map(|_| ()),
        };
        // The DMA address register takes a big-endian address: one near the descriptors.
        let address = (RAM_BASE + value % 128).swap_bytes();
        _ = b.try_write(2 * BANK, device::Size::B8, address);
    }
}

/// Accesses to a flash bank: three bytes each, what and where.
pub fn pflash(data: &[u8]) {
    let shape = "name=f,width=4,device-width=2,sector-length=4096,num-blocks=4";
    let b = testbench::Bench::of(&hw_storage::pflash_cfi01::CLASS, shape);
    for step in data.chunks_exact(3) {
        let [what, high, low] = *step else { continue };
        let at = u64::from(u16::from_be_bytes([high, low])) % 0x4000;
        let size = [device::Size::B1, device::Size::B2, device::Size::B4, device::Size::B8]
            [usize::from(what & 3)];
        let command = [0xff, 0x40, 0x20, 0xe8, 0xd0, 0x98, 0x90, 0x70, 0x50, 0x60, 0, 3];
        let value = command.get(usize::from(what >> 3)).copied().unwrap_or(u64::from(what));
        _ = if what & 4 == 0 {
            b.try_write(at, size, value * 0x1_0001)
        } else {
            b.try_read(at, size).map(|_| ())
        };
    }
}

/// An NVMe controller: the input is what its queues hold, commands and data alike.
pub fn nvme(data: &[u8]) {
    const ADMIN: u64 = testbench::RAM_BASE;
    let bench = testbench::Bench::of(&hw_storage::nvme::CLASS, "");
    let slot = testbench::PciSlot::of(&bench);
    let at = testbench::PCI_MMIO + 0x100_0000;
    slot.set_config(0x10, 4, 0x100_0000);
    slot.set_config(4, 2, 6);
    // A completion and a submission queue first, then what comes.
    let queue = |opcode: u8, base: u64, flags: u32| {
        let mut bytes = vec![0; 64];
        let mut put = |at: usize, value: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(at).zip(value) {
                *to = *from;
            }
        };
        put(0, &[opcode]);
        put(24, &base.to_le_bytes());
        put(40, &(15u32 << 16 | 1).to_le_bytes());
        put(44, &flags.to_le_bytes());
        bytes
    };
    bench.put_ram(0, &queue(5, ADMIN + 0x2000, 3));
    bench.put_ram(64, &queue(1, ADMIN + 0x3000, 1 << 16 | 1));
    let (admin, rest) = data.split_at(data.len().min(14 * 64));
    bench.put_ram(128, admin);
    bench.put_ram(0x3000, rest.get(..rest.len().min(0x5000)).unwrap_or_default());
    bench.write32(at + 0x24, 15 << 16 | 15);
    bench.write32(at + 0x28, u32::try_from(ADMIN & 0xffff_ffff).unwrap_or(0));
    bench.write32(at + 0x2c, u32::try_from(ADMIN >> 32).unwrap_or(0));
    bench.write32(at + 0x30, u32::try_from(ADMIN & 0xffff_ffff).unwrap_or(0) + 0x1000);
    bench.write32(at + 0x34, u32::try_from(ADMIN >> 32).unwrap_or(0));
    bench.write32(at + 0x14, 1 | 6 << 16 | 4 << 20);
    bench.write32(at + 0x1000, 2);
    bench.write32(at + 0x1008, 15);
    bench.write32(at + 0x1000, 15);
    for bell in data.chunks(2).take(32) {
        if let [which, value] = *bell {
            bench.write32(at + 0x1000 + u64::from(which % 8) * 4, value.into());
        }
    }
    bench.reset();
}

/// A stream table entry, a context descriptor, tables, commands, then requests.
pub fn smmu(data: &[u8]) {
    const RAM: u64 = testbench::RAM_BASE;
    let bench = testbench::Bench::of(&hw_iommu::smmuv3::CLASS, "stage=nested");
    let Some(iommu) = bench.record.ability::<Arc<dyn pci::Iommu>>() else { return };
    let mut words = data
        .chunks(8)
        .map(|chunk| chunk.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte)));
    let mut next = || words.next().unwrap_or(0);
    let put = |at: u64, word: u64| bench.put_ram(at, &word.to_le_bytes());
    // Addresses lie in RAM for the most part, so that walks get somewhere.
    let addr = |word: u64, to: u64| {
        if word & 0xf00 == 0xf00 { word } else { word & !0xf_ffff_ffff_f000 | (RAM + to) }
    };
    let shape = next();
    let ste = [addr(next() | 1, 0x3000), next(), next(), addr(next(), 0x8000)];
    let cd = [next() | 1 << 31 | 1 << 41 | 1 << 46, addr(next(), 0xc000), addr(next(), 0xc000)];
    for sid in 0..16u64 {
        for (n, word) in (0u64..).zip(ste) {
            put(0x2000 + sid * 64 + n * 8, word);
        }
    }
    (0u64..).zip(cd).for_each(|(n, word)| put(0x3000 + n * 8, word));
    for n in 0..32u64 {
        let word = next();
        let to = 0x8000 + (word >> 40 & 7) * 0x1000;
        put(0x8000 + n % 4 * 0x1000 + word % 16 * 8, addr(word, to));
        put(0xc000 + n % 4 * 0x1000 + word % 16 * 8, addr(word.rotate_left(7), to));
    }
    for n in 0..16u64 {
        put(0x1000 + n * 16, next());
        put(0x1008 + n * 16, next());
    }
    let split = u32::try_from(shape & 0x3_07df).unwrap_or(0);
    for (at, value) in
        [(0x80, RAM + 0x2000), (0x90, (RAM + 0x1000) | 4), (0xa0, (RAM + 0x6000) | 2)]
    {
        bench.write64(at, value);
    }
    bench.write32(0x88, if shape & 1 << 60 == 0 { 4 } else { split });
    bench.write32(0x50, 5);
    bench.write32(0x20, 0xd);
    for round in 0..2u32 {
        for _ in 0..16 {
            let word = next();
            let sid = u16::try_from(word >> 48 & 0x1f).unwrap_or(0);
            for write in [false, true] {
                if let Some(to) = iommu.translate(sid, word & 0xffff_ffff_ffff, write) {
                    assert!(to.len > 0, "a piece of no length");
                }
            }
        }
        bench.write32(0x98, 15 + round);
        bench.write32(0x9c, u32::try_from(next() & 0xff).unwrap_or(0));
        bench.write32(0x64, bench.read32(0x60));
    }
    bench.reset();
}

/// A virtio device behind MMIO transport with its ring, as the driver wrote it: RAM is filled
/// with the input, then the queue is switched on and notified.
fn virtqueue(data: &[u8], features: u32) {
    const RING: u64 = testbench::RAM_BASE;
    let bench = testbench::Bench::of(&virtio::mmio::CLASS, "force-legacy=off");
    let props = Dialect::flat(None).parse("packed=on,in_order=on").map(|p| p.value);
    let props = props.unwrap_or(qapi::Value::Null);
    let class = &hw_virtio::balloon::CLASS;
    let Ok(record) = class.build("dut", props, Source::KeyVal, bench.world()) else { return };
    let Some(bus) = bench.record.buses.first() else { return };
    if bus.plug(&record).is_err() {
        return;
    }
    let (head, ram) = data.split_at(data.len().min(8));
    bench.put_ram(0, ram.get(..ram.len().min(0x8000)).unwrap_or_default());
    bench.write32(0x70, 3);
    for (half, word) in [(0, 0x3000_0002), (1, features)] {
        bench.write32(0x24, half);
        bench.write32(0x20, word);
    }
    bench.write32(0x70, 11);
    let byte = |at: usize| u64::from(head.get(at).copied().unwrap_or(0));
    for queue in 0..3u32 {
        bench.write32(0x30, queue);
        bench.write32(0x38, u32::try_from(1 << (byte(0) % 11)).unwrap_or(8));
        for (register, at) in [(0x80u64, byte(1) * 16), (0x90, byte(2) * 16), (0xa0, byte(3) * 16)]
        {
            let at = RING + at;
            bench.write32(register, u32::try_from(at & 0xffff_ffff).unwrap_or(0));
            bench.write32(register + 4, u32::try_from(at >> 32).unwrap_or(0));
        }
        bench.write32(0x44, 1);
    }
    bench.write32(0x70, 15);
    for queue in 0..3u32 {
        bench.write32(0x50, queue);
        bench.write32(0x50, queue);
    }
    let saved = bench.save();
    assert!(bench.load(&saved).is_ok(), "what was saved loads");
    bench.write32(0x70, 0);
    assert_eq!(bench.read32(0x70), 0);
}

/// Split rings of a hostile driver.
pub fn virtqueue_split(data: &[u8]) {
    virtqueue(data, 1);
}

/// Packed rings of a hostile driver, used in order.
pub fn virtqueue_packed(data: &[u8]) {
    virtqueue(data, 1 | 4 | 8);
}

/// The data of a `secret` that is decrypted.
pub fn secret(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let key = device::SecretBytes(Arc::from([7u8; 32]));
    for format in [objects::secret::Format::Raw, objects::secret::Format::Base64] {
        let iv = Some("MDEyMzQ1Njc4OWFiY2RlZg==".to_owned());
        let data = Some(text.clone());
        let props = objects::secret::Props { data, file: None, format, keyid: None, iv };
        _ = objects::secret::value(&props, Some(&key));
        _ = objects::secret::value(&props, None);
    }
}

struct NoChars;

impl device::CharSource for NoChars {
    fn port(&self, _: &str) -> qapi::Result<device::CharPort> {
        Err(qapi::Error::generic("there are none"))
    }
}

/// Frames of a guest for user-mode networking: each begins with its length in two bytes. The
/// guest is isolated, so that nothing leaves the process.
pub fn net_user(data: &[u8]) {
    let Ok(events) = evloop::EventLoop::new() else { return };
    let context = net::Context {
        handle: events.handle(),
        clock: evloop::Clock::host(),
        fds: None,
        chardevs: Arc::new(NoChars),
        hubs: Arc::default(),
        tell: Arc::new(|_, _| {}),
    };
    let link = net::Link::new("n", "user", events.handle());
    let args = net_user::UserArgs {
        restrict: Some(true),
        tftp: Some("/nonexistent".into()),
        ..net_user::UserArgs::default()
    };
    let Ok(user) = net_user::User::open(&args, &link, &context) else { return };
    link.connect(user);
    let mut rest = data;
    while let Some((len, more)) = rest.split_first_chunk::<2>() {
        let n = usize::from(u16::from_be_bytes(*len)).min(more.len());
        let (frame, more) = more.split_at(n);
        link.from_guest(&net::Frame::plain(&[frame]));
        link.guest_done();
        rest = more;
    }
}

/// The text of network options, and the rules in them.
pub fn net_option(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(mut value) = net::option::parse(&text) {
        _ = net::option::word(&mut value, "id");
        value.take("type");
        _ = net_user::UserArgs::from_value(value, Source::KeyVal);
    }
    _ = net::parse_mac(&text);
    _ = net::address::host_port(&text.replace(|c: char| c.is_ascii_alphabetic(), "1"));
}

/// Bytes of a stream of frames.
pub fn net_stream(data: &[u8]) {
    let mut input = net::stream::Deframer::default();
    for part in data.chunks(7) {
        input.push(part);
        while let Ok(Some(frame)) = input.peek() {
            assert!(frame.len() <= net::link::MAX_FRAME);
            input.pop();
        }
    }
}

/// Commands on the control queue of a network card, and frames for its filter.
pub fn net_control(data: &[u8]) {
    hw_virtio::net::fuzz_control(data);
}

/// Frames with work left to do: segmentation, checksums, hashes.
pub fn net_segment(data: &[u8]) {
    net::segment::fuzz(data);
    if let Some(flow) = net::rss::Flow::parse(data) {
        _ = flow.hash(&[0x5a; net::rss::KEY], true);
    }
}

/// An e1000e whose frames come back: what its rings and buffers hold, then writes to registers.
pub fn e1000e(data: &[u8]) {
    let bench = testbench::Bench::of(&hw_net::e1000e::CLASS, "");
    let slot = testbench::PciSlot::of(&bench);
    let at = testbench::PCI_MMIO + 0x100_0000;
    slot.set_config(0x10, 4, 0x100_0000);
    slot.set_config(4, 2, 6);
    let (writes, ram) = data.split_at(data.len().min(64));
    bench.put_ram(0, ram.get(..ram.len().min(0x4000)).unwrap_or_default());
    let base = testbench::RAM_BASE;
    let halves = [base & 0xffff_ffff, base >> 32];
    for begin in [0x2800u64, 0x2900, 0x3800, 0x3900] {
        let skip = if begin < 0x3000 { 0x800 } else { 0 };
        for (half, value) in (0u64..).zip(halves) {
            let value = value + if half == 0 { skip } else { 0 };
            bench.write32(at + begin + 4 * half, u32::try_from(value).unwrap_or(0));
        }
        bench.write32(at + begin + 8, 0x400);
    }
    // Loopback, everything is let through; sending and receiving are on.
    bench.write32(at + 0x100, 0x0000_80da | 1 << 26);
    bench.write32(at + 0x400, 2);
    bench.write32(at + 0xd0, u32::MAX);
    const REGISTERS: [u64; 16] = [
        0x2818, 0x2918, 0x3818, 0x3918, 0x2810, 0x3810, 0x100, 0x5008, 0x2170, 0x5818, 0x18, 0xe4,
        0x20, 0x14, 0x0, 0xc0,
    ];
    for write in writes.chunks(4) {
        if let [which, a, b, c] = *write {
            let register = REGISTERS.get(usize::from(which & 15)).copied().unwrap_or(0);
            let mut value = u32::from_le_bytes([a, b, c, which & 0xf0]);
            if register == 0x100 {
                value |= 0xc2;
            }
            bench.write32(at + register, value);
            _ = bench.read32(at + register);
        }
    }
    let saved = bench.save();
    assert!(bench.load(&saved).is_ok(), "what was saved loads");
    bench.reset();
}
