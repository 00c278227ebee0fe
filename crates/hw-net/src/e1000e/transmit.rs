//! Sending: legacy, context and data descriptors, checksums, segmentation, VLAN tags.
//!
//! Segmentation and checksums go on to the back end when it does them, and are done here when not.
//! Source: 82574 data sheet, 7.2.

use net::frame::{NEEDS_CSUM, fold, sum};
use net::{Bytes, Frame, Offload};

use std::sync::atomic::Ordering;

use super::E1000e;
use super::regs::*;

const DESCRIPTOR: u64 = 16;
/// Descriptors looked at before others get their turn.
const BURST: usize = 1024;
/// Longest packet.
const MAX_PACKET: usize = net::link::MAX_FRAME;

// 7.2.10: the command byte.
const EOP: u8 = 1;
const INSERT_CHECKSUM: u8 = 1 << 2;
const SEGMENT: u8 = 1 << 2;
const REPORT: u8 = 1 << 3;
const EXTENDED: u8 = 1 << 5;
const VLAN: u8 = 1 << 6;
// Options of a data descriptor.
const IP_SUM: u8 = 1;
const L4_SUM: u8 = 2;
/// The descriptor is done.
const DONE: u8 = 1;
const CONTEXT: u64 = 0;

/// A packet that is complete.
struct Packet {
    bytes: Vec<u8>,
    offload: Offload,
}

/// Fills in a checksum: begin, place, end (0: of the packet).
fn fill_in(bytes: &mut [u8], [start, place, end]: [u16; 3]) {
    let (start, place, end) = (usize::from(start), usize::from(place), usize::from(end));
    let end = if end == 0 { bytes.len() } else { (end + 1).min(bytes.len()) };
    let Some(covered) = bytes.get(start..end) else { return };
    let value = !fold(sum(0, covered));
    if let Some(slot) = bytes.get_mut(place..place + 2) {
        slot.copy_from_slice(&value.to_be_bytes());
    }
}

fn legacy_insert(bytes: &mut [u8], start: u8, place: u8) {
    fill_in(bytes, [start.into(), place.into(), 0]);
}

impl TxState {
    /// Takes a context descriptor (7.2.11.1).
    fn context(&mut self, low: u64, high: u64) {
        let byte = |word: u64, at: u32| u16::try_from(word >> at & 0xff).unwrap_or(0);
        let half = |word: u64, at: u32| u16::try_from(word >> at & 0xffff).unwrap_or(0);
        self.ip = [byte(low, 0), byte(low, 8), half(low, 16)];
        self.l4 = [byte(low, 32), byte(low, 40), half(low, 48)];
        self.payload = u32::try_from(high & 0xf_ffff).unwrap_or(0);
        let command = byte(high, 24);
        (self.tcp, self.v4) = (command & 1 != 0, command & 2 != 0);
        self.header = u8::try_from(byte(high, 40)).unwrap_or(0);
        self.mss = half(high, 48);
    }

    /// The packet that was gathered, with what is to be done with it.
    fn finish(&mut self, vlan: Option<[u8; 4]>) -> Packet {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.begun = false;
        let mut offload = Offload::default();
        if self.options & IP_SUM != 0 {
            fill_in(&mut bytes, self.ip);
        }
        let segment = self.command & SEGMENT != 0;
        match net::segment::prepare_if(segment, &mut bytes, self.mss) {
            Some(prepared) => offload = prepared,
            None if self.options & L4_SUM != 0 => {
                let [start, place, _] = self.l4;
                offload.flags = NEEDS_CSUM;
                offload.csum_start = start;
                offload.csum_offset = place.saturating_sub(start);
            }
            None => {}
        }
        if let Some(tag) = vlan.filter(|_| bytes.len() >= 12) {
            bytes.splice(12..12, tag);
            offload.csum_start = offload.csum_start.saturating_add(4);
            if offload.header_len > 0 {
                offload.header_len = offload.header_len.saturating_add(4);
            }
        }
        Packet { bytes, offload }
    }
}

impl E1000e {
    /// Sends what is in a queue; on the link's loop.
    pub(super) fn transmit(&self, queue: u32) {
        let Some(turn) = self.turns.get(queue as usize) else { return };
        let mut sent = false;
        let mut more = true;
        {
            let _turn = turn.lock();
            for _ in 0..BURST {
                let (done, packet) = self.take(queue);
                more = done;
                if let Some(packet) = packet {
                    self.send(packet);
                    sent = true;
                }
                if !more {
                    break;
                }
            }
        }
        if let Some(link) = self.link.as_ref().filter(|_| sent) {
            link.guest_done();
        }
        self.tell();
        if more && let Some(kick) = self.sends.get(queue as usize) {
            kick.kick();
        }
    }

    /// Takes one descriptor; whether there was one, and the packet that it completes.
    fn take(&self, queue: u32) -> (bool, Option<Packet>) {
        let begin = TX + queue * QUEUE_STEP;
        let mut state = self.state.lock();
        let (head, tail) = (state.get(begin + HEAD), state.get(begin + TAIL));
        let count = state.get(begin + LEN) / 16;
        let still = self.paused.load(Ordering::SeqCst);
        if still || !state.is_set(TCTL, TCTL_EN) || head == tail || count == 0 {
            return (false, None);
        }
        if head >= count {
            trace::guest_error!("e1000e: head {head} of {count} descriptors");
            state.set(begin + HEAD, 0);
            return (true, None);
        }
        let base =
            u64::from(state.get(begin + BASE_LOW)) | u64::from(state.get(begin + BASE_HIGH)) << 32;
        let at = base.wrapping_add(u64::from(head) * DESCRIPTOR);
        let mut raw = [0; 16];
        if self.dma.read_bytes(at, &mut raw).is_err() {
            trace::guest_error!("e1000e: no descriptor at {at:#x}");
        }
        let word = u128::from_le_bytes(raw);
        let half = |shift: u32| u64::try_from(word >> shift & u128::from(u64::MAX)).unwrap_or(0);
        let (low, high) = (half(0), half(64));
        let packet = self.descriptor(&mut state, queue, low, high);
        let command = high.to_le_bytes()[3];
        let mut causes = 0;
        if command & REPORT != 0 {
            let [.., status, _, _, _] = high.to_le_bytes();
            _ = self.dma.write_bytes(at + 12, &[status | DONE]);
            causes |= TXDW | TXQ0 << queue;
        }
        let next = if head + 1 >= count { 0 } else { head + 1 };
        state.set(begin + HEAD, next);
        if next == state.get(begin + TAIL) {
            causes |= TXQE;
        }
        state.cause(causes);
        (true, packet)
    }

    fn descriptor(&self, state: &mut State, queue: u32, low: u64, high: u64) -> Option<Packet> {
        let [a, b, c, command, status, options, v1, v2] = high.to_le_bytes();
        let (vet, tags) = (state.get(VET), state.is_set(CTRL, CTRL_VME));
        let tx = state.tx.get_mut(queue as usize)?;
        let extended = command & EXTENDED != 0;
        if extended && high >> 20 & 15 == CONTEXT {
            tx.context(low, high);
            return None;
        }
        let len = if extended { high & 0xf_ffff } else { high & 0xffff };
        if !tx.begun {
            tx.begun = true;
            (tx.options, tx.command) =
                if extended { (options, command) } else { (0, command & !4) };
        }
        let start = tx.bytes.len();
        let len = usize::try_from(len).unwrap_or(0).min(MAX_PACKET.saturating_sub(start));
        tx.bytes.resize(start + len, 0);
        if let Some(place) = tx.bytes.get_mut(start..)
            && self.dma.read_bytes(low, place).is_err()
        {
            trace::guest_error!("e1000e: no memory at {low:#x}");
        }
        if command & EOP == 0 {
            return None;
        }
        if !extended && command & INSERT_CHECKSUM != 0 {
            // 7.2.10.1.2: start and place are where data descriptors have other things.
            legacy_insert(&mut tx.bytes, options, c);
        }
        _ = (a, b, status);
        let [e1, e2, ..] = vet.to_le_bytes();
        let vlan = (tags && command & VLAN != 0).then_some([e2, e1, v2, v1]);
        let packet = tx.finish(vlan);
        self.count_sent(state, packet.bytes.len());
        Some(packet)
    }

    fn count_sent(&self, state: &mut State, len: usize) {
        // Good and total packets and octets, with the checksum of the link.
        state.count(STATISTICS + 0x80, 1);
        state.count(STATISTICS + 0xd4, 1);
        state.count64(STATISTICS + 0x90, len + 4);
        state.count64(STATISTICS + 0xc8, len + 4);
    }

    fn send(&self, packet: Packet) {
        let Packet { mut bytes, offload } = packet;
        let looped = self.state.lock().loops_back();
        if looped {
            for part in net::segment::split(&offload, bytes) {
                _ = self.receive_frame(&Frame::plain(&[&part]));
            }
            return;
        }
        let Some(link) = self.link.as_ref().filter(|link| link.is_up()) else { return };
        bytes.resize(bytes.len().max(60), 0);
        if self.props.disable_vnet_hdr == 0 && link.offloads() {
            link.from_guest(&Frame { offload, bytes: Bytes::Host(&[&bytes]) });
            return;
        }
        for part in net::segment::split(&offload, bytes) {
            link.from_guest(&Frame::plain(&[&part]));
        }
    }
}
