//! Numbers and sizes as people write them.

/// A number of bytes; key=value text may use the suffixes B, K, M, G, T, P and E.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Reads a decimal, `0x` hexadecimal or `0` octal integer with an optional sign.
pub fn parse_int(text: &str) -> Option<i128> {
    let trimmed = text.trim_start();
    let (negative, digits) = match trimmed.as_bytes().first()? {
        b'-' => (true, &trimmed[1..]),
        b'+' => (false, &trimmed[1..]),
        _ => (false, trimmed),
    };
    let lower = digits.as_bytes();
    let (radix, digits) = match lower {
        [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
        [b'0', _, ..] => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None; // from_str_radix would take a second sign
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -magnitude } else { magnitude })
}

/// Reads a size; a number without suffix is multiplied by `unit`.
pub fn parse_size(text: &str, unit: u64) -> Option<u64> {
    let text = text.trim_start();
    let last = text.chars().next_back()?;
    let hex = text.starts_with("0x") || text.starts_with("0X");
    let scale = match last.to_ascii_uppercase() {
        'B' if !hex => Some(1),
        'K' => Some(1 << 10),
        'M' => Some(1 << 20),
        'G' => Some(1 << 30),
        'T' => Some(1 << 40),
        'P' => Some(1 << 50),
        'E' if !hex => Some(1 << 60),
        _ => None,
    };
    let (number, scale) = match scale {
        Some(scale) => (&text[..text.len() - 1], scale),
        None => (text, unit),
    };
    if hex {
        return u64::from_str_radix(number.get(2..)?, 16).ok()?.checked_mul(scale);
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let base = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    if fraction.is_empty() {
        return Some(base);
    }
    let share = format!("0.{fraction}").parse::<f64>().ok()?;
    if scale == 1 && share != 0.0 {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "share < 1, so the product is below scale"
    )]
    base.checked_add((share * scale as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_suffix_and_fraction() {
        assert_eq!(parse_size("5", 1), Some(5));
        assert_eq!(parse_size("5", 1 << 20), Some(5 << 20));
        assert_eq!(parse_size("1.5G", 1), Some(3 << 29));
        assert_eq!(parse_size("0x10", 1), Some(16));
        assert_eq!(parse_size("0x10k", 1), Some(16384));
        for bad in ["", "k", "-1", "1.5", "12zz", "16E", "99999999999999999999", "1..5G", "é", "+1"]
        {
            assert_eq!(parse_size(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn integers_in_three_bases() {
        assert_eq!(parse_int("-0x10"), Some(-16));
        assert_eq!(parse_int("010"), Some(8));
        assert_eq!(parse_int("0"), Some(0));
        for bad in ["", "-", "0x", "08", "1a", "--1", "18446744073709551616", "é", "0xé"] {
            assert_eq!(parse_int(bad), None, "{bad}");
        }
    }
}
