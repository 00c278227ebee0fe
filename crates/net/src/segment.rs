//! Segmentation in software, for receivers that do none: long TCP segments, several datagrams at
//! once, and datagrams that are longer than the link takes.
//!
//! Headers are found in the frame and not taken from what the sender says of them. What makes no
//! sense as such a packet is dropped. Sources: virtio 1.3, 5.1.6.2; RFC 9293, 768, 791.

use crate::frame::{NEEDS_CSUM, Offload, finish_checksum, fold, gso, sum};
use crate::rss::Flow;

/// Longest payload of a link without jumbo frames, for datagrams.
const MTU: usize = 1500;
const TCP: u8 = 6;
const UDP: u8 = 17;
// 9293, 3.1: flags that belong to the last segment, and to the first.
const LAST: u8 = 1 | 8;
const FIRST: u8 = 0x80;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    let word = bytes.get(at..).and_then(|b| b.first_chunk());
    word.map_or(0, |w| u16::from_be_bytes(*w))
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|b| b.first_chunk());
    word.map_or(0, |w| u32::from_be_bytes(*w))
}

fn low16(n: usize) -> [u8; 2] {
    u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes()
}

/// Makes the lengths and the checksum of an IP header right for the packet that follows it.
pub fn finish_ip(packet: &mut [u8], flow: &Flow) {
    let len = packet.len().saturating_sub(flow.ip_at);
    if flow.v6 {
        put(packet, flow.ip_at + 4, &low16(len.saturating_sub(40)));
        return;
    }
    put(packet, flow.ip_at + 2, &low16(len));
    put(packet, flow.ip_at + 10, &[0, 0]);
    let header = packet.get(flow.ip_at..flow.l4_at).unwrap_or_default();
    let value = !fold(sum(0, header));
    put(packet, flow.ip_at + 10, &value.to_be_bytes());
}

/// The sum of the pseudo header of a packet that ends with its payload.
#[must_use]
pub fn pseudo_sum(packet: &[u8], flow: &Flow) -> u64 {
    let addresses = if flow.v6 { 8..40 } else { 12..20 };
    let addresses = flow.ip_at + addresses.start..flow.ip_at + addresses.end;
    let len = packet.len().saturating_sub(flow.l4_at) as u64;
    let protocol = if flow.is_tcp() { TCP } else { UDP };
    sum(len + u64::from(protocol), packet.get(addresses).unwrap_or_default())
}

/// Where the checksum is in the header of TCP or UDP.
fn checksum_at(flow: &Flow) -> usize {
    flow.l4_at + if flow.is_tcp() { 16 } else { 6 }
}

fn finish_l4(packet: &mut [u8], flow: &Flow) {
    let at = checksum_at(flow);
    put(packet, at, &[0, 0]);
    let pseudo = pseudo_sum(packet, flow);
    let value = !fold(sum(pseudo, packet.get(flow.l4_at..).unwrap_or_default()));
    let value = if value == 0 { 0xffff } else { value };
    put(packet, at, &value.to_be_bytes());
}

/// The frames that a frame with work left to do becomes; none when it makes no sense.
#[must_use]
pub fn split(offload: &Offload, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    let mut offload = *offload;
    let size = usize::from(offload.segment);
    match offload.gso & !gso::ECN {
        gso::NONE => {
            finish_checksum(&mut offload, &mut frame);
            vec![frame]
        }
        kind @ (gso::TCPV4 | gso::TCPV6 | gso::UDP_L4 | gso::UDP) => {
            let Some(flow) = Flow::parse(&frame) else { return Vec::new() };
            let fits = match kind {
                gso::TCPV4 => flow.is_tcp() && !flow.v6,
                gso::TCPV6 => flow.is_tcp() && flow.v6,
                _ => flow.is_udp(),
            };
            if !fits || size == 0 || flow.payload_at > frame.len() {
                return Vec::new();
            }
            if kind == gso::UDP {
                finish_l4(&mut frame, &flow);
                return if flow.v6 { Vec::new() } else { fragments(&frame, &flow) };
            }
            segments(&frame, &flow, size)
        }
        _ => Vec::new(),
    }
}

fn segments(frame: &[u8], flow: &Flow, size: usize) -> Vec<Vec<u8>> {
    let (head, payload) = frame.split_at(flow.payload_at);
    let count = payload.len().div_ceil(size);
    let (id, seq) = (get16(head, flow.ip_at + 4), get32(head, flow.l4_at + 4));
    let flags = head.get(flow.l4_at + 13).copied().unwrap_or(0);
    let mut all = Vec::with_capacity(count);
    for (index, part) in payload.chunks(size).enumerate() {
        let mut packet = Vec::with_capacity(head.len() + part.len());
        packet.extend(head);
        packet.extend(part);
        if !flow.v6 {
            let id = id.wrapping_add(u16::try_from(index).unwrap_or(0));
            put(&mut packet, flow.ip_at + 4, &id.to_be_bytes());
        }
        if flow.is_tcp() {
            let skip = u32::try_from(index * size).unwrap_or(0);
            put(&mut packet, flow.l4_at + 4, &seq.wrapping_add(skip).to_be_bytes());
            let mut flags = flags;
            if index + 1 < count {
                flags &= !LAST;
            }
            if index > 0 {
                flags &= !FIRST;
            }
            put(&mut packet, flow.l4_at + 13, &[flags]);
        } else {
            let len = packet.len() - flow.l4_at;
            put(&mut packet, flow.l4_at + 4, &low16(len));
        }
        finish_ip(&mut packet, flow);
        finish_l4(&mut packet, flow);
        all.push(packet);
    }
    all
}

/// A datagram of IPv4 in pieces (RFC 791, 3.2).
fn fragments(frame: &[u8], flow: &Flow) -> Vec<Vec<u8>> {
    let (head, payload) = frame.split_at(flow.l4_at);
    let size = (MTU.saturating_sub(flow.l4_at - flow.ip_at) & !7).max(8);
    let count = payload.len().div_ceil(size);
    let piece = |(index, part): (usize, &[u8])| {
        let mut packet = [head, part].concat();
        let more = if index + 1 < count { 0x2000 } else { 0 };
        let offset = u16::try_from(index * size / 8).unwrap_or(0) | more;
        put(&mut packet, flow.ip_at + 6, &offset.to_be_bytes());
        finish_ip(&mut packet, flow);
        packet
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// What a card with fields of its own for segmentation says in the terms of [`Offload`]: the frame's
/// lengths and pseudo header are made right. `None`: it is no such packet.
#[must_use]
pub fn prepare(frame: &mut [u8], mss: u16) -> Option<Offload> {
    let flow = Flow::parse(frame)?;
    if flow.protocol == 0 || mss == 0 || frame.len() < flow.payload_at {
        return None;
    }
    finish_ip(frame, &flow);
    let at = checksum_at(&flow);
    let pseudo = fold(pseudo_sum(frame, &flow));
    put(frame, at, &pseudo.to_be_bytes());
    if flow.is_udp() {
        let len = frame.len() - flow.l4_at;
        put(frame, flow.l4_at + 4, &low16(len));
    }
    let long = frame.len() - flow.payload_at > usize::from(mss);
    let kind = match (flow.is_tcp(), flow.v6) {
        _ if !long => gso::NONE,
        (true, false) => gso::TCPV4,
        (true, true) => gso::TCPV6,
        (false, _) => gso::UDP_L4,
    };
    Some(Offload {
        flags: NEEDS_CSUM,
        gso: kind,
        header_len: if long { u16::try_from(flow.payload_at).ok()? } else { 0 },
        segment: if long { mss } else { 0 },
        csum_start: u16::try_from(flow.l4_at).ok()?,
        csum_offset: u16::try_from(at - flow.l4_at).ok()?,
    })
}

/// [`prepare`], if it is wished.
#[must_use]
pub fn prepare_if(wished: bool, frame: &mut [u8], mss: u16) -> Option<Offload> {
    if wished { prepare(frame, mss) } else { None }
}

/// Feeds random frames to everything here; for fuzzing.
pub fn fuzz(bytes: &[u8]) {
    let Some((head, frame)) = bytes.split_at_checked(Offload::LEN) else { return };
    let Some(head) = head.first_chunk::<{ Offload::LEN }>() else { return };
    let offload = Offload::from_bytes(*head);
    let whole = frame.len();
    for part in split(&offload, frame.to_vec()) {
        assert!(part.len() <= whole.max(MTU) + 64);
    }
    let mut own = frame.to_vec();
    if let Some(offload) = prepare(&mut own, offload.segment) {
        _ = split(&offload, own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(payload: usize) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(low16(40 + payload));
        frame.extend([0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 3, 4]);
        frame.extend([0, 0, 0, 100, 0, 0, 0, 0, 0x50, 0x19, 0, 0, 0, 0, 0, 0]);
        frame.extend((0..payload).map(|n| n as u8));
        frame
    }

    fn check(packet: &[u8]) -> Flow {
        let flow = Flow::parse(packet).unwrap();
        assert_eq!(fold(sum(0, &packet[flow.ip_at..flow.l4_at])), 0xffff);
        let total = sum(pseudo_sum(packet, &flow), &packet[flow.l4_at..]);
        assert_eq!(fold(total), 0xffff);
        assert_eq!(usize::from(get16(packet, flow.ip_at + 2)), packet.len() - flow.ip_at);
        flow
    }

    #[test]
    fn long_segments_become_short_ones() {
        let mut frame = tcp(3000);
        let offload = prepare(&mut frame, 1400).unwrap();
        assert_eq!((offload.gso, offload.segment, offload.header_len), (gso::TCPV4, 1400, 54));
        let parts = split(&offload, frame);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [1454, 1454, 254]);
        let mut payload: Vec<u8> = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            let flow = check(part);
            assert_eq!(get32(part, flow.l4_at + 4), 100 + 1400 * n as u32);
            assert_eq!(part[flow.l4_at + 13], if n == 2 { 0x19 } else { 0x10 });
            assert_eq!(get16(part, flow.ip_at + 4), 9 + n as u16);
            payload.extend(&part[flow.payload_at..]);
        }
        assert_eq!(payload, tcp(3000)[54..]);
    }

    #[test]
    fn datagrams_are_cut_or_fragmented() {
        let mut frame = tcp(2000);
        frame[23] = UDP;
        let at = 34 + 4;
        frame[at..at + 2].copy_from_slice(&low16(2020));
        let offload = Offload { gso: gso::UDP_L4, segment: 1000, ..Offload::default() };
        let parts = split(&offload, frame.clone());
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [1042, 1042, 54]);
        for part in &parts {
            check(part);
        }
        let offload = Offload { gso: gso::UDP, segment: 1480, ..Offload::default() };
        let parts = split(&offload, frame);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [1514, 574]);
        assert_eq!((get16(&parts[0], 20), get16(&parts[1], 20)), (0x2000, 185));
    }

    #[test]
    fn nonsense_is_dropped() {
        let offload = Offload { gso: gso::TCPV6, segment: 1, ..Offload::default() };
        assert!(split(&offload, tcp(10)).is_empty());
        let offload = Offload { gso: gso::TCPV4, segment: 0, ..Offload::default() };
        assert!(split(&offload, tcp(10)).is_empty());
        let offload = Offload { gso: gso::TCPV4, segment: 5, ..Offload::default() };
        for n in 0..53 {
            assert!(split(&offload, tcp(0)[..n].to_vec()).is_empty(), "{n}");
        }
    }
}
