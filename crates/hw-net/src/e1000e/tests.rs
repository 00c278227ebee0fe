//! A driver of our own; frames come back through the loopback of the card.
#![expect(clippy::precedence, reason = "fields of descriptors")]

use testbench::{Bench, PCI_MMIO, PciSlot, RAM_BASE};

use super::*;

const TX_RING: u64 = 0x1000;
const RX_RING: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000;
const DATA: u64 = 0x8000;
const COUNT: u32 = 16;
const ADDRESS: u64 = PCI_MMIO + 0x100_0000;

struct Driver {
    bench: Bench,
    slot: PciSlot,
    sent: u32,
    taken: u32,
}

impl Driver {
    /// Extended descriptors, everything is let through, frames come back.
    fn new() -> Driver {
        let bench = Bench::of(&CLASS, "mac=52:54:00:12:34:56");
        let slot = PciSlot::of(&bench);
        slot.set_config(0x10, 4, 0x100_0000);
        slot.set_config(4, 2, 6);
        let driver = Driver { bench, slot, sent: 0, taken: 0 };
        for (at, base) in [(RX, RAM_BASE + RX_RING), (TX, RAM_BASE + TX_RING)] {
            driver.set(at + BASE_LOW, base as u32);
            driver.set(at + BASE_HIGH, (base >> 32) as u32);
            driver.set(at + LEN, COUNT * 16);
        }
        driver.set(RFCTL, RFCTL_EXSTEN);
        driver.set(RCTL, RCTL_EN | RCTL_UPE | RCTL_LBM | RCTL_SECRC);
        driver.set(TCTL, TCTL_EN);
        for n in 0..u64::from(COUNT) {
            driver.bench.put_ram(RX_RING + n * 16, &(RAM_BASE + BUFFERS + n * 2048).to_le_bytes());
            driver.bench.put_ram(RX_RING + n * 16 + 8, &[0; 8]);
        }
        driver.set(RX + TAIL, COUNT - 1);
        driver
    }

    fn set(&self, at: u32, value: u32) {
        self.bench.write32(ADDRESS + u64::from(at), value);
    }

    fn get(&self, at: u32) -> u32 {
        self.bench.read32(ADDRESS + u64::from(at))
    }

    fn descriptor(&mut self, low: u64, high: u64) {
        let at = TX_RING + u64::from(self.sent % COUNT) * 16;
        self.bench.put_ram(at, &low.to_le_bytes());
        self.bench.put_ram(at + 8, &high.to_le_bytes());
        self.sent += 1;
    }

    fn go(&self) {
        self.set(TX + TAIL, self.sent % COUNT);
    }

    /// The next frame: status, tag, bytes.
    fn frame(&mut self) -> Option<(u32, u16, Vec<u8>)> {
        let n = u64::from(self.taken % COUNT);
        let raw = self.bench.get_ram(RX_RING + n * 16, 16);
        let status = u32::from_le_bytes(raw[8..12].try_into().unwrap());
        if status & 1 == 0 {
            return None;
        }
        let len = usize::from(u16::from_le_bytes([raw[12], raw[13]]));
        self.taken += 1;
        let tag = u16::from_le_bytes([raw[14], raw[15]]);
        Some((status, tag, self.bench.get_ram(BUFFERS + n * 2048, len)))
    }
}

fn tcp(payload: usize) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0];
    // As Linux leaves it for the card: no length, no checksum, half a pseudo header.
    frame.extend([0, 0, 0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 3, 4]);
    frame.extend([0, 0, 0, 100, 0, 0, 0, 0, 0x50, 0x19, 0, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|n| n as u8));
    frame
}

const DATA_TYPE: u64 = 1 << 20;
const COMMAND: u64 = 1 << 24;

#[test]
fn a_long_segment_is_cut_and_comes_back_in_frames() {
    let mut d = Driver::new();
    let frame = tcp(3000);
    d.bench.put_ram(DATA, &frame);
    let context = 14 | 24 << 8 | 33 << 16 | 34u64 << 32 | 50 << 40;
    d.descriptor(context, 3000 | (0x20 | 7) * COMMAND | 54 << 40 | 1400 << 48);
    let data = DATA_TYPE | (0x20 | 4) * COMMAND | 3 << 40;
    d.descriptor(RAM_BASE + DATA, 1000 | data);
    let rest = frame.len() as u64 - 1000;
    d.descriptor(RAM_BASE + DATA + 1000, rest | data | (1 | 8) * COMMAND);
    d.go();
    let mut payload: Vec<u8> = Vec::new();
    for len in [1454, 1454, 254] {
        let (status, _, bytes) = d.frame().unwrap();
        assert_eq!((status & 0x63, bytes.len()), (0x63, len));
        let flow = net::rss::Flow::parse(&bytes).unwrap();
        let sum = net::segment::pseudo_sum(&bytes, &flow);
        assert_eq!(net::frame::fold(net::frame::sum(sum, &bytes[flow.l4_at..])), 0xffff);
        payload.extend(&bytes[54..]);
    }
    assert!(payload == frame[54..] && d.frame().is_none());
    // The last descriptor says that it is done, and both directions have told so.
    assert_eq!(d.bench.get_ram(TX_RING + 2 * 16 + 12, 1), [1]);
    let causes = d.get(ICR);
    assert_eq!(causes & (TXDW | RXT0 | RXQ0 | TXQ0), TXDW | RXT0 | RXQ0 | TXQ0);
    assert_eq!((d.get(STATISTICS + 0x80), d.get(STATISTICS + 0x74)), (1, 3));
    assert_eq!(d.get(STATISTICS + 0x80), 0, "reading clears");
}

#[test]
fn tags_go_in_and_come_out() {
    let mut d = Driver::new();
    d.set(CTRL, d.get(CTRL) | CTRL_VME);
    d.bench.put_ram(DATA, &tcp(20));
    d.descriptor(RAM_BASE + DATA, 74 | DATA_TYPE | (0x20 | 0x40 | 9) * COMMAND | 0x2005 << 48);
    d.go();
    let (status, tag, bytes) = d.frame().unwrap();
    assert_eq!((status & 8, tag, bytes.len()), (8, 0x2005, 74));
    d.set(RCTL, d.get(RCTL) | RCTL_VFE);
    let again = |d: &mut Driver| {
        d.descriptor(RAM_BASE + DATA, 74 | DATA_TYPE | (0x20 | 0x40 | 9) * COMMAND | 5 << 48);
        d.go();
        d.frame().is_some()
    };
    assert!(!again(&mut d));
    d.set(VFTA, 1 << 5);
    assert!(again(&mut d));
}

#[test]
fn only_what_was_asked_for_passes() {
    let mut d = Driver::new();
    d.set(RCTL, RCTL_EN | RCTL_LBM | RCTL_SECRC);
    let passes = |d: &mut Driver, to: Mac| {
        let mut frame = tcp(20);
        frame[..6].copy_from_slice(&to);
        d.bench.put_ram(DATA, &frame);
        d.descriptor(RAM_BASE + DATA, 74 | 9 * COMMAND);
        d.go();
        d.frame().is_some()
    };
    assert!(passes(&mut d, [0x52, 0x54, 0, 0x12, 0x34, 0x56]));
    assert!(!passes(&mut d, [0x52, 0x54, 0, 0x12, 0x34, 0x57]));
    assert!(!passes(&mut d, [0xff; 6]));
    d.set(RCTL, RCTL_EN | RCTL_LBM | RCTL_SECRC | RCTL_BAM);
    assert!(passes(&mut d, [0xff; 6]));
    let group = [1, 0, 0x5e, 0, 0x12, 0x34];
    assert!(!passes(&mut d, group));
    // (0x3412 >> 4) & 0xfff
    d.set(MTA + 0x341 / 32 * 4, 1 << (0x341 % 32));
    assert!(passes(&mut d, group));
    d.set(RAL + 8, 0x3412_5452);
    d.set(RAL + 12, 0x8000_9999);
    assert!(passes(&mut d, [0x52, 0x54, 0x12, 0x34, 0x99, 0x99]));
}

#[test]
fn a_full_ring_takes_nothing_and_a_state_comes_back() {
    let mut d = Driver::new();
    d.set(RX + TAIL, 1);
    d.bench.put_ram(DATA, &tcp(20));
    for _ in 0..3 {
        d.descriptor(RAM_BASE + DATA, 74 | 9 * COMMAND);
    }
    d.go();
    assert!(d.frame().is_some() && d.frame().is_none());
    assert_eq!(d.get(RX + HEAD), 1);
    let state = d.bench.save();
    d.set(CTRL, CTRL_RST);
    assert_eq!((d.get(RX + HEAD), d.get(RCTL)), (0, 0));
    d.bench.load(&state).unwrap();
    assert_eq!((d.get(RX + HEAD), d.get(TX + HEAD)), (1, 3));
    assert!(!d.slot.pin());
    d.set(IMS, TXDW);
    assert!(d.slot.pin(), "the cause was saved, too");
    d.get(ICR);
    assert!(!d.slot.pin());
}

#[test]
fn headers_are_split_off() {
    let mut d = Driver::new();
    d.set(PSRCTL, 2 | 4 << 8);
    d.set(RX + LEN, 8 * 32);
    d.set(RX + TAIL, 7);
    d.set(RCTL, RCTL_EN | RCTL_UPE | RCTL_LBM | RCTL_SECRC | 1 << 10);
    for n in 0..8u64 {
        let mut raw = [0; 32];
        raw[..8].copy_from_slice(&(RAM_BASE + BUFFERS + n * 256).to_le_bytes());
        raw[8..16].copy_from_slice(&(RAM_BASE + BUFFERS + 0x4000 + n * 4096).to_le_bytes());
        d.bench.put_ram(RX_RING + n * 32, &raw);
    }
    d.bench.put_ram(DATA, &tcp(1000));
    d.descriptor(RAM_BASE + DATA, 1054 | DATA_TYPE | (0x20 | 9) * COMMAND);
    d.go();
    let raw = d.bench.get_ram(RX_RING, 32);
    assert_eq!(raw[8] & 3, 3);
    assert_eq!(raw[12..20], [54, 0, 0, 0, 54, 0x80, 0xe8, 3]);
    assert_eq!(d.bench.get_ram(BUFFERS + 0x4000, 1000), tcp(1000)[54..]);
}
