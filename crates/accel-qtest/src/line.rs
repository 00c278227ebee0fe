//! Lines of the protocol.

/// Most bytes that one command may move.
pub(crate) const MAX_DATA: u64 = 16 << 20;

/// A line in words.
pub struct Line<'a>(std::str::SplitAsciiWhitespace<'a>);

impl<'a> Line<'a> {
    /// Splits a line.
    pub fn new(text: &'a str) -> Self {
        Self(text.split_ascii_whitespace())
    }

    /// The next word.
    pub fn word(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    /// The next word as a number: decimal, `0x` hexadecimal or `0` octal.
    pub fn number(&mut self) -> Option<u64> {
        number(self.word()?)
    }

    /// The word at `index` from here as a number.
    pub fn nth_number(mut self, index: usize) -> Option<u64> {
        number(self.0.nth(index)?)
    }

    /// The next word as a length that is not too long.
    pub fn length(&mut self) -> Option<usize> {
        let length = self.number().filter(|length| *length <= MAX_DATA)?;
        usize::try_from(length).ok()
    }
}

fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text.get(1..)?, 8),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    if let Some(positive) = digits.strip_prefix('-') {
        return positive.parse::<u64>().ok().map(u64::wrapping_neg);
    }
    u64::from_str_radix(digits, radix).ok()
}

/// `0x` and two digits per byte.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?.as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    let nibble = |digit: &u8| char::from(*digit).to_digit(16).and_then(|n| u8::try_from(n).ok());
    digits
        .chunks_exact(2)
        .map(|pair| Some(nibble(pair.first()?)? << 4 | nibble(pair.get(1)?)?))
        .collect()
}

/// As [`from_hex`] reads it.
pub(crate) fn to_hex(data: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + data.len() * 2);
    text.push_str("0x");
    for byte in data {
        _ = write!(text, "{byte:02x}");
    }
    text
}
