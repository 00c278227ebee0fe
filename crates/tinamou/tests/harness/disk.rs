//! Drivers for disks of each kind, by qtest: one request at a time in each queue.

use std::time::Duration;

use super::harness::Emulator;
use super::nvme_driver::{DATA, Nvme};

const RAM: u64 = 0x4000_0000;
/// The ring of virtio; what the machine tells of itself lies at the start of RAM.
const RING: u64 = RAM + 0x80_0000;
/// Where in the area of a queue a request has its head and its answer.
const HEAD: u64 = 0x4000;
const ANSWER: u64 = 0x5000;
/// VIRTIO_BLK_F_MQ.
const MULTI_QUEUE: u64 = 1 << 12;

/// The area of a queue.
pub(crate) fn area(queue: u64) -> u64 {
    RING + queue * 0x1_0000
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Blk,
    Scsi,
    Nvme,
}

/// A driver for a virtio disk behind MMIO, one request at a time in each queue.
pub(crate) struct Virtio<'a> {
    pub(crate) e: &'a mut Emulator,
    /// Where its registers are.
    pub(crate) base: u64,
    /// Requests that were made, by queue.
    counts: [u16; 8],
    /// On PCI: where the doorbells are.
    doorbells: Option<u64>,
}

impl Virtio<'_> {
    /// The first device that there is, with these queues.
    pub(crate) fn of<'a>(e: &'a mut Emulator, queues: &[u64]) -> Virtio<'a> {
        let places = (0..32).map(|n| 0x0a00_0000 + n * 0x200);
        let found: Vec<u64> = places.filter(|at| e.read32(at + 8) != 0).collect();
        let base = *found.first().expect("a device");
        e.write(base + 0x70, 32, 3);
        for (sel, features) in [(0, MULTI_QUEUE), (1, 1)] {
            e.write(base + 0x24, 32, sel);
            e.write(base + 0x20, 32, if queues.len() > 1 || sel == 1 { features } else { 0 });
        }
        e.write(base + 0x70, 32, 11);
        for queue in queues {
            e.write(base + 0x30, 32, *queue);
            e.write(base + 0x38, 32, 16);
            for (register, at) in [(0x80, 0), (0x90, 0x1000), (0xa0, 0x2000)] {
                e.write(base + register, 32, area(*queue) + at);
                e.write(base + register + 4, 32, 0);
            }
            e.write(base + 0x44, 32, 1);
        }
        e.write(base + 0x70, 32, 15);
        Virtio { e, base, counts: [0; 8], doorbells: None }
    }

    /// The device whose configuration space is at `device`, its registers put at `bar`.
    pub(crate) fn on_pci<'a>(
        e: &'a mut Emulator,
        (device, bar): (u64, u64),
        queues: &[u64],
    ) -> Virtio<'a> {
        // Modern registers are behind the fifth address, a part for each kind of them.
        e.write(device + 0x20, 32, bar);
        e.write(device + 0x24, 32, 0);
        e.write(device + 4, 32, 6);
        let status = |e: &mut Emulator, value: u8| {
            e.ask(&format!("writeb {:#x} {value:#x}", bar + 0x14));
        };
        for value in [0, 1, 3] {
            status(e, value);
        }
        for (sel, features) in [(0, 0), (1, 1)] {
            e.write(bar + 8, 32, sel);
            e.write(bar + 0xc, 32, features);
        }
        status(e, 11);
        for queue in queues {
            e.write(bar + 0x16, 16, *queue);
            e.write(bar + 0x18, 16, 16);
            for (register, at) in [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)] {
                e.write(bar + register, 32, area(*queue) + at);
                e.write(bar + register + 4, 32, 0);
            }
            e.write(bar + 0x1c, 16, 1);
        }
        status(e, 15);
        Virtio { e, base: bar, counts: [0; 8], doorbells: Some(bar + 0x3000) }
    }

    /// Rings for a request of these pieces: place, length, and whether the device writes.
    pub(crate) fn begin(&mut self, queue: u64, parts: &[(u64, u32, bool)]) {
        let ring = area(queue);
        for (n, (at, len, writes)) in (0u16..).zip(parts) {
            let more = usize::from(n) + 1 < parts.len();
            let mut d = at.to_le_bytes().to_vec();
            d.extend(len.to_le_bytes());
            d.extend((u16::from(more) | u16::from(*writes) << 1).to_le_bytes());
            d.extend((n + 1).to_le_bytes());
            self.e.put(ring + 16 * u64::from(n), &d);
        }
        let count = &mut self.counts[queue as usize];
        self.e.put(ring + 0x1004 + 2 * u64::from(*count % 16), &[0, 0]);
        *count += 1;
        self.e.put(ring + 0x1002, &count.to_le_bytes());
        match self.doorbells {
            Some(bells) => self.e.write(bells + 4 * queue, 16, queue),
            None => self.e.write(self.base + 0x50, 32, queue),
        }
    }

    pub(crate) fn is_back(&mut self, queue: u64) -> bool {
        self.e.bytes(area(queue) + 0x2002, 2) == self.counts[queue as usize].to_le_bytes()
    }

    /// Rings for blocks of a virtio disk to be moved, to or from these bytes of RAM.
    pub(crate) fn begin_blocks(&mut self, queue: u64, write: bool, sector: u16, data: (u64, u32)) {
        let [high, low] = sector.to_be_bytes();
        let mut head = vec![u8::from(write), 0, 0, 0, 0, 0, 0, 0, low, high];
        head.resize(16, 0);
        let (at, answer) = (area(queue) + HEAD, area(queue) + ANSWER);
        self.e.put(at, &head);
        self.begin(queue, &[(at, 16, false), (data.0, data.1, !write), (answer, 1, true)]);
    }

    /// Rings for a SCSI command; `data`: bytes of RAM and whether the device writes them.
    pub(crate) fn begin_command(&mut self, cdb: &[u8], (len, reads): (u32, bool)) {
        let mut head = vec![1, 0, 0, 0, 0, 0, 0, 0];
        head.resize(19, 0);
        head.extend(cdb);
        head.resize(51, 0);
        let (at, answer) = (area(2) + HEAD, (area(2) + ANSWER, 108, true));
        self.e.put(at, &head);
        let data = (DATA, len, reads);
        let mut parts = if reads { vec![answer, data] } else { vec![data, answer] };
        parts.retain(|part| part.1 > 0);
        parts.insert(0, (at, 51, false));
        self.begin(2, &parts);
    }

    pub(crate) fn said(&mut self, kind: Kind) -> String {
        if kind == Kind::Blk {
            return format!("status {}", self.e.bytes(area(0) + ANSWER, 1)[0]);
        }
        let a = self.e.bytes(area(2) + ANSWER, 108);
        let sense = if a[10] == 2 { (a[14], a[24], a[25]) } else { (0, 0, 0) };
        format!("status {} response {} sense {sense:x?}", a[10], a[11])
    }
}

/// A disk of some kind with its driver.
pub(crate) enum Disk<'a> {
    Virtio(Virtio<'a>, Kind),
    Nvme(Nvme<'a>),
}

impl Disk<'_> {
    pub(crate) fn of(e: &mut Emulator, kind: Kind) -> Disk<'_> {
        let queue: u64 = match kind {
            Kind::Nvme => return Disk::with_queue(Nvme::of(e)),
            Kind::Blk => 0,
            Kind::Scsi => 2,
        };
        Disk::Virtio(Virtio::of(e, &[queue]), kind)
    }

    /// The disk on PCI whose configuration space is at `device`, its registers put at `bar`.
    pub(crate) fn on_pci(e: &mut Emulator, kind: Kind, (device, bar): (u64, u64)) -> Disk<'_> {
        match kind {
            Kind::Nvme => Disk::with_queue(Nvme::at(e, device)),
            Kind::Blk => Disk::Virtio(Virtio::on_pci(e, (device, bar), &[0]), kind),
            Kind::Scsi => Disk::Virtio(Virtio::on_pci(e, (device, bar), &[0, 1, 2]), kind),
        }
    }

    fn with_queue(mut n: Nvme<'_>) -> Disk<'_> {
        for (opcode, at, flags) in [(5, 0x13_0000, 1), (1, 0x12_0000, 1 << 16 | 1)] {
            let made = n.run(0, opcode, 0, (RAM + at, 0), [31 << 16 | 1, flags, 0]);
            assert_eq!(made.1, 0, "a queue");
        }
        Disk::Nvme(n)
    }

    pub(crate) fn e(&mut self) -> &mut Emulator {
        match self {
            Disk::Virtio(v, _) => v.e,
            Disk::Nvme(n) => n.e,
        }
    }

    pub(crate) fn begin(&mut self, write: bool, sector: u16, count: u8) {
        let len = u32::from(count) * 512;
        let [high, low] = sector.to_be_bytes();
        match self {
            Disk::Nvme(n) => {
                let words = [sector.into(), 0, u32::from(count) - 1];
                n.begin(1, if write { 1 } else { 2 }, 1, (DATA, DATA + 4096), words);
            }
            Disk::Virtio(v, Kind::Blk) => v.begin_blocks(0, write, sector, (DATA, len)),
            Disk::Virtio(v, _) => {
                let cdb = [if write { 0x2a } else { 0x28 }, 0, 0, 0, high, low, 0, 0, count];
                v.begin_command(&cdb, (len, !write));
            }
        }
    }

    /// What a request came to, if it is there.
    pub(crate) fn answer(&mut self) -> Option<String> {
        match self {
            Disk::Nvme(n) => n.answer(1).map(|(_, status, _)| format!("status {status:#x}")),
            Disk::Virtio(v, kind) => {
                let queue = if *kind == Kind::Blk { 0 } else { 2 };
                v.is_back(queue).then(|| v.said(*kind))
            }
        }
    }

    /// What came of a request: an answer, or a machine that stands.
    pub(crate) fn outcome(&mut self) -> String {
        for _ in 0..4000 {
            if let Some(answer) = self.answer() {
                return answer;
            }
            let status = self.e().reply("{\"execute\":\"query-status\"}");
            if let Some((_, state)) = status.split_once("\"status\": \"")
                && !state.starts_with("running")
            {
                return format!("stands: {}", state.split('"').next().unwrap_or(""));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no answer");
    }

    pub(crate) fn run(&mut self, write: bool, sector: u16, count: u8) -> String {
        self.begin(write, sector, count);
        self.outcome()
    }

    /// What a SCSI command came to, and what it told.
    pub(crate) fn command(&mut self, cdb: &[u8], told: u32) -> String {
        let Disk::Virtio(v, Kind::Scsi) = self else { panic!("no SCSI here") };
        v.e.put(DATA, &vec![0; told.max(1) as usize]);
        v.begin_command(cdb, (told, true));
        let outcome = self.outcome();
        let bytes = if told == 0 { Vec::new() } else { self.e().bytes(DATA, told as usize) };
        format!("{:x?}: {outcome} {bytes:x?}", cdb)
    }

    /// Events of storage and of the machine since the last time.
    pub(crate) fn events(&mut self) -> Vec<String> {
        self.e().told(&["BLOCK_IO_ERROR", "STOP", "RESUME", "DEVICE_TRAY_MOVED"])
    }
}
