//! Bytes to tokens.

use super::MAX_BYTES;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// One of `{}[],:`.
    Structure(u8),
    /// A string with its quotes and escapes.
    Str(Vec<u8>),
    /// An integer.
    Int(String),
    /// A number with fraction or exponent.
    Float(String),
    /// A bare word.
    Word(String),
    /// Bytes that are no token; the text says so.
    Error(String),
}

impl Token {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Structure(_) => 1,
            Self::Str(bytes) => bytes.len(),
            Self::Int(text) | Self::Float(text) | Self::Word(text) | Self::Error(text) => {
                text.len()
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Start,
    Str(u8),
    Escape(u8),
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Word,
    Recovery,
}

/// The state machine.
#[derive(Default)]
pub(super) struct Lexer {
    state: State,
    text: Vec<u8>,
}

enum Step {
    /// The byte belongs to the token.
    Take(State),
    /// The token is complete without the byte.
    End,
    /// The token is complete with the byte.
    Last,
    /// No token continues like this.
    Bad,
}

impl Lexer {
    pub(super) fn feed(&mut self, byte: u8, out: &mut dyn FnMut(Token)) {
        if self.state == State::Recovery {
            if !is_structure(byte) && !byte.is_ascii_control() {
                return;
            }
            self.state = State::Start;
        }
        if self.state == State::Start {
            return self.start(byte, out);
        }
        match step(self.state, byte) {
            Step::Take(_) if self.text.len() >= MAX_BYTES => {
                self.text.clear();
                self.state = State::Recovery;
                out(Token::Error("token too long".into()));
            }
            Step::Take(state) => {
                self.state = state;
                self.text.push(byte);
            }
            Step::Last => {
                self.text.push(byte);
                self.emit(out);
            }
            Step::End => {
                self.emit(out);
                self.start(byte, out);
            }
            Step::Bad => self.stray(byte, out),
        }
    }

    pub(super) fn finish(&mut self, out: &mut dyn FnMut(Token)) {
        match self.state {
            State::Start | State::Recovery => {}
            State::Zero | State::Digits | State::Fraction | State::ExponentDigits | State::Word => {
                self.emit(out);
            }
            _ => out(Token::Error("premature EOI".into())),
        }
        self.text.clear();
        self.state = State::Start;
    }

    fn start(&mut self, byte: u8, out: &mut dyn FnMut(Token)) {
        self.text.clear();
        self.state = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => State::Start,
            b'{' | b'}' | b'[' | b']' | b',' | b':' => return out(Token::Structure(byte)),
            b'"' | b'\'' => State::Str(byte),
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b'a'..=b'z' | b'A'..=b'Z' => State::Word,
            _ => return self.stray(byte, out),
        };
        if self.state != State::Start {
            self.text.push(byte);
        }
    }

    fn stray(&mut self, byte: u8, out: &mut dyn FnMut(Token)) {
        self.text.push(byte);
        let text = String::from_utf8_lossy(&self.text);
        out(Token::Error(format!("stray '{text}'")));
        self.text.clear();
        self.state = State::Recovery;
    }

    fn emit(&mut self, out: &mut dyn FnMut(Token)) {
        let bytes = std::mem::take(&mut self.text);
        let state = std::mem::take(&mut self.state);
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        out(match state {
            State::Zero | State::Digits => Token::Int(text()),
            State::Fraction | State::ExponentDigits => Token::Float(text()),
            State::Word => Token::Word(text()),
            _ => Token::Str(bytes),
        });
    }
}

fn is_structure(byte: u8) -> bool {
    matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':')
}

fn step(state: State, byte: u8) -> Step {
    match (state, byte) {
        (State::Str(_) | State::Escape(_), 0..0x20 | 0xc0 | 0xc1 | 0xf5..) => Step::Bad,
        (State::Escape(quote), _) => Step::Take(State::Str(quote)),
        (State::Str(quote), b'\\') => Step::Take(State::Escape(quote)),
        (State::Str(quote), byte) if byte == quote => Step::Last,
        (State::Str(_), _) => Step::Take(state),
        (State::Minus, b'0') => Step::Take(State::Zero),
        (State::Minus, b'1'..=b'9') => Step::Take(State::Digits),
        (State::Zero, b'0'..=b'9') => Step::Bad,
        (State::Digits, b'0'..=b'9') => Step::Take(State::Digits),
        (State::Zero | State::Digits, b'.') => Step::Take(State::Point),
        (State::Point | State::Fraction, b'0'..=b'9') => Step::Take(State::Fraction),
        (State::Zero | State::Digits | State::Fraction, b'e' | b'E') => Step::Take(State::Exponent),
        (State::Exponent, b'+' | b'-') => Step::Take(State::ExponentSign),
        (State::Exponent | State::ExponentSign | State::ExponentDigits, b'0'..=b'9') => {
            Step::Take(State::ExponentDigits)
        }
        (State::Zero | State::Digits | State::Fraction | State::ExponentDigits, _) => Step::End,
        (State::Word, b'a'..=b'z' | b'A'..=b'Z') => Step::Take(State::Word),
        (State::Word, _) => Step::End,
        _ => Step::Bad,
    }
}
