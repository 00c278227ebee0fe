//! Receiving: filters, descriptors in their three forms, checksums, hashes, VLAN tags.
//!
//! Source: 82574 data sheet, 7.1.

use net::Frame;
use net::frame::NEEDS_CSUM;
use net::rss::{Flow, KEY};

use std::sync::atomic::Ordering;

use super::E1000e;
use super::regs::*;

/// Longest frame without RCTL.LPE, and with it.
const LONGEST: usize = 1522;
const LONGEST_LONG: usize = 16_384;
const CRC: usize = 4;
/// Status bits of a descriptor.
const DONE: u32 = 1;
const LAST: u32 = 1 << 1;
const TAGGED: u32 = 1 << 3;
const UDP_CHECKED: u32 = 1 << 4;
const TCP_CHECKED: u32 = 1 << 5;
const IP_CHECKED: u32 = 1 << 6;
const EXACT: u32 = 1 << 7;
/// The header was put into the first buffer alone.
const SPLIT: u16 = 1 << 15;

/// How descriptors look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Legacy,
    Extended,
    Split,
}

/// What is told of a frame.
struct Told {
    status: u32,
    vlan: u16,
    hash_kind: u8,
    hash: u32,
    told: u32,
    header: usize,
}

impl State {
    fn passes_vlan(&self, head: &[u8]) -> bool {
        if !self.is_set(RCTL, RCTL_VFE) || !self.is_tagged(head) {
            return true;
        }
        let id = match head.get(14..16) {
            Some([high, low]) => u32::from(*high & 15) << 8 | u32::from(*low),
            _ => return false,
        };
        self.get(VFTA + id / 32 * 4) >> (id % 32) & 1 != 0
    }

    fn is_tagged(&self, head: &[u8]) -> bool {
        let [low, high, ..] = self.get(VET).to_le_bytes();
        head.get(12..14) == Some(&[high, low])
    }

    /// Whether a frame is let through (7.1.2): `Some(exact)`.
    pub(super) fn wants(&self, head: &[u8]) -> Option<bool> {
        let to: net::Mac = head.get(..6)?.try_into().ok()?;
        if !self.is_set(RCTL, RCTL_EN) || !self.passes_vlan(head) {
            return None;
        }
        if self.addresses().any(|own| own == to) {
            return Some(true);
        }
        let (bit, inexact) = (to.first()? & 1, Some(false));
        if to == [0xff; 6] && self.is_set(RCTL, RCTL_BAM) {
            return inexact;
        }
        if bit == 0 {
            return if self.is_set(RCTL, RCTL_UPE) { inexact } else { None };
        }
        if self.is_set(RCTL, RCTL_MPE) {
            return inexact;
        }
        // 10.2.5.1: 12 bits of the last two bytes.
        let shift = [4, 3, 2, 0].get((self.get(RCTL) >> 12 & 3) as usize).copied()?;
        let [.., a, b] = to;
        let hash = (u32::from(b) << 8 | u32::from(a)) >> shift & 0xfff;
        let found = self.get(MTA + hash / 32 * 4) >> (hash % 32) & 1 != 0;
        found.then_some(false)
    }

    fn form(&self) -> Form {
        match (self.is_set(RFCTL, RFCTL_EXSTEN), self.get(RCTL) >> 10 & 3) {
            (true, 1) => Form::Split,
            (true, _) => Form::Extended,
            (false, _) => Form::Legacy,
        }
    }

    /// Sizes of a descriptor's buffers.
    fn buffers(&self, form: Form) -> [usize; 4] {
        if form == Form::Split {
            let sizes = self.get(PSRCTL);
            let size = |shift: u32| (sizes >> shift & 0x3f) as usize * 1024;
            return [(sizes & 0x7f) as usize * 128, size(8), size(16), size(24)];
        }
        let shift = self.get(RCTL) >> 16 & 3;
        let size = 2048usize >> shift;
        [if self.is_set(RCTL, RCTL_BSEX) { size * 16 } else { size }, 0, 0, 0]
    }

    fn hash(&self, flow: Option<&Flow>) -> (u8, u32) {
        let (Some(flow), mrqc) = (flow, self.get(MRQC)) else { return (0, 0) };
        if mrqc & 3 == 0 {
            return (0, 0);
        }
        let mut key = [0; KEY];
        for (index, part) in key.chunks_mut(4).enumerate() {
            let word = self.get(RSSRK + 4 * u32::try_from(index).unwrap_or(0));
            part.copy_from_slice(&word.to_le_bytes());
        }
        // MRQC: TCP over IPv4, IPv4, TCP over IPv6, IPv6 with extensions, IPv6.
        let on = |bit: u32| mrqc >> bit & 1 != 0;
        match (flow.v6, flow.is_tcp()) {
            (false, true) if on(16) => (1, flow.hash(&key, true)),
            (false, _) if on(17) => (2, flow.hash(&key, false)),
            (true, true) if on(18) => (3, flow.hash(&key, true)),
            (true, _) if on(20) => (5, flow.hash(&key, false)),
            _ => (0, 0),
        }
    }

    /// The queue of a hash.
    fn queue(&self, (kind, hash): (u8, u32)) -> u32 {
        if kind == 0 {
            return 0;
        }
        let index = hash & 0x7f;
        let [a, b, c, d] = self.get(RETA + index / 4 * 4).to_le_bytes();
        let entry = [a, b, c, d].get((index % 4) as usize).copied().unwrap_or(0);
        u32::from(entry >> 7)
    }

    fn count_received(&mut self, head: &[u8], len: usize) {
        let to = head.get(..6).unwrap_or_default();
        let index = match len {
            0..=64 => 0,
            65..=127 => 1,
            128..=255 => 2,
            256..=511 => 3,
            512..=1023 => 4,
            _ => 5,
        };
        self.count(STATISTICS + 0x5c + 4 * index, 1);
        self.count(STATISTICS + 0x74, 1);
        self.count(STATISTICS + 0xd0, 1);
        self.count64(STATISTICS + 0x88, len);
        self.count64(STATISTICS + 0xc0, len);
        if to == [0xff; 6] {
            self.count(STATISTICS + 0x78, 1);
        } else if to.first().is_some_and(|byte| byte & 1 != 0) {
            self.count(STATISTICS + 0x7c, 1);
        }
    }
}

impl E1000e {
    /// Takes a frame; `false`: no room.
    pub(super) fn receive_frame(&self, frame: &Frame<'_>) -> bool {
        let taken = self.fill(frame);
        self.tell();
        taken
    }

    fn fill(&self, frame: &Frame<'_>) -> bool {
        let mut head = [0; 18];
        let n = frame.copy(0, &mut head);
        let head = head.get(..n).unwrap_or_default();
        let mut state = self.state.lock();
        if self.paused.load(Ordering::SeqCst) {
            return false;
        }
        let len = frame.len();
        let most = if state.is_set(RCTL, RCTL_LPE) { LONGEST_LONG } else { LONGEST };
        let Some(exact) = state.wants(head).filter(|_| len + CRC <= most) else { return true };
        if !state.link_up && !state.loops_back() {
            return true;
        }
        let mut bytes = frame.to_vec(LONGEST_LONG);
        if frame.offload.flags & NEEDS_CSUM != 0 {
            let mut offload = frame.offload;
            net::frame::finish_checksum(&mut offload, &mut bytes);
        }
        let told = Self::look(&state, &mut bytes, exact);
        let queue = state.queue((told.hash_kind, told.hash));
        let whole = bytes.len().max(60);
        bytes.resize(whole, 0);
        if !state.is_set(RCTL, RCTL_SECRC) {
            bytes.extend([0; CRC]);
        }
        if !self.put(&mut state, queue, &bytes, &told) {
            return false;
        }
        state.count_received(head, whole + CRC);
        let low = RX + queue * QUEUE_STEP;
        let left = state.get(low + TAIL).wrapping_sub(state.get(low + HEAD));
        let count = (state.get(low + LEN) / 16).max(1);
        let left = if left > count { left.wrapping_add(count) } else { left };
        // RCTL.RDMTS: half, quarter, eighth of the ring.
        let few = count >> (1 + (state.get(RCTL) >> 8 & 3));
        state.cause(RXT0 | RXQ0 << queue | if left <= few { 1 << 4 } else { 0 });
        true
    }

    /// Takes the tag out and says what there is to say.
    fn look(state: &State, bytes: &mut Vec<u8>, exact: bool) -> Told {
        let flow = Flow::parse(bytes);
        let (hash_kind, hash) = state.hash(flow.as_ref());
        let mut status = DONE | if exact { EXACT } else { 0 };
        let rxcsum = state.get(RXCSUM);
        // The checksums were right on their way: the bytes came through memory.
        if let Some(flow) = &flow {
            if rxcsum & RXCSUM_IP != 0 && !flow.v6 {
                status |= IP_CHECKED;
            }
            if rxcsum & RXCSUM_L4 != 0 {
                status |= match (flow.is_tcp(), flow.is_udp()) {
                    (true, _) => TCP_CHECKED,
                    (_, true) => UDP_CHECKED | TCP_CHECKED,
                    _ => 0,
                };
            }
        }
        let mut header = flow.filter(|flow| flow.protocol != 0).map_or(0, |flow| flow.payload_at);
        let mut vlan = 0;
        if state.is_set(CTRL, CTRL_VME)
            && state.is_tagged(bytes)
            && let Some([high, low]) = bytes.get(14..16)
        {
            vlan = u16::from(*high) << 8 | u16::from(*low);
            bytes.splice(12..16, []);
            header = header.saturating_sub(4);
            status |= TAGGED;
        }
        // The same field has a checksum when that is not switched off; none is computed.
        let told = if rxcsum & RXCSUM_PCSD != 0 { hash } else { 0 };
        Told { status, vlan, hash_kind, hash, told, header }
    }

    /// Puts a frame into descriptors; `false`: there are not enough.
    fn put(&self, state: &mut State, queue: u32, bytes: &[u8], told: &Told) -> bool {
        let form = state.form();
        let size: u64 = if form == Form::Split { 32 } else { 16 };
        let buffers = state.buffers(form);
        let capacity: usize = buffers.iter().sum();
        let begin = RX + queue * QUEUE_STEP;
        let count = state.get(begin + LEN) / u32::try_from(size).unwrap_or(16);
        let (mut head, tail) = (state.get(begin + HEAD), state.get(begin + TAIL));
        if count == 0 || capacity == 0 || head >= count || tail >= count {
            return count == 0 && bytes.is_empty();
        }
        let split = form == Form::Split && told.header > 0 && told.header <= buffers[0];
        let free = if tail >= head { tail - head } else { count - head + tail };
        let room = |n: usize| {
            let first = if split { told.header + capacity - buffers[0] } else { capacity };
            first.saturating_add(capacity.saturating_mul(n.saturating_sub(1)))
        };
        if room(free as usize) < bytes.len() || free == 0 {
            return false;
        }
        let base =
            u64::from(state.get(begin + BASE_LOW)) | u64::from(state.get(begin + BASE_HIGH)) << 32;
        let mut done = 0;
        let mut first = true;
        while done < bytes.len() {
            let at = base.wrapping_add(u64::from(head) * size);
            let mut sizes = buffers;
            if split && first {
                sizes[0] = told.header;
            }
            let lens = self.buffers(at, form, sizes, bytes.get(done..).unwrap_or_default());
            done += lens.iter().sum::<usize>();
            let last = done >= bytes.len();
            self.write_back((at, form), lens, told, (last, split && first), queue);
            head = if head + 1 >= count { 0 } else { head + 1 };
            first = false;
        }
        state.set(begin + HEAD, head);
        true
    }

    /// Fills a descriptor's buffers; how much went into each.
    fn buffers(&self, at: u64, form: Form, sizes: [usize; 4], bytes: &[u8]) -> [usize; 4] {
        let mut raw = [0; 32];
        let wanted = if form == Form::Split { 32 } else { 8 };
        if let Some(raw) = raw.get_mut(..wanted) {
            _ = self.dma.read_bytes(at, raw);
        }
        let (mut lens, mut rest) = ([0; 4], bytes);
        for ((len, size), address) in lens.iter_mut().zip(sizes).zip(raw.as_chunks::<8>().0) {
            let (part, then) = rest.split_at(size.min(rest.len()));
            if !part.is_empty() && self.dma.write_bytes(u64::from_le_bytes(*address), part).is_err()
            {
                trace::guest_error!("e1000e: no memory for a frame");
            }
            (*len, rest) = (part.len(), then);
        }
        lens
    }

    fn write_back(
        &self,
        (at, form): (u64, Form),
        lens: [usize; 4],
        told: &Told,
        (last, split): (bool, bool),
        queue: u32,
    ) {
        let low16 = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes();
        let status = if last { told.status | LAST } else { DONE };
        let vlan = told.vlan.to_le_bytes();
        let [s0, s1, s2, s3] = status.to_le_bytes();
        let [len, rest @ ..] = lens;
        if form == Form::Legacy {
            // 7.1.4: length, checksum, status, errors, tag; the address stays.
            let ([l0, l1], [v0, v1]) = (low16(len), vlan);
            _ = self.dma.write_bytes(at + 8, &[l0, l1, 0, 0, s0, 0, v0, v1]);
            return;
        }
        let queue = u8::try_from(queue).unwrap_or(0);
        let mut out = vec![told.hash_kind, queue, 0, 0];
        out.extend(told.told.to_le_bytes());
        out.extend([s0, s1, s2, s3]);
        out.extend(low16(len));
        out.extend(vlan);
        if form == Form::Split {
            let header = u16::try_from(told.header).unwrap_or(0) & 0x3ff;
            out.extend((if split { header | SPLIT } else { 0 }).to_le_bytes());
            out.extend(rest.iter().flat_map(|len| low16(*len)));
        }
        // The status last: the driver looks at it.
        if let Some((_, behind)) = out.split_at_checked(16) {
            _ = self.dma.write_bytes(at + 16, behind);
        }
        if let (Some(a), Some(b)) = (out.get(..8), out.get(8..16)) {
            _ = self.dma.write_bytes(at, a);
            _ = self.dma.write_bytes(at + 8, b);
        }
    }
}
