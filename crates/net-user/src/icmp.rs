//! ICMP echo (RFC 792): the gateway answers itself, others are asked with an unprivileged
//! socket of the host (icmp(7)), where the host allows them. Also says why a packet did not arrive,
//! of both families: what sending says, and what the network says later.

use std::net::{IpAddr, Ipv4Addr};

use crate::out::{Out, Wish, put};
use crate::wire::{self, Fields as _};

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
const EXCEEDED: u8 = 11;

/// A question: identifier, number, and what is to be sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echo<'a> {
    pub(crate) id: u16,
    pub(crate) sequence: u16,
    pub(crate) data: &'a [u8],
}

impl<'a> Echo<'a> {
    /// Reads a question (`request`) or an answer.
    pub(crate) fn parse(message: &'a [u8], request: bool) -> Option<Echo<'a>> {
        Echo::of_kind(message, if request { ECHO } else { ECHO_REPLY })
    }

    /// The same for ICMPv6.
    pub(crate) fn parse6(message: &'a [u8], request: bool) -> Option<Echo<'a>> {
        let kind = if request { crate::icmp6::ECHO } else { crate::icmp6::ECHO_REPLY };
        Echo::of_kind(message, kind)
    }

    /// Whether a message that begins so is a question.
    pub(crate) fn is_question(first: Option<u8>, v6: bool) -> bool {
        first == Some(if v6 { crate::icmp6::ECHO } else { ECHO })
    }

    fn of_kind(message: &'a [u8], kind: u8) -> Option<Echo<'a>> {
        if message.at8(0)? != kind || message.at8(1)? != 0 {
            return None;
        }
        let (id, sequence) = (message.at16(4)?, message.at16(6)?);
        Some(Echo { id, sequence, data: message.get(8..)? })
    }

    /// The question as the host's socket takes it: it fills in identifier and checksum.
    pub(crate) fn question(&self, v6: bool) -> Vec<u8> {
        let kind = if v6 { crate::icmp6::ECHO } else { ECHO };
        let mut message = vec![kind, 0, 0, 0, 0, 0];
        message.extend(self.sequence.to_be_bytes());
        message.extend(self.data);
        message
    }
}

/// Answers a question as `from`.
pub(crate) fn reply(out: &mut Out, (from, to): (Ipv4Addr, IpAddr), echo: &Echo<'_>) {
    let mut header = [ECHO_REPLY, 0, 0, 0, 0, 0, 0, 0];
    put(&mut header, 4, &echo.id.to_be_bytes());
    put(&mut header, 6, &echo.sequence.to_be_bytes());
    let wish = Wish { checksum: Some(2), ..Wish::default() };
    out.packet((from.into(), to), wire::ICMP, &mut header, [echo.data, &[]], wish);
}

/// Why a packet did not arrive: type, code, and the longest packet that would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Why {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) mtu: u32,
}

impl Why {
    fn new(kind: u8, code: u8) -> Why {
        Why { kind, code, mtu: 0 }
    }

    /// No router lets it pass any more (RFC 792; RFC 4443, 3.3).
    pub(crate) fn hops(v6: bool) -> Why {
        Why::new(if v6 { crate::icmp6::EXCEEDED } else { EXCEEDED }, 0)
    }

    /// Sending failed (RFC 792; RFC 4443, 3.1).
    pub(crate) fn of(error: &std::io::Error, v6: bool) -> Why {
        use std::io::ErrorKind as E;
        let code = match (error.kind(), v6) {
            (E::HostUnreachable, false) => 1,
            (E::ConnectionRefused, false) => 3,
            (E::HostUnreachable, true) => 3,
            (E::ConnectionRefused, true) => 4,
            _ => 0,
        };
        Why::new(if v6 { crate::icmp6::UNREACHABLE } else { UNREACHABLE }, code)
    }

    /// What the network says, if a guest is to hear of it.
    pub(crate) fn told(error: &host::DatagramError) -> Option<Why> {
        let known: &[u8] =
            if error.to.is_ipv4() { &[UNREACHABLE, EXCEEDED, 12] } else { &[1, 2, 3, 4] };
        let long = (error.to.is_ipv4() && (error.kind, error.code) == (UNREACHABLE, 4))
            || (error.to.is_ipv6() && error.kind == 2);
        let mtu = if long { error.mtu } else { 0 };
        known.contains(&error.kind).then_some(Why { kind: error.kind, code: error.code, mtu })
    }
}

/// Says why the packet with these first bytes (from its IP header on) did not arrive.
pub(crate) fn failed(out: &mut Out, (from, to): (IpAddr, IpAddr), why: Why, packet: &[u8]) {
    // RFC 1812, 4.3.2.3: as much as fits 576 bytes; RFC 4443, 2.4: 1280 bytes.
    let (protocol, most) = if to.is_ipv4() { (wire::ICMP, 548) } else { (wire::ICMP6, 1232) };
    let mut header = [why.kind, why.code, 0, 0, 0, 0, 0, 0];
    put(&mut header, 4, &why.mtu.to_be_bytes());
    let data = packet.get(..packet.len().min(most)).unwrap_or_default();
    let wish = Wish { checksum: Some(2), ..Wish::default() };
    out.packet((from, to), protocol, &mut header, [data, &[]], wish);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_told_apart() {
        let message = [8, 0, 0, 0, 1, 2, 3, 4, 5];
        let echo = Echo::parse(&message, true).unwrap();
        assert_eq!((echo.id, echo.sequence, echo.data), (0x102, 0x304, &[5][..]));
        assert_eq!(Echo::parse(&message, false), None);
        for n in 0..8 {
            assert_eq!(Echo::parse(&message[..n], true), None);
        }
        assert_eq!(echo.question(false), [8, 0, 0, 0, 0, 0, 3, 4, 5]);
    }
}
