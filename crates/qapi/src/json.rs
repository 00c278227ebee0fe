//! JSON text: a streaming reader and a writer.
//!
//! The reader takes bytes as they come and gives one result per top-level value. It has QEMU's
//! extension (strings in single quotes) and QEMU's limits, and it recovers from errors as the QMP
//! specification promises: a control character brings it back to a known state.

mod lexer;
mod parser;
mod writer;

use lexer::{Lexer, Token};

use crate::{Error, Result, Value};

pub use writer::{to_string, to_string_pretty};

/// Deepest nesting of arrays and objects.
pub const MAX_NESTING: usize = 1024;
/// Largest sum of token bytes in one value.
pub const MAX_BYTES: usize = 64 << 20;
/// Most tokens in one value.
pub const MAX_TOKENS: usize = 2 << 20;

/// Reads a stream of JSON values.
#[derive(Default)]
pub struct Reader {
    lexer: Lexer,
    tokens: Vec<Token>,
    bytes: usize,
    braces: isize,
    brackets: isize,
}

impl Reader {
    /// A reader at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes; calls `out` for every value or error that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut out: impl FnMut(Result<Value>)) {
        for byte in bytes {
            let mut found = Vec::new();
            self.lexer.feed(*byte, &mut |token| found.push(token));
            for token in found {
                self.token(token, &mut out);
            }
        }
    }

    /// Ends the stream; what is incomplete is an error.
    pub fn finish(&mut self, mut out: impl FnMut(Result<Value>)) {
        let mut found = Vec::new();
        self.lexer.finish(&mut |token| found.push(token));
        for token in found {
            self.token(token, &mut out);
        }
        if !self.tokens.is_empty() {
            self.clear();
            out(Err(parse_error("premature EOI")));
        }
    }

    fn clear(&mut self) {
        self.tokens.clear();
        (self.bytes, self.braces, self.brackets) = (0, 0, 0);
    }

    fn token(&mut self, token: Token, out: &mut impl FnMut(Result<Value>)) {
        match &token {
            Token::Structure(b'{') => self.braces += 1,
            Token::Structure(b'}') => self.braces -= 1,
            Token::Structure(b'[') => self.brackets += 1,
            Token::Structure(b']') => self.brackets -= 1,
            Token::Error(text) => {
                self.clear();
                return out(Err(parse_error(text)));
            }
            _ => {}
        }
        self.bytes = self.bytes.saturating_add(token.len());
        let nesting = self.braces.saturating_add(self.brackets);
        let limit = if self.bytes + 1 > MAX_BYTES {
            Some("JSON token size limit exceeded")
        } else if self.tokens.len() + 1 > MAX_TOKENS {
            Some("JSON token count limit exceeded")
        } else if nesting > MAX_NESTING.cast_signed() {
            Some("JSON nesting depth limit exceeded")
        } else {
            None
        };
        if let Some(text) = limit {
            self.clear();
            return out(Err(Error::generic(text)));
        }
        self.tokens.push(token);
        let open = self.braces > 0 || self.brackets > 0;
        if open && self.braces >= 0 && self.brackets >= 0 {
            return;
        }
        let tokens = std::mem::take(&mut self.tokens);
        self.clear();
        out(parser::parse(tokens));
    }
}

fn parse_error(text: &str) -> Error {
    Error::generic(format!("JSON parse error, {text}"))
}

/// Reads one complete value.
pub fn from_str(text: &str) -> Result<Value> {
    let mut results = Vec::new();
    let mut reader = Reader::new();
    reader.feed(text.as_bytes(), |result| results.push(result));
    reader.finish(|result| results.push(result));
    let mut results = results.into_iter();
    match (results.next(), results.next()) {
        (Some(result), None) => result,
        (None, _) => Err(Error::generic("Expecting a JSON value")),
        (Some(Err(error)), _) => Err(error),
        (Some(Ok(_)), Some(_)) => Err(parse_error("more than one value")),
    }
}

#[cfg(test)]
mod tests;
