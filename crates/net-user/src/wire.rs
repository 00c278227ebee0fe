//! Headers as they are on the wire: Ethernet, ARP, IPv4, IPv6, TCP, UDP.
//!
//! Parsers take untrusted bytes and give `None` for anything that is too short or makes no
//! sense. Checksums of the guest are not looked at: the bytes come through memory.
//! Sources: RFC 894, 826, 791, 8200, 9293, 768.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use net::Mac;

/// Ethernet types.
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;

/// IP protocols.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP6: u8 = 58;
/// The header of a piece of an IPv6 datagram.
pub(crate) const FRAGMENT: u8 = 44;

pub(crate) const ETHERNET: usize = 14;

/// Big-endian fields of a buffer.
pub(crate) trait Fields {
    fn at8(&self, at: usize) -> Option<u8>;
    fn at16(&self, at: usize) -> Option<u16>;
    fn at32(&self, at: usize) -> Option<u32>;
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
}

impl Fields for [u8] {
    fn at8(&self, at: usize) -> Option<u8> {
        self.get(at).copied()
    }
    fn at16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }
    fn at32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ethernet {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) kind: u16,
}

impl Ethernet {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Ethernet> {
        Some(Ethernet { to: bytes.array(0)?, from: bytes.array(6)?, kind: bytes.at16(12)? })
    }
}

/// An IP packet: addresses, protocol, and where its payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    /// Routers that it may pass.
    pub(crate) hops: u8,
    /// Where the payload begins in the frame.
    pub(crate) start: usize,
    /// Bytes of payload.
    pub(crate) len: usize,
    /// Part of a datagram.
    pub(crate) fragment: Option<Fragment>,
}

/// Which part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) id: u32,
    pub(crate) offset: usize,
    pub(crate) more: bool,
}

impl Ip {
    /// Reads the header behind the Ethernet header of a frame of `frame_len` bytes, of which
    /// `head` is the beginning.
    pub(crate) fn parse4(head: &[u8], frame_len: usize) -> Option<Ip> {
        let ip = head.get(ETHERNET..)?;
        let first = ip.at8(0)?;
        let header = usize::from(first & 15) * 4;
        let total = usize::from(ip.at16(2)?);
        let room = frame_len.checked_sub(ETHERNET)?;
        if first >> 4 != 4 || header < 20 || total < header || total > room {
            return None;
        }
        let flags = ip.at16(6)?;
        let (offset, more) = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
        let fragment =
            (offset != 0 || more).then_some(Fragment { id: ip.at16(4)?.into(), offset, more });
        Some(Ip {
            from: Ipv4Addr::from(ip.array::<4>(12)?).into(),
            to: Ipv4Addr::from(ip.array::<4>(16)?).into(),
            protocol: ip.at8(9)?,
            hops: ip.at8(8)?,
            start: ETHERNET + header,
            len: total - header,
            fragment,
        })
    }

    /// As [`Ip::parse4`]; extension headers are skipped.
    pub(crate) fn parse6(head: &[u8], frame_len: usize) -> Option<Ip> {
        let ip = head.get(ETHERNET..)?;
        if ip.at8(0)? >> 4 != 6 {
            return None;
        }
        let mut len = usize::from(ip.at16(4)?);
        let mut start = ETHERNET + 40;
        if start.checked_add(len)? > frame_len {
            return None;
        }
        let mut protocol = ip.at8(6)?;
        // Hop-by-hop, routing and destination options (RFC 8200, 4).
        let (mut limit, mut fragment) = (4, None);
        while matches!(protocol, 0 | 43 | FRAGMENT | 60) && fragment.is_none() {
            let mut size = (usize::from(head.at8(start + 1)?) + 1) * 8;
            if protocol == FRAGMENT {
                // 4.5: offset in units of eight bytes, whether more follow, identification.
                let (word, id) = (head.at16(start + 2)?, head.at32(start + 4)?);
                let (offset, more) = (usize::from(word & !7), word & 1 != 0);
                size = 8;
                fragment = Some(Fragment { id, offset, more });
            }
            protocol = head.at8(start)?;
            len = len.checked_sub(size)?;
            start += size;
            limit -= 1;
            if limit == 0 {
                return None;
            }
        }
        Some(Ip {
            from: Ipv6Addr::from(ip.array::<16>(8)?).into(),
            to: Ipv6Addr::from(ip.array::<16>(24)?).into(),
            protocol,
            hops: ip.at8(7)?,
            start,
            len,
            fragment: fragment.filter(|piece| piece.more || piece.offset > 0),
        })
    }
}

/// TCP flags.
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

/// A TCP segment; its payload is `start..start + len` of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) mss: Option<u16>,
    pub(crate) scale: Option<u8>,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl Segment {
    pub(crate) fn parse(head: &[u8], ip: &Ip) -> Option<Segment> {
        let tcp = head.get(ip.start..)?;
        let header = usize::from(tcp.at8(12)? >> 4) * 4;
        if header < 20 || header > ip.len {
            return None;
        }
        let flags = tcp.at8(13)?;
        let (mut mss, mut scale) = (None, None);
        if flags & SYN != 0 {
            let mut options = tcp.get(20..header)?;
            while let Some(kind) = options.at8(0).filter(|kind| *kind != 0) {
                if kind == 1 {
                    options = options.get(1..)?;
                    continue;
                }
                let len = usize::from(options.at8(1)?);
                match (kind, len) {
                    (2, 4) => mss = options.at16(2),
                    (3, 3) => scale = options.at8(2).map(|s| s.min(14)),
                    _ => {}
                }
                options = options.get(len.max(2)..)?;
            }
        }
        Some(Segment {
            from: SocketAddr::new(ip.from, tcp.at16(0)?),
            to: SocketAddr::new(ip.to, tcp.at16(2)?),
            seq: tcp.at32(4)?,
            ack: tcp.at32(8)?,
            flags,
            window: tcp.at16(14)?,
            mss,
            scale,
            start: ip.start + header,
            len: ip.len - header,
        })
    }
}

/// A UDP datagram; its payload is `start..start + len` of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl Datagram {
    pub(crate) fn parse(head: &[u8], ip: &Ip) -> Option<Datagram> {
        let udp = head.get(ip.start..)?;
        let total = usize::from(udp.at16(4)?);
        if total < 8 || total > ip.len {
            return None;
        }
        Some(Datagram {
            from: SocketAddr::new(ip.from, udp.at16(0)?),
            to: SocketAddr::new(ip.to, udp.at16(2)?),
            start: ip.start + 8,
            len: total - 8,
        })
    }
}

/// The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
pub(crate) fn pseudo_sum(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> u64 {
    let add = |total: u64, ip: IpAddr| match ip {
        IpAddr::V4(ip) => net::frame::sum(total, &ip.octets()),
        IpAddr::V6(ip) => net::frame::sum(total, &ip.octets()),
    };
    add(add(len as u64 + u64::from(protocol), from), to)
}

/// The sum of several pieces as if they were one.
pub(crate) fn sum_parts(parts: &[&[u8]]) -> u64 {
    let mut total = 0u64;
    let mut odd = false;
    for part in parts {
        let sum = net::frame::fold(net::frame::sum(0, part));
        total += u64::from(if odd { sum.swap_bytes() } else { sum });
        odd ^= part.len() % 2 == 1;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_odd_pieces_are_those_of_the_whole() {
        let whole: Vec<u8> = (1..=37).collect();
        let expected = net::frame::fold(net::frame::sum(0, &whole));
        for a in 0..37 {
            for b in a..37 {
                let parts = [&whole[..a], &whole[a..b], &whole[b..]];
                assert_eq!(net::frame::fold(sum_parts(&parts)), expected);
            }
        }
    }

    #[test]
    fn options_of_a_syn_are_read_and_broken_ones_refused() {
        let mut head = vec![0; ETHERNET + 20];
        let tcp = [
            0, 22, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x70, SYN, 2, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4, 1, 3,
            3, 7,
        ];
        head.extend(tcp);
        let ip = Ip {
            from: Ipv4Addr::LOCALHOST.into(),
            to: Ipv4Addr::LOCALHOST.into(),
            protocol: TCP,
            hops: 64,
            start: ETHERNET + 20,
            len: 28,
            fragment: None,
        };
        let segment = Segment::parse(&head, &ip).unwrap();
        assert_eq!((segment.mss, segment.scale, segment.len), (Some(1460), Some(7), 0));
        *head.last_mut().unwrap() = 200;
        assert_eq!(Segment::parse(&head, &ip).unwrap().scale, Some(14));
        let at = head.len() - 7;
        head[at] = 200; // length of the MSS option
        assert!(Segment::parse(&head, &ip).is_none());
        assert!(Segment::parse(&head, &Ip { len: 27, ..ip }).is_none());
    }

    #[test]
    fn short_and_inconsistent_packets_are_refused() {
        let mut frame = vec![0u8; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&40u16.to_be_bytes());
        frame[23] = UDP;
        let ip = Ip::parse4(&frame, 60).unwrap();
        assert_eq!((ip.start, ip.len), (34, 20));
        assert!(Ip::parse4(&frame, 50).is_none());
        for n in 0..34 {
            assert!(Ip::parse4(&frame[..n], n).is_none(), "{n}");
        }
        assert!(Datagram::parse(&frame, &ip).is_none());
        frame[38..40].copy_from_slice(&20u16.to_be_bytes());
        assert_eq!(Datagram::parse(&frame, &ip).unwrap().len, 12);
        frame[38..40].copy_from_slice(&21u16.to_be_bytes());
        assert!(Datagram::parse(&frame, &ip).is_none());
        frame[14] = 0x44;
        assert!(Ip::parse4(&frame, 60).is_none());
    }
}
