//! Frames for the guest: headers, checksums, fragments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use net::frame::{self, NEEDS_CSUM, gso};
use net::{Bytes, Frame, Link, Mac, Offload, Takes};
use rustc_hash::FxHashMap;

use crate::wire::{self, ETHERNET, pseudo_sum, sum_parts};

/// Longest IP packet on the link.
pub(crate) const MTU: usize = 1500;
/// Most neighbours that are remembered.
pub(crate) const MAX_NEIGHBOURS: usize = 1024;
/// Longest header behind that of IP: a router advertisement.
const MAX_HEADER: usize = 96;

/// What is asked of a packet besides its bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wish {
    /// Where the checksum is in the transport header.
    pub(crate) checksum: Option<usize>,
    /// Payload bytes of each segment, when the packet is longer than the link takes.
    pub(crate) segment: Option<usize>,
    /// The packet may be refused when there is no room; else it waits or is dropped.
    pub(crate) refusable: bool,
}

/// The way to the guest.
pub(crate) struct Out {
    link: Weak<Link>,
    neighbours: FxHashMap<IpAddr, Mac>,
    /// What the guest takes over; looked up once a batch.
    pub(crate) takes: Takes,
    next_id: u16,
    /// A packet was refused.
    pub(crate) stalled: bool,
}

/// The address of a host that is made up here, after its IP address.
pub(crate) fn mac_of(ip: IpAddr) -> Mac {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [0x52, 0x55, a, b, c, d]
        }
        IpAddr::V6(ip) => {
            let [.., b, c, d, e] = ip.octets();
            [0x52, 0x56, b, c, d, e]
        }
    }
}

impl Out {
    pub(crate) fn new(link: &Arc<Link>) -> Out {
        Out {
            link: Arc::downgrade(link),
            neighbours: FxHashMap::default(),
            takes: Takes::default(),
            next_id: 0,
            stalled: false,
        }
    }

    /// A batch begins.
    pub(crate) fn begin(&mut self) {
        if let Some(link) = self.link.upgrade() {
            self.takes = link.takes();
        }
    }

    /// The guest uses an address.
    pub(crate) fn learn(&mut self, ip: IpAddr, mac: Mac) {
        if ip.is_unspecified() || ip.is_multicast() || mac.first().is_none_or(|b| b & 1 != 0) {
            return;
        }
        if self.neighbours.get(&ip) == Some(&mac) {
            return;
        }
        if self.neighbours.len() >= MAX_NEIGHBOURS {
            self.neighbours.clear();
        }
        self.neighbours.insert(ip, mac);
    }

    /// Everybody who is known.
    pub(crate) fn neighbours(&self) -> impl Iterator<Item = (IpAddr, Mac)> {
        self.neighbours.iter().map(|(ip, mac)| (*ip, *mac))
    }

    /// Forgets everybody.
    pub(crate) fn forget(&mut self) {
        self.neighbours.clear();
    }

    /// Where packets for an address go.
    pub(crate) fn mac(&self, ip: IpAddr) -> Option<Mac> {
        match ip {
            IpAddr::V4(Ipv4Addr::BROADCAST) => Some([0xff; 6]),
            IpAddr::V6(v6) if v6.is_multicast() => {
                let [.., a, b, c, d] = v6.octets();
                Some([0x33, 0x33, a, b, c, d])
            }
            _ => self.neighbours.get(&ip).copied(),
        }
    }

    /// Sends a frame as it is.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        if let Some(link) = self.link.upgrade() {
            link.deliver(&Frame::plain(&[bytes]));
        }
    }

    /// Sends an IP packet: the transport's header, then the payload. `false`: no room.
    pub(crate) fn packet(
        &mut self,
        (from, to): (IpAddr, IpAddr),
        protocol: u8,
        header: &mut [u8],
        payload: [&[u8]; 2],
        wish: Wish,
    ) -> bool {
        let Some(mac) = self.mac(to) else {
            self.ask(from, to);
            return true;
        };
        self.packet_to(mac, (from, to), protocol, header, payload, wish)
    }

    /// As [`Out::packet`], to a known station.
    pub(crate) fn packet_to(
        &mut self,
        mac: Mac,
        (from, to): (IpAddr, IpAddr),
        protocol: u8,
        header: &mut [u8],
        payload: [&[u8]; 2],
        wish: Wish,
    ) -> bool {
        let [first, second] = payload;
        let len = header.len() + first.len() + second.len();
        let fits = len + ip_header_len(to) <= MTU || wish.segment.is_some();
        let mut offload = Offload::default();
        if let Some(at) = wish.checksum {
            let pseudo = match protocol {
                wire::ICMP => 0,
                _ => pseudo_sum(from, to, protocol, len),
            };
            let partial =
                self.takes.csum && fits && protocol != wire::ICMP && protocol != wire::ICMP6;
            let value = if partial {
                let start = ETHERNET + ip_header_len(to);
                offload.flags = NEEDS_CSUM;
                offload.csum_start = u16::try_from(start).unwrap_or(0);
                offload.csum_offset = u16::try_from(at).unwrap_or(0);
                frame::fold(pseudo)
            } else {
                put(header, at, &[0, 0]);
                match !frame::fold(pseudo + sum_parts(&[header, first, second])) {
                    0 if protocol == wire::UDP => 0xffff,
                    value => value,
                }
            };
            put(header, at, &value.to_be_bytes());
        }
        if let Some(segment) = wish.segment {
            offload.gso = if to.is_ipv4() { gso::TCPV4 } else { gso::TCPV6 };
            offload.segment = u16::try_from(segment).unwrap_or(u16::MAX);
            let all = ETHERNET + ip_header_len(to) + header.len();
            offload.header_len = u16::try_from(all).unwrap_or(0);
        }
        if !fits {
            return self.fragments(mac, (from, to), protocol, &[header, first, second]);
        }
        self.next_id = self.next_id.wrapping_add(1);
        let mut head = [0; ETHERNET + 40 + MAX_HEADER];
        let Some(n) = ip_head(&mut head, mac, (from, to), protocol, (len, self.next_id, 0)) else {
            return true;
        };
        let Some(place) = head.get_mut(n..n + header.len()) else { return true };
        place.copy_from_slice(header);
        let head = head.get(..n + header.len()).unwrap_or_default();
        let parts: [&[u8]; 3] = [head, first, second];
        self.hand_over(&Frame { offload, bytes: Bytes::Host(&parts) }, wish.refusable)
    }

    fn hand_over(&mut self, frame: &Frame<'_>, refusable: bool) -> bool {
        let Some(link) = self.link.upgrade() else { return true };
        if !refusable {
            link.deliver(frame);
            return true;
        }
        let taken = link.offer(frame);
        self.stalled |= !taken;
        taken
    }

    /// Sends a datagram that is too long in pieces (RFC 791, 3.2; RFC 8200, 4.5).
    fn fragments(
        &mut self,
        mac: Mac,
        (from, to): (IpAddr, IpAddr),
        protocol: u8,
        parts: &[&[u8]],
    ) -> bool {
        let whole = parts.concat();
        if to.is_ipv6() {
            return self.fragments6(mac, (from, to), protocol, &whole);
        }
        self.next_id = self.next_id.wrapping_add(1);
        let size = (MTU - 20) / 8 * 8;
        let count = whole.len().div_ceil(size);
        for (index, piece) in whole.chunks(size).enumerate() {
            let more = if index + 1 < count { 0x2000 } else { 0 };
            let offset = u16::try_from(index * size / 8).unwrap_or(0) | more;
            let mut head = [0; ETHERNET + 40];
            let fields = (piece.len(), self.next_id, offset);
            let Some(n) = ip_head(&mut head, mac, (from, to), protocol, fields) else { break };
            let parts: [&[u8]; 2] = [head.get(..n).unwrap_or_default(), piece];
            self.hand_over(&Frame::plain(&parts), false);
        }
        true
    }

    fn fragments6(
        &mut self,
        mac: Mac,
        (from, to): (IpAddr, IpAddr),
        protocol: u8,
        whole: &[u8],
    ) -> bool {
        const SIZE: usize = (MTU - 40 - 8) / 8 * 8;
        self.next_id = self.next_id.wrapping_add(1);
        let count = whole.len().div_ceil(SIZE);
        for (index, piece) in whole.chunks(SIZE).enumerate() {
            let more = u16::from(index + 1 < count);
            let offset = u16::try_from(index * SIZE).unwrap_or(0) | more;
            let mut header = [protocol, 0, 0, 0, 0, 0, 0, 0];
            put(&mut header, 2, &offset.to_be_bytes());
            put(&mut header, 6, &self.next_id.to_be_bytes());
            let mut head = [0; ETHERNET + 40];
            let fields = (piece.len() + 8, 0, 0);
            let Some(n) = ip_head(&mut head, mac, (from, to), wire::FRAGMENT, fields) else {
                break;
            };
            let parts: [&[u8]; 3] = [head.get(..n).unwrap_or_default(), &header, piece];
            self.hand_over(&Frame::plain(&parts), false);
        }
        true
    }

    /// Asks who has an address.
    fn ask(&mut self, from: IpAddr, to: IpAddr) {
        match (from, to) {
            (IpAddr::V4(_), IpAddr::V4(to)) => {
                let IpAddr::V4(from) = from else { return };
                self.raw(&crate::arp::request(from, to));
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => crate::icmp6::solicit(self, from, to),
            _ => {}
        }
    }

    /// The end of a batch.
    pub(crate) fn done(&self) {
        if let Some(link) = self.link.upgrade() {
            link.backend_done();
        }
    }

    /// Sends a UDP datagram.
    pub(crate) fn datagram(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let Ok(len) = u16::try_from(data.len() + 8) else { return };
        let mut header = [0; 8];
        put(&mut header, 0, &from.port().to_be_bytes());
        put(&mut header, 2, &to.port().to_be_bytes());
        put(&mut header, 4, &len.to_be_bytes());
        let wish = Wish { checksum: Some(6), ..Wish::default() };
        self.packet((from.ip(), to.ip()), wire::UDP, &mut header, [data, &[]], wish);
    }
}

/// Writes bytes at a place, if they fit.
pub(crate) fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = buffer.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

pub(crate) fn ip_header_len(ip: IpAddr) -> usize {
    if ip.is_ipv4() { 20 } else { 40 }
}

/// Writes Ethernet and IP headers; how long they are. `fields`: bytes behind them, identification,
/// fragment word.
fn ip_head(
    head: &mut [u8],
    mac: Mac,
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    (len, id, fragment): (usize, u16, u16),
) -> Option<usize> {
    put(head, 0, &mac);
    put(head, 6, &mac_of(from));
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(len + 20).ok()?;
            put(head, 12, &wire::IPV4.to_be_bytes());
            let ip = head.get_mut(ETHERNET..ETHERNET + 20)?;
            put(ip, 0, &[0x45, 0]);
            put(ip, 2, &total.to_be_bytes());
            put(ip, 4, &id.to_be_bytes());
            put(ip, 6, &fragment.to_be_bytes());
            let hops = if protocol == wire::ICMP { 255 } else { 64 };
            put(ip, 8, &[hops, protocol, 0, 0]);
            put(ip, 12, &from.octets());
            put(ip, 16, &to.octets());
            let sum = !frame::fold(frame::sum(0, ip));
            put(ip, 10, &sum.to_be_bytes());
            Some(ETHERNET + 20)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let total = u16::try_from(len).ok()?;
            put(head, 12, &wire::IPV6.to_be_bytes());
            let ip = head.get_mut(ETHERNET..ETHERNET + 40)?;
            let limit = if is_local(to) || protocol == wire::ICMP6 { 255 } else { 64 };
            put(ip, 0, &[0x60, 0, 0, 0]);
            put(ip, 4, &total.to_be_bytes());
            put(ip, 6, &[protocol, limit]);
            put(ip, 8, &from.octets());
            put(ip, 24, &to.octets());
            Some(ETHERNET + 40)
        }
        _ => None,
    }
}

fn is_local(ip: Ipv6Addr) -> bool {
    ip.is_multicast() || ip.is_unicast_link_local()
}
