//! Small texts: UUIDs.

/// Reads `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let dashes = [8, 13, 18, 23];
    let shape = text.bytes().enumerate().all(|(at, byte)| {
        if dashes.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() }
    });
    if text.len() != 36 || !shape {
        return None;
    }
    let digits = text.replace('-', "");
    let number = u128::from_str_radix(&digits, 16).ok()?;
    Some(number.to_be_bytes())
}

/// Writes a UUID in lower case.
pub fn uuid_text(uuid: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(uuid));
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_round_trip_and_nonsense_is_refused() {
        let text = "550e8400-e29b-41d4-a716-446655440000";
        assert_eq!(parse_uuid(text).map(uuid_text), Some(text.into()));
        for bad in [
            "",
            "zz",
            "550e8400e29b-41d4-a716-446655440000-",
            "é50e8400-e29b-41d4-a716-44665544000",
        ] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
    }
}
