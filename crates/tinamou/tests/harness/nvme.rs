//! A driver for one NVMe controller, by qtest.

use std::time::Duration;

use super::harness::Emulator;

const ECAM: u64 = 0x40_1000_0000;
const BAR: u64 = 0x1000_0000;
const RAM: u64 = 0x4000_0000;

/// A driver for one controller: queues in RAM, one command at a time.
pub(crate) struct Nvme<'a> {
    pub(crate) e: &'a mut Emulator,
    id: u16,
    /// By number: heads, phase.
    queues: [(u64, u64, u32, u32, u16); 2],
}

/// Where tests put data.
pub(crate) const DATA: u64 = RAM + 0x20_0000;

impl Nvme<'_> {
    pub(crate) fn of(e: &mut Emulator) -> Nvme<'_> {
        Nvme::at(e, ECAM + (1 << 15))
    }

    /// The controller whose configuration space is there.
    pub(crate) fn at(e: &mut Emulator, device: u64) -> Nvme<'_> {
        assert_ne!(e.read32(device), u32::MAX);
        e.write(device + 0x10, 32, BAR);
        e.write(device + 0x14, 32, 0);
        e.write(device + 4, 32, 6);
        e.write(BAR + 0x24, 32, 31 << 16 | 31);
        for (at, value) in [(0x28, RAM + 0x10_0000), (0x2c, 0), (0x30, RAM + 0x11_0000), (0x34, 0)]
        {
            e.write(BAR + at, 32, value & 0xffff_ffff);
        }
        e.write(BAR + 0x14, 32, 1 | 6 << 16 | 4 << 20);
        assert_eq!(e.read32(BAR + 0x1c), 1, "ready");
        let queue =
            |n: u64| (RAM + 0x10_0000 + n * 0x2_0000, RAM + 0x11_0000 + n * 0x2_0000, 0, 0, 1);
        Nvme { e, id: 0, queues: [queue(0), queue(1)] }
    }

    /// Rings for a command; words are 10 to 12.
    pub(crate) fn begin(
        &mut self,
        queue: usize,
        opcode: u8,
        nsid: u32,
        (p1, p2): (u64, u64),
        dw: [u32; 3],
    ) {
        self.id += 1;
        let mut c = vec![opcode, 0];
        c.extend(self.id.to_le_bytes());
        c.extend(nsid.to_le_bytes());
        c.extend([0; 16]);
        c.extend(p1.to_le_bytes());
        c.extend(p2.to_le_bytes());
        c.extend(dw.iter().flat_map(|word| word.to_le_bytes()));
        c.resize(64, 0);
        let (sq, cq, tail, head, phase) = self.queues[queue];
        self.e.put(sq + 64 * u64::from(tail), &c);
        let tail = (tail + 1) % 32;
        self.queues[queue] = (sq, cq, tail, head, phase);
        self.e.write(BAR + 0x1000 + 8 * queue as u64, 32, tail.into());
    }

    /// Result, status and number of the next answer, if it is there.
    pub(crate) fn answer(&mut self, queue: usize) -> Option<(u32, u16, u16)> {
        let (sq, cq, tail, head, phase) = self.queues[queue];
        let answer = self.e.bytes(cq + 16 * u64::from(head), 16);
        if u16::from(answer[14] & 1) != phase {
            return None;
        }
        let head = (head + 1) % 32;
        let phase = if head == 0 { phase ^ 1 } else { phase };
        self.queues[queue] = (sq, cq, tail, head, phase);
        self.e.write(BAR + 0x1004 + 8 * queue as u64, 32, head.into());
        let status = u16::from_le_bytes([answer[14], answer[15]]) >> 1;
        let result = u32::from_le_bytes([answer[0], answer[1], answer[2], answer[3]]);
        Some((result, status, u16::from_le_bytes([answer[12], answer[13]])))
    }

    /// Result and status of a command; words are 10 to 12.
    pub(crate) fn run(
        &mut self,
        queue: usize,
        opcode: u8,
        nsid: u32,
        pages: (u64, u64),
        dw: [u32; 3],
    ) -> (u32, u16) {
        self.begin(queue, opcode, nsid, pages, dw);
        let mut tries = 0..4000;
        loop {
            if let Some((result, status, id)) = self.answer(queue) {
                assert_eq!(id, self.id);
                return (result, status);
            }
            assert!(tries.next().is_some(), "no answer to {opcode:#x}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
