//! ICMP echo (RFC 792): the gateway answers itself, others are asked with an unprivileged
//! socket of the host (icmp(7)), where the host allows them. Also says that something cannot
//! be reached.

use std::net::{IpAddr, Ipv4Addr};

use crate::out::{Out, Wish, put};
use crate::wire::{self, Fields as _};

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;

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

/// Says that the packet with these first bytes could not be delivered (RFC 792).
pub(crate) fn unreachable(out: &mut Out, (from, to): (Ipv4Addr, IpAddr), code: u8, packet: &[u8]) {
    let mut header = [UNREACHABLE, code, 0, 0, 0, 0, 0, 0];
    let data = packet.get(..packet.len().min(28)).unwrap_or_default();
    let wish = Wish { checksum: Some(2), ..Wish::default() };
    out.packet((from.into(), to), wire::ICMP, &mut header, [data, &[]], wish);
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
