//! Disks whose requests fail, at each layer: the guest hears of it, or does not, as the policy says.
//! A request that stops the machine is made again when it goes on, once and with nothing lost; it
//! is saved with the machine and made again where the state is loaded.

use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use block::{BlockClass, Graph};
use device::{Device, DeviceClass, Record, Reset};
use qapi::{Source, keyval::Dialect};
use testbench::{Bench, RAM_BASE};

static DRIVERS: &[&BlockClass] = &[
    &block::FILE,
    &block::RAW,
    &block::BLKDEBUG,
    &block::COPY_ON_READ,
    &block_formats::qcow2::CLASS,
];
const SIZE: u16 = 16;
const DRIVER: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const BUFFERS: u64 = 0x4000;
/// Descriptors of each request.
const PARTS: u16 = 3;
const PACKED: u64 = 1 << 34;
const IN_ORDER: u64 = 1 << 35;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Blk,
    Scsi,
}

/// What a request came to.
#[derive(Debug, PartialEq)]
enum Answer {
    Good,
    Status(u8),
    Sense(u8, u8, u8),
}

/// A machine with one disk, and the driver's side of its queue.
struct Machine {
    b: Bench,
    kind: Kind,
    features: u64,
    graph: Arc<Graph>,
    /// Transport's child and, with SCSI, the disk.
    records: Vec<Record>,
    troubles: mpsc::Receiver<(String, block::Verdict)>,
    file: tempfile::NamedTempFile,
    given: u16,
    taken: u16,
    /// The device is not notified of new requests.
    quiet: bool,
}

fn class(name: &str) -> &'static DeviceClass {
    catalog::DEVICES.iter().find(|class| class.name == name).unwrap()
}

impl Machine {
    fn new(kind: Kind, features: u64, debug: &str) -> Machine {
        let node =
            format!("raw,file.driver=blkdebug{debug},file.image.driver=file,file.image.filename=@");
        Machine::of(kind, features, &node, "")
    }

    /// A machine whose disk is the node of these options (`@`: the file) with these properties.
    fn of(kind: Kind, features: u64, node: &str, props: &str) -> Machine {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        if node.contains("qcow2") {
            let new =
                block::Creation { filename: path.clone(), size: 1 << 20, ..Default::default() };
            (block_formats::qcow2::CLASS.create.unwrap())(&new).unwrap();
        } else {
            file.as_file().set_len(1 << 20).unwrap();
        }
        let graph = Graph::new(DRIVERS);
        let text = format!("{},node-name=d0", node.replace('@', &path));
        let options = Dialect::structured(Some("driver")).parse(&text).unwrap().value;
        graph.add(options, Source::KeyVal).unwrap();
        let (send, troubles) = mpsc::channel();
        graph.on_trouble(Arc::new(move |t| _ = send.send((t.reason, t.verdict))));
        let b = Bench::of(class("virtio-mmio"), "force-legacy=off");
        b.world().services.add(graph.clone());
        let build = |name: &str, props: &str| {
            let props = Dialect::structured(None).parse(props).unwrap().value;
            class(name).build("x", props, Source::KeyVal, b.world()).unwrap()
        };
        let packed = if features & PACKED != 0 { "packed=on,in_order=on" } else { "" };
        let records = if kind == Kind::Blk {
            vec![build("virtio-blk-device", &format!("drive=d0,{packed}{props}"))]
        } else {
            let hd = build("scsi-hd", &format!("drive=d0,{props}"));
            let host = build("virtio-scsi-device", packed);
            host.buses[0].plug(&hd).unwrap();
            vec![host, hd]
        };
        b.record.buses[0].plug(&records[0]).unwrap();
        Machine {
            b,
            kind,
            features,
            graph,
            records,
            troubles,
            file,
            given: 0,
            taken: 0,
            quiet: false,
        }
    }

    fn queue(&self) -> u32 {
        if self.kind == Kind::Blk { 0 } else { 2 }
    }

    fn start(&self) {
        let b = &self.b;
        b.write32(0x70, 3);
        for sel in 0..2u32 {
            b.write32(0x24, sel);
            let features = (self.features | 1 << 32) >> (32 * sel) & 0xffff_ffff;
            b.write32(0x20, u32::try_from(features).unwrap());
        }
        b.write32(0x70, 11);
        b.write32(0x30, self.queue());
        b.write32(0x38, SIZE.into());
        for (register, at) in [(0x80, 0), (0x90, DRIVER), (0xa0, DEVICE)] {
            let at = RAM_BASE + at;
            b.write32(register, u32::try_from(at & 0xffff_ffff).unwrap());
            b.write32(register + 4, u32::try_from(at >> 32).unwrap());
        }
        b.write32(0x44, 1);
        b.write32(0x70, 15);
    }

    fn buffer(slot: u16) -> u64 {
        BUFFERS + 0x1000 * u64::from(slot)
    }

    /// Asks for a sector to be written; requests have numbers from 0 on.
    fn write(&mut self, sector: u8, fill: u8) {
        self.ask(true, sector, fill);
    }

    /// The same for reading, where the answer comes before the data with SCSI.
    fn ask(&mut self, write: bool, sector: u8, fill: u8) {
        let (b, slot) = (&self.b, self.given);
        self.given += 1;
        let at = Machine::buffer(slot);
        let (head, answer) = if self.kind == Kind::Blk {
            let mut head = vec![u8::from(write), 0, 0, 0, 0, 0, 0, 0, sector];
            head.resize(16, 0);
            (head, 1)
        } else {
            let mut head = vec![1, 0, 0, 0, 0, 0, 0, 0];
            head.resize(19, 0);
            head.extend([if write { 0x2a } else { 0x28 }, 0, 0, 0, 0, sector, 0, 0, 1]);
            head.resize(51, 0);
            (head, 108)
        };
        b.put_ram(at, &head);
        b.put_ram(at + 0x200, &[fill; 512]);
        b.put_ram(at + 0x800, &[9; 108]);
        let (data, said) = ((at + 0x200, 512), (at + 0x800, answer));
        let parts = match (write, self.kind) {
            (true, _) => [(at, head.len(), 0), (data.0, data.1, 0), (said.0, said.1, 2u16)],
            (_, Kind::Blk) => [(at, head.len(), 0), (data.0, data.1, 2), (said.0, said.1, 2)],
            (_, Kind::Scsi) => [(at, head.len(), 0), (said.0, said.1, 2), (data.0, data.1, 2)],
        };
        let first = slot * PARTS;
        let packed = self.features & PACKED != 0;
        let mut flags_of_first = Vec::new();
        for (n, (at, len, flags)) in (0u16..).zip(parts) {
            let place = (first + n) % SIZE;
            let more = if n + 1 < PARTS { flags | 1 } else { flags };
            let mut d = (RAM_BASE + at).to_le_bytes().to_vec();
            d.extend(u32::try_from(len).unwrap().to_le_bytes());
            if packed {
                d.extend(slot.to_le_bytes());
                // The wrap counter starts as one.
                let wrapped = (first + n) / SIZE % 2 == 1;
                let owner: u16 = if wrapped { 0x8000 } else { 0x80 };
                d.extend((more | owner).to_le_bytes());
            } else {
                d.extend(more.to_le_bytes());
                d.extend(((place + 1) % SIZE).to_le_bytes());
            }
            let flags_at = 16 * u64::from(place) + 14;
            if packed && n == 0 {
                flags_of_first = d.split_off(14);
                self.b.put_ram(flags_at - 14, &d);
            } else {
                self.b.put_ram(flags_at - 14, &d);
            }
        }
        if packed {
            b.put_ram(16 * u64::from(first % SIZE) + 14, &flags_of_first);
        } else {
            let entry = DRIVER + 4 + 2 * u64::from(slot % SIZE);
            b.put_ram(entry, &(first % SIZE).to_le_bytes());
            b.put_ram(DRIVER + 2, &(slot + 1).to_le_bytes());
        }
        if !self.quiet {
            self.kick();
        }
    }

    fn kick(&self) {
        self.b.write32(0x50, self.queue());
    }

    /// The number of the next request that came back.
    fn back(&mut self) -> Option<u16> {
        let place = self.taken;
        let number = if self.features & PACKED != 0 {
            let first = place * PARTS;
            let entry = self.b.get_ram(16 * u64::from(first % SIZE) + 8, 8);
            let flags = u16::from_le_bytes([entry[6], entry[7]]);
            let wrapped = first / SIZE % 2 == 1;
            let used = if wrapped { 0 } else { 0x8080 };
            if flags & 0x8080 != used {
                return None;
            }
            u16::from_le_bytes([entry[4], entry[5]])
        } else {
            let index = self.b.get_ram(DEVICE + 2, 2);
            if u16::from_le_bytes([index[0], index[1]]) == place {
                return None;
            }
            let entry = self.b.get_ram(DEVICE + 4 + 8 * u64::from(place % SIZE), 2);
            // A request's first descriptor tells its number.
            let first = u16::from_le_bytes([entry[0], entry[1]]);
            (0..self.given).find(|slot| slot * PARTS % SIZE == first).unwrap()
        };
        self.taken += 1;
        Some(number)
    }

    /// Waits for the next request to come back well.
    fn ends(&mut self, number: u16) {
        assert_eq!(self.answer(number), Answer::Good);
    }

    /// Waits for the next request to come back.
    fn answer(&mut self, number: u16) -> Answer {
        // Worker threads: the ring says when they are done.
        let came = loop {
            if let Some(came) = self.back() {
                break came;
            }
            std::thread::yield_now();
        };
        assert_eq!(came, number);
        let answer = self.b.get_ram(Machine::buffer(number) + 0x800, 108);
        match self.kind {
            Kind::Blk if answer[0] == 0 => Answer::Good,
            Kind::Blk => Answer::Status(answer[0]),
            Kind::Scsi if answer[10..12] == [0, 0] => Answer::Good,
            Kind::Scsi => Answer::Sense(answer[12 + 2], answer[12 + 12], answer[12 + 13]),
        }
    }

    fn devices(&self) -> Vec<&dyn Device> {
        let mut all: Vec<&dyn Device> = vec![&*self.b.record.device];
        all.extend(self.records.iter().map(|record| &*record.device));
        all
    }

    fn pause(&self) {
        for device in self.devices() {
            let mut pausing = device.pause();
            let poll = pausing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(poll, Poll::Ready(()));
        }
    }

    fn resume(&self) {
        for device in self.devices() {
            device.resume();
        }
    }

    fn save(&self) -> Vec<u8> {
        let mut w = vmstate::StateWriter::new();
        for device in self.devices() {
            device.migration().write(&mut w).unwrap();
        }
        w.into_bytes()
    }

    fn load(&self, bytes: &[u8]) {
        let mut r = vmstate::StateReader::new(bytes);
        for device in self.devices() {
            device.reset(Reset::SnapshotLoad);
        }
        for device in self.devices() {
            device.migration().read(&mut r).unwrap();
        }
        r.finish().unwrap();
        for device in self.devices() {
            device.settle();
        }
    }

    fn sector(&self, number: usize) -> u8 {
        let all = std::fs::read(self.file.path()).unwrap();
        let sector = &all[number * 512..number * 512 + 512];
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector in parts");
        sector[0]
    }
}

fn check(kind: Kind, features: u64) {
    let debug = ",file.inject-error.0.event=none,file.inject-error.0.iotype=write\
        ,file.inject-error.0.sector=3,file.inject-error.0.errno=28,file.inject-error.0.once=on";
    let mut m = Machine::new(kind, features, debug);
    m.start();
    if kind == Kind::Scsi {
        // The first command hears of the power-on, and no later one.
        m.write(1, 1);
        while m.back().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(m.b.get_ram(Machine::buffer(0) + 0x800, 15)[10], 2, "unit attention");
    }
    let first = m.given;
    m.write(3, 0x33);
    let stopped = m.troubles.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(stopped, ("No space left on device".to_owned(), block::Verdict::Stop));
    m.write(5, 0x55);
    if features & IN_ORDER == 0 {
        m.ends(first + 1);
    }
    m.pause();
    assert_eq!((m.sector(3), m.sector(5)), (0, 0x55));
    let state = m.save();
    assert_eq!(state, m.save(), "saving changes nothing");

    let mut other = Machine::new(kind, features, "");
    std::fs::copy(m.file.path(), other.file.path()).unwrap();
    other.b.put_ram(0, &m.b.get_ram(0, 0x1_0000));
    (other.given, other.taken) = (m.given, m.taken);
    other.load(&state);
    assert_eq!(other.save(), state, "a machine that is loaded and saved again is the same");
    for m in [&mut other, &mut m] {
        m.resume();
        m.graph.retry();
        m.ends(first);
        if features & IN_ORDER != 0 {
            m.ends(first + 1);
        }
        assert_eq!((m.sector(3), m.sector(5)), (0x33, 0x55));
        // The ring goes on where it was, over its end.
        for number in first + 2..first + 8 {
            m.write(u8::try_from(10 + number).unwrap(), 0x77);
            m.ends(number);
            assert_eq!(m.sector(usize::from(10 + number)), 0x77);
        }
        assert!(m.back().is_none());
        assert!(m.troubles.try_recv().is_err());
    }
}

#[test]
fn a_stopped_request_of_virtio_blk_is_saved_and_made_again() {
    check(Kind::Blk, 0);
}

#[test]
fn a_stopped_request_of_a_packed_ring_is_saved_and_made_again() {
    check(Kind::Blk, PACKED);
    check(Kind::Blk, PACKED | IN_ORDER);
}

#[test]
fn a_stopped_request_of_a_scsi_disk_is_saved_and_made_again() {
    check(Kind::Scsi, 0);
    check(Kind::Scsi, PACKED);
}

#[test]
fn a_reset_ends_a_stopped_request() {
    let debug = ",file.inject-error.0.event=none,file.inject-error.0.iotype=write";
    for kind in [Kind::Blk, Kind::Scsi] {
        let mut m = Machine::new(kind, 0, &format!("{debug},file.inject-error.0.errno=28"));
        m.start();
        if kind == Kind::Scsi {
            m.write(1, 1);
        }
        m.write(3, 0x33);
        m.troubles.recv_timeout(Duration::from_secs(60)).unwrap();
        // Status 0 resets; nothing comes back to the rings of before.
        m.b.write32(0x70, 0);
        assert_eq!(m.b.get_ram(DEVICE + 2, 2), [u8::from(kind == Kind::Scsi), 0]);
        m.graph.retry();
        assert_eq!(m.sector(3), 0);
    }
}

#[test]
fn a_tray_is_saved() {
    let graph = Graph::new(DRIVERS);
    graph.add_drive("cd", None).unwrap();
    let drive = || {
        let b = Bench::of(class("virtio-mmio"), "");
        b.world().services.add(graph.clone());
        let props = Dialect::structured(None).parse("drive=cd").unwrap().value;
        class("scsi-cd").build("x", props, Source::KeyVal, b.world()).unwrap()
    };
    let one = drive();
    let slot: block::Slotted = one.ability().unwrap();
    slot.move_tray(true, true);
    let mut w = vmstate::StateWriter::new();
    one.device.migration().write(&mut w).unwrap();
    drop((slot, one));
    let other = drive();
    let slot: block::Slotted = other.ability().unwrap();
    assert_eq!(slot.tray_open(), Some(false));
    let bytes = w.into_bytes();
    other.device.migration().read(&mut vmstate::StateReader::new(&bytes)).unwrap();
    assert_eq!(slot.tray_open(), Some(true));
}

/// Options of disks whose lowest layer fails with `@rule`; `true`: the guest's bytes lie in the file.
const LAYERS: [(&str, bool); 4] = [
    ("blkdebug@rule,image.driver=file,image.filename=@", true),
    ("raw,file.driver=blkdebug@rule,file.image.driver=file,file.image.filename=@", true),
    (
        "copy-on-read,file.driver=raw,file.file.driver=blkdebug@rule,file.file.image.driver=file,file.file.image.filename=@",
        true,
    ),
    ("qcow2,file.driver=blkdebug@rule,file.image.driver=file,file.image.filename=@", false),
];

fn layer(options: &str, rule: &str) -> String {
    let (head, tail) = options.split_once("@rule").unwrap();
    let prefix = head.rsplit(',').next().unwrap().replace("driver=blkdebug", "");
    let prefix = if prefix == "blkdebug" { String::new() } else { prefix };
    let rule: String =
        rule.split(',').map(|one| format!(",{prefix}inject-error.0.{one}")).collect();
    format!("{head}{rule}{tail}")
}

#[test]
fn every_layers_errors_are_what_the_policy_makes_of_them() {
    use block::Verdict::{Ignore, Report, Stop};
    for (write, policy, errno, verdict) in [
        (true, "werror=report", 5, Report),
        (true, "werror=report", 28, Report),
        (true, "werror=ignore", 5, Ignore),
        (true, "werror=stop", 5, Stop),
        (true, "werror=enospc", 5, Report),
        (true, "werror=enospc", 28, Stop),
        (true, "werror=auto", 28, Stop),
        (false, "rerror=report", 5, Report),
        (false, "rerror=ignore", 5, Ignore),
        (false, "rerror=stop", 5, Stop),
        (false, "rerror=auto", 5, Report),
    ] {
        for ((options, plain), kind) in
            LAYERS.into_iter().flat_map(|l| [(l, Kind::Blk), (l, Kind::Scsi)])
        {
            let what = format!("{policy} {errno} {options}");
            let iotype = if write { "write" } else { "read" };
            let rule = format!("event=none,iotype={iotype},errno={errno},once=on");
            // A read of qcow2 that reaches the file needs something that is there.
            if !plain && !write {
                continue;
            }
            let mut m = Machine::of(kind, 0, &layer(options, &rule), policy);
            m.start();
            if kind == Kind::Scsi {
                m.ask(false, 1, 0);
                assert_eq!(m.answer(0), Answer::Sense(6, 0x29, 0));
            }
            let number = m.given;
            m.ask(write, 3, 0x44);
            let told = m.troubles.recv_timeout(Duration::from_secs(60)).unwrap();
            assert_eq!(told.1, verdict, "{what}");
            let sense =
                if errno == 28 { Answer::Sense(7, 0x27, 7) } else { Answer::Sense(11, 0, 6) };
            let wanted = match (verdict, kind) {
                (Report, Kind::Blk) => Answer::Status(1),
                (Report, Kind::Scsi) => sense,
                (Ignore | Stop, _) => Answer::Good,
            };
            if verdict == Stop {
                assert!(m.back().is_none(), "{what}");
                m.graph.retry();
            }
            assert_eq!(m.answer(number), wanted, "{what}");
            // The next one is well, and is there.
            let number = m.given;
            m.write(5, 0x66);
            m.ends(number);
            let disk = m.graph.backend("d0").unwrap();
            let mut back = [0; 512];
            disk.read(5 * 512, &mut back).unwrap();
            assert_eq!(back, [0x66; 512], "{what}");
            disk.read(3 * 512, &mut back).unwrap();
            let there = write && verdict == Stop;
            assert_eq!(back, [if there { 0x44 } else { 0 }; 512], "{what}");
        }
    }
}

/// Counters of operations, merged ones and failed ones, of writes.
fn writes(m: &Machine) -> [u64; 3] {
    let slot: block::Slotted = m.records[0].ability().unwrap();
    let writes = &slot.backend().accounts.write;
    [&writes.operations, &writes.merged, &writes.failed]
        .map(|n| n.load(std::sync::atomic::Ordering::Relaxed))
}

#[test]
fn neighbours_of_one_run_are_one_request() {
    for (props, merged) in [("", 2), ("request-merging=on", 2), ("request-merging=off", 0)] {
        let node = "raw,file.driver=file,file.filename=@";
        let mut m = Machine::of(Kind::Blk, 0, node, props);
        m.start();
        m.quiet = true;
        // Sectors 3 to 5 in another order, and one that is nobody's neighbour.
        for (sector, fill) in [(4, 0x44), (9, 0x99), (3, 0x33), (5, 0x55)] {
            m.write(sector, fill);
        }
        m.kick();
        for _ in 0..4 {
            while m.back().is_none() {
                std::thread::yield_now();
            }
        }
        for number in 0..4 {
            assert_eq!(m.b.get_ram(Machine::buffer(number) + 0x800, 1), [0]);
        }
        assert_eq!([3, 4, 5, 9].map(|n| m.sector(n)), [0x33, 0x44, 0x55, 0x99]);
        m.pause();
        assert_eq!(writes(&m), [4, merged, 0], "{props}");
        // What is read stands where it was asked for.
        m.resume();
        m.ask(false, 5, 0);
        m.kick();
        m.answer(4);
        assert_eq!(m.b.get_ram(Machine::buffer(4) + 0x200, 512), [0x55; 512]);
    }
}

#[test]
fn merged_requests_stop_the_machine_and_are_saved_together() {
    let debug = ",file.inject-error.0.event=none,file.inject-error.0.iotype=write\
        ,file.inject-error.0.sector=3,file.inject-error.0.errno=28,file.inject-error.0.once=on";
    let mut m = Machine::new(Kind::Blk, 0, debug);
    m.start();
    m.quiet = true;
    m.write(3, 0x33);
    m.write(4, 0x44);
    m.kick();
    let stopped = m.troubles.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(stopped.1, block::Verdict::Stop);
    // Nothing else is under way, so this does not wait.
    m.pause();
    assert!(m.back().is_none());
    assert_eq!(writes(&m), [0, 1, 2]);
    let state = m.save();
    let mut other = Machine::new(Kind::Blk, 0, "");
    other.b.put_ram(0, &m.b.get_ram(0, 0x1_0000));
    (other.given, other.taken) = (m.given, m.taken);
    other.load(&state);
    for m in [&mut other, &mut m] {
        m.resume();
        m.graph.retry();
        for _ in 0..2 {
            while m.back().is_none() {
                std::thread::yield_now();
            }
        }
        m.pause();
        assert_eq!([3, 4].map(|n| m.sector(n)), [0x33, 0x44]);
    }
}
