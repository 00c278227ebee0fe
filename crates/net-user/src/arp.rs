//! ARP (RFC 826): answers for the hosts that are made up here, and questions for guests.

use std::net::Ipv4Addr;

use crate::out::{mac_of, put};
use crate::wire::{self, ETHERNET, Fields as _};

/// A question or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arp {
    pub(crate) request: bool,
    pub(crate) mac: net::Mac,
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
}

impl Arp {
    pub(crate) fn parse(head: &[u8]) -> Option<Arp> {
        let arp = head.get(ETHERNET..)?;
        // Ethernet, IPv4, 6 and 4 bytes.
        if arp.array(0)? != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let request = match arp.at16(6)? {
            1 => true,
            2 => false,
            _ => return None,
        };
        Some(Arp {
            request,
            mac: arp.array(8)?,
            from: arp.array::<4>(14)?.into(),
            to: arp.array::<4>(24)?.into(),
        })
    }
}

fn message(code: u8, to: net::Mac, sender: Ipv4Addr, (mac, ip): (net::Mac, Ipv4Addr)) -> [u8; 42] {
    let mut frame = [0; 42];
    let own = mac_of(sender.into());
    put(&mut frame, 0, &to);
    put(&mut frame, 6, &own);
    put(&mut frame, 12, &wire::ARP.to_be_bytes());
    put(&mut frame, 14, &[0, 1, 8, 0, 6, 4, 0, code]);
    put(&mut frame, 22, &own);
    put(&mut frame, 28, &sender.octets());
    put(&mut frame, 32, &mac);
    put(&mut frame, 38, &ip.octets());
    frame
}

/// Asks who has `to`.
pub(crate) fn request(from: Ipv4Addr, to: Ipv4Addr) -> [u8; 42] {
    message(1, [0xff; 6], from, ([0; 6], to))
}

/// Answers a question.
pub(crate) fn reply(asked: &Arp) -> [u8; 42] {
    message(2, asked.mac, asked.to, (asked.mac, asked.from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_back_and_short_ones_refused() {
        let frame = request([10, 0, 2, 2].into(), [10, 0, 2, 15].into());
        let arp = Arp::parse(&frame).unwrap();
        assert!(arp.request && arp.to == Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(arp.mac, [0x52, 0x55, 10, 0, 2, 2]);
        for n in 0..42 {
            assert_eq!(Arp::parse(&frame[..n]), None);
        }
        let mut other = frame;
        other[21] = 3;
        assert_eq!(Arp::parse(&other), None);
        let answer = Arp::parse(&reply(&arp)).unwrap();
        assert!(!answer.request && answer.from == arp.to);
    }
}
