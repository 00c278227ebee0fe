//! Numbers and bytes as hexadecimal text, as packets carry them.

/// Bytes as text.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text as bytes; `None` when it is not hexadecimal or odd.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// A number without prefix; `-1` is all ones.
pub(crate) fn number(text: &str) -> Option<u64> {
    if text == "-1" { Some(u64::MAX) } else { u64::from_str_radix(text, 16).ok() }
}

/// Two numbers and what parts them.
pub(crate) fn pair(text: &str, by: char) -> Option<(u64, u64)> {
    let (a, b) = text.split_once(by)?;
    Some((number(a)?, number(b)?))
}
