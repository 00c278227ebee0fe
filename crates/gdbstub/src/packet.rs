//! Packets: `$data#checksum` with escapes, acknowledgements, the interrupt byte.
//!
//! Data longer than [`MAX_PACKET`] is dropped with its packet. Source: the gdb manual,
//! "Overview" of the remote protocol.

/// Longest data of a packet, announced in `qSupported`.
pub(crate) const MAX_PACKET: usize = 0x4000;

const ESCAPE: u8 = b'}';
const ESCAPED: u8 = 0x20;
/// What `Ctrl-C` sends.
const INTERRUPT: u8 = 3;

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole packet with a good checksum.
    Packet(Vec<u8>),
    /// A packet with a bad one.
    Damaged,
    /// The debugger did not understand what it was sent.
    Resend,
    /// The debugger wants the guest to stop.
    Interrupt,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Idle,
    Data,
    Escape,
    Sum(Option<u8>),
}

/// Takes the stream apart.
#[derive(Default)]
pub struct Reader {
    state: State,
    data: Vec<u8>,
    sum: u8,
    too_long: bool,
}

impl Reader {
    /// Takes a byte.
    pub fn feed(&mut self, byte: u8) -> Option<Event> {
        match self.state {
            State::Idle => match byte {
                b'$' => {
                    *self = Reader { state: State::Data, ..Reader::default() };
                    None
                }
                INTERRUPT => Some(Event::Interrupt),
                b'-' => Some(Event::Resend),
                _ => None,
            },
            State::Data if byte == b'#' => {
                self.state = State::Sum(None);
                None
            }
            State::Data if byte == b'$' => {
                // The start of the packet before was lost.
                *self = Reader { state: State::Data, ..Reader::default() };
                None
            }
            State::Data if byte == ESCAPE => {
                self.sum = self.sum.wrapping_add(byte);
                self.state = State::Escape;
                None
            }
            State::Data => {
                self.push(byte, byte);
                None
            }
            State::Escape => {
                self.state = State::Data;
                self.push(byte, byte ^ ESCAPED);
                None
            }
            State::Sum(first) => self.sum(first, byte),
        }
    }

    fn push(&mut self, sent: u8, meant: u8) {
        self.sum = self.sum.wrapping_add(sent);
        if self.data.len() < MAX_PACKET {
            self.data.push(meant);
        } else {
            self.too_long = true;
        }
    }

    fn sum(&mut self, first: Option<u8>, byte: u8) -> Option<Event> {
        let digit = char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let Some(digit) = digit else {
            self.state = State::Idle;
            return Some(Event::Damaged);
        };
        let Some(first) = first else {
            self.state = State::Sum(Some(digit));
            return None;
        };
        self.state = State::Idle;
        if first << 4 | digit != self.sum || self.too_long {
            return Some(Event::Damaged);
        }
        Some(Event::Packet(std::mem::take(&mut self.data)))
    }
}

/// A packet around data, escaped as far as needed.
pub(crate) fn frame(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 4);
    out.push(b'$');
    for byte in data {
        if matches!(byte, b'$' | b'#' | b'*' | &ESCAPE) {
            out.extend([ESCAPE, byte ^ ESCAPED]);
        } else {
            out.push(*byte);
        }
    }
    let sum = out.iter().skip(1).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    out.extend(format!("#{sum:02x}").bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(bytes: &[u8]) -> Vec<Event> {
        let mut reader = Reader::default();
        bytes.iter().filter_map(|byte| reader.feed(*byte)).collect()
    }

    #[test]
    fn packets_come_back_from_their_frames() {
        for data in [&b"OK"[..], b"", b"a}b#c$d*e", &[0, 255, 3]] {
            assert_eq!(events(&frame(data)), [Event::Packet(data.to_vec())]);
        }
        assert_eq!(frame(b"OK"), b"$OK#9a");
    }

    #[test]
    fn damage_is_seen_and_ends_with_the_packet() {
        assert_eq!(events(b"$OK#9b$OK#9a"), [Event::Damaged, Event::Packet(b"OK".to_vec())]);
        assert_eq!(events(b"$OK#zz"), [Event::Damaged]);
        assert_eq!(events(b"$gar$OK#9a"), [Event::Packet(b"OK".to_vec())]);
        assert_eq!(events(b"+-\x03x"), [Event::Resend, Event::Interrupt]);
        let long = vec![b'x'; MAX_PACKET + 1];
        assert_eq!(events(&frame(&long)), [Event::Damaged]);
    }

    #[test]
    fn random_bytes_do_no_harm() {
        let mut state = 7_u64;
        let mut reader = Reader::default();
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            _ = reader.feed(b"$#}3abc*"[usize::try_from(state >> 61).unwrap_or(0)]);
        }
        assert!(reader.data.len() <= MAX_PACKET);
    }
}
