//! Telnet as a server for one terminal: negotiation and commands (RFC 854, 857, 858, 856).

const IAC: u8 = 255;
const SE: u8 = 240;
const BREAK: u8 = 243;
const SB: u8 = 250;
const WILL: u8 = 251;
const DO: u8 = 253;
const DONT: u8 = 254;
const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;

/// What a server says first: it echoes, and both sides send characters as they are.
pub(crate) const GREETING: &[u8] =
    &[IAC, WILL, ECHO, IAC, WILL, SUPPRESS_GO_AHEAD, IAC, WILL, BINARY, IAC, DO, BINARY];

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Data,
    Command,
    Option,
    Sub,
    SubCommand,
    Return,
}

/// Takes the commands out of the input.
#[derive(Default)]
pub(crate) struct Telnet(State);

impl Telnet {
    /// Leaves the data in `bytes`.
    pub(crate) fn filter(&mut self, bytes: &mut Vec<u8>) {
        bytes.retain(|byte| self.keep(*byte));
    }

    fn keep(&mut self, byte: u8) -> bool {
        let (next, keep) = match (self.0, byte) {
            (State::Data | State::Return, IAC) => (State::Command, false),
            // 5.1 of RFC 854: a carriage return alone is sent as CR NUL.
            (State::Return, 0) => (State::Data, false),
            (State::Data | State::Return, b'\r') => (State::Return, true),
            (State::Data | State::Return, _) => (State::Data, true),
            (State::Command, IAC) => (State::Data, true),
            (State::Command, SB) => (State::Sub, false),
            (State::Command, WILL..=DONT) => (State::Option, false),
            (State::Command | State::Option, _) => (State::Data, false),
            (State::Sub, IAC) => (State::SubCommand, false),
            (State::Sub, _) => (State::Sub, false),
            (State::SubCommand, SE) => (State::Data, false),
            (State::SubCommand, _) => (State::Sub, false),
        };
        self.0 = next;
        keep
    }
}

/// A command that stands for a break condition.
pub(crate) fn is_break(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == [IAC, BREAK])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_out_across_reads() {
        let mut telnet = Telnet::default();
        let mut out = Vec::new();
        for part in [
            &[b'a', IAC][..],
            &[WILL],
            &[ECHO, b'b', IAC, IAC, IAC, SB, 1, IAC],
            &[SE, b'\r', 0, b'c'],
        ] {
            let mut bytes = part.to_vec();
            telnet.filter(&mut bytes);
            out.extend(bytes);
        }
        assert_eq!(out, [b'a', b'b', IAC, b'\r', b'c']);
        assert!(is_break(&[1, IAC, BREAK]) && !is_break(&[BREAK, IAC]));
    }
}
