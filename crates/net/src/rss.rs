//! The hash that spreads flows over queues (Microsoft's Toeplitz hash, as virtio 1.3 and Intel's
//! cards use it), and what of a frame goes into it.
//!
//! Home addresses and routing headers of IPv6 are not looked at: the `_EX` kinds of hash are those of
//! the packet's own addresses. Source: Virtual I/O Device (VIRTIO) Version 1.3, 5.1.6.4.3.

use crate::frame::Frame;

/// Bytes of the key.
pub const KEY: usize = 40;
/// So much of a frame is looked at.
const HEAD: usize = 160;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The hash of bytes.
#[must_use]
pub fn toeplitz(key: &[u8; KEY], input: impl IntoIterator<Item = u8>) -> u32 {
    let mut hash = 0;
    for (byte, window) in input.into_iter().zip(key.windows(5)) {
        let bits = window.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for bit in 0..8 {
            if byte >> (7 - bit) & 1 != 0 {
                hash ^= u32::try_from(bits >> (8 - bit) & 0xffff_ffff).unwrap_or(0);
            }
        }
    }
    hash
}

/// The ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IPv6 (else IPv4).
    pub v6: bool,
    /// 6 for TCP, 17 for UDP, 0 for others and for pieces of datagrams.
    pub protocol: u8,
    /// An IPv6 packet with extension headers.
    pub extended: bool,
    /// Where the header of IP begins.
    pub ip_at: usize,
    /// Where the header of TCP or UDP begins.
    pub l4_at: usize,
    /// Where the payload begins.
    pub payload_at: usize,
    addresses: [u8; 32],
    ports: [u8; 4],
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

impl Flow {
    /// Looks at the beginning of a frame; `None`: no IP packet.
    #[must_use]
    pub fn of(frame: &Frame<'_>) -> Option<Flow> {
        let mut head = [0; HEAD];
        let n = frame.copy(0, &mut head);
        Flow::parse(head.get(..n)?)
    }

    /// The same for bytes.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Flow> {
        let (mut at, mut kind) = (14, word(head, 12)?);
        while matches!(kind, 0x8100 | 0x88a8) && at < 22 {
            kind = word(head, at + 2)?;
            at += 4;
        }
        let mut flow = Flow {
            v6: kind == 0x86dd,
            protocol: 0,
            extended: false,
            ip_at: at,
            l4_at: 0,
            payload_at: 0,
            addresses: [0; 32],
            ports: [0; 4],
        };
        let ip = head.get(at..)?;
        let (len, addresses) = match kind {
            0x0800 => {
                let first = *ip.first()?;
                let header = usize::from(first & 15) * 4;
                if first >> 4 != 4 || header < 20 {
                    return None;
                }
                // Pieces have no ports (RFC 791).
                if word(ip, 6)? & 0x3fff == 0 {
                    flow.protocol = *ip.get(9)?;
                }
                (header, ip.get(12..20)?)
            }
            0x86dd => {
                let (mut next, mut header) = (*ip.get(6)?, 40);
                for _ in 0..4 {
                    if !matches!(next, 0 | 43 | 60) {
                        break;
                    }
                    flow.extended = true;
                    let [then, words] = ip.get(header..)?.first_chunk()?;
                    next = *then;
                    header += (usize::from(*words) + 1) * 8;
                }
                flow.protocol = next;
                (header, ip.get(8..40)?)
            }
            _ => return None,
        };
        for (to, from) in flow.addresses.iter_mut().zip(addresses) {
            *to = *from;
        }
        flow.l4_at = at + len;
        flow.payload_at = flow.l4_at;
        let l4 = head.get(flow.l4_at..).unwrap_or_default();
        let header = match (flow.protocol, l4.get(12)) {
            (TCP, Some(offset)) if offset >> 4 >= 5 => usize::from(offset >> 4) * 4,
            (UDP, _) if l4.len() >= 8 => 8,
            _ => {
                flow.protocol = 0;
                return Some(flow);
            }
        };
        flow.payload_at += header;
        for (to, from) in flow.ports.iter_mut().zip(l4) {
            *to = *from;
        }
        Some(flow)
    }

    /// The hash of the addresses, and with `ports` of the ports.
    #[must_use]
    pub fn hash(&self, key: &[u8; KEY], ports: bool) -> u32 {
        let len = if self.v6 { 32 } else { 8 };
        let addresses = self.addresses.iter().copied().take(len);
        let ports = self.ports.iter().copied().filter(|_| ports);
        toeplitz(key, addresses.chain(ports))
    }

    /// Whether it is TCP.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// Whether it is UDP.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        self.protocol == UDP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of Microsoft's examples.
    const EXAMPLE: [u8; KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn the_published_examples() {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 66, 9, 149, 187]);
        frame.extend([161, 142, 100, 80]);
        frame.extend(2794u16.to_be_bytes());
        frame.extend(1766u16.to_be_bytes());
        frame.extend([0; 8]);
        frame.extend([0x50, 0, 0, 0, 0, 0, 0, 0]);
        let flow = Flow::parse(&frame).unwrap();
        assert!(flow.is_tcp() && flow.payload_at == 54);
        assert_eq!(flow.hash(&EXAMPLE, true), 0x51cc_c178);
        assert_eq!(flow.hash(&EXAMPLE, false), 0x323e_8fc2);
        // Behind a VLAN tag it is the same flow.
        let mut tagged = frame.clone();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(Flow::parse(&tagged).unwrap().hash(&EXAMPLE, true), 0x51cc_c178);
        // A piece has no ports.
        frame[20] = 0x20;
        assert!(!Flow::parse(&frame).unwrap().is_tcp());
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
        let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        frame.extend(ip("3ffe:2501:200:1fff::7"));
        frame.extend(ip("3ffe:2501:200:3::1"));
        frame.extend(2794u16.to_be_bytes());
        frame.extend(1766u16.to_be_bytes());
        frame.extend([0; 8]);
        frame.extend([0x50, 0, 0, 0, 0, 0, 0, 0]);
        let flow = Flow::parse(&frame).unwrap();
        assert_eq!(flow.hash(&EXAMPLE, true), 0x4020_7d3d);
        assert_eq!(flow.hash(&EXAMPLE, false), 0x2cc1_8cd5);
        for n in 0..frame.len() {
            _ = Flow::parse(&frame[..n]);
        }
    }
}
